"""What the tests of generated data share."""

import numpy as np
import pytest


@pytest.fixture
def ignores_the_global_state():
    """Whether a drawing neither depends on NumPy's global random state nor moves it."""
    kept = np.random.get_state()  # noqa: NPY002

    def check(draw):
        drawn, unmoved = [], []
        for seed in (0, 1):
            np.random.seed(seed)  # noqa: NPY002
            before = np.random.get_state()  # noqa: NPY002
            drawn.append(draw())
            after = np.random.get_state()  # noqa: NPY002
            unmoved.append(np.array_equal(before[1], after[1]) and before[2:] == after[2:])
        return all(unmoved) and np.array_equal(*drawn)

    yield check
    np.random.set_state(kept)  # noqa: NPY002
