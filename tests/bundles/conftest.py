"""Numbers of one process and of several are the same."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums in the order of the processes that the tests start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
