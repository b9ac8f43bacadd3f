"""Random transforms whose draws come again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.transforms.transform import Randomizable
from torch.utils.data import Dataset

__all__ = ["ReplayedDataset"]


class ReplayedDataset(Dataset):  # type: ignore[type-arg]
    """A data set of which each item has ``views`` random views, the same whenever they are read.

    View v of item i is drawn from a seed of its own, so crops, flips and intensities repeat to the last bit, in any
    order and by any worker process. It is ``views`` times as long as its data set: let the loader shuffle.

    Args:
        dataset: MONAI's, with ``transform``; its random transforms draw as MONAI's do (``Randomizable``), not from
            global generators.
        views: of each item.
        seed: of all draws.

    Raises:
        TypeError: a data set whose transforms cannot be seeded.
        ValueError: fewer than one view.

    Example:
        >>> from monai.data import Dataset
        >>> from monai.transforms import Compose, RandShiftIntensity
        >>> views = ReplayedDataset(Dataset([torch.zeros(1, 2)], Compose([RandShiftIntensity(1.0, prob=1.0)])), views=3)
        >>> len(views), torch.equal(views[1], views[1]), torch.equal(views[1], views[2])
        (3, True, False)
    """

    repeats = True
    """What is kept for a view, such as a teacher's answer, serves each time it comes."""

    def __init__(self, dataset: Any, views: int, seed: int = 0) -> None:
        transform = getattr(dataset, "transform", None)
        if not isinstance(transform, Randomizable):
            raise TypeError(
                f"expected a data set with random transforms of MONAI's, got a {type(dataset).__name__} with "
                f"{type(transform).__name__}."
            )
        if views < 1:
            raise ValueError(f"views must be 1 or more, got {views}.")
        self.dataset = dataset
        self.views = views
        self.seed = seed

    @property
    def data(self) -> Sequence[Any]:
        """The items, as the data set has them."""
        found: Sequence[Any] = self.dataset.data
        return found

    def __len__(self) -> int:
        return len(self.dataset) * self.views

    def __getitem__(self, index: int) -> Any:
        """View ``index // items`` of item ``index % items``."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        seed = int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])
        self.dataset.transform.set_random_state(seed=seed)
        return self.dataset[index % len(self.dataset)]
