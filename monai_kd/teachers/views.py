"""Whether a data set gives the same images each time it is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monai.transforms.compose import Compose, OneOf, RandomOrder, SomeOf
from monai.transforms.traits import RandomizableTrait

__all__ = ["refuse_random_views"]

_SPATIAL = ("monai.transforms.spatial.", "monai.transforms.croppad.")


def refuse_random_views(dataset: Any, key: str) -> None:
    """Raise ``ValueError`` where a data set's random transforms would not let an answer to an image serve again.

    That is one that draws for ``key`` itself, and one in space of any key: the images of an item would lie elsewhere
    than what was answered. Random intensities of other keys are let through. A data set without ``transform``, and a
    function of one's own that draws, cannot be seen through.

    Args:
        dataset: with ``transform``, or made of such (``Subset``, ``ConcatDataset``). One with ``repeats``, as
            ``monai_kd.data.ReplayedDataset``, is let through.
        key: of the images that are answered to.

    Raises:
        ValueError: the transforms are named.

    Example:
        >>> from monai.data import Dataset
        >>> from monai.transforms import RandFlipd, RandShiftIntensityd
        >>> jitter, flip = RandShiftIntensityd("image", offsets=0.1), RandFlipd(["image", "label"])
        >>> refuse_random_views(Dataset([], Compose([jitter])), "teacher_image")
        >>> refuse_random_views(Dataset([], Compose([flip])), "teacher_image")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: RandFlipd (of image, label) gives other images each time, to which no stored answer fits. ...
    """
    if bad := [_name(one) for one in _random(dataset) if _matters(one, key)]:
        raise ValueError(
            f"{', '.join(dict.fromkeys(bad))} gives other images each time, to which no stored answer fits. Leave it "
            "out, or let it repeat: monai_kd.data.ReplayedDataset. What only changes intensities may stay if the "
            "teacher sees a copy made before it (CopyItemsd, input_key)."
        )


def _random(dataset: Any) -> Iterator[Any]:
    """The random transforms of a data set, and of those it is made of."""
    if getattr(dataset, "repeats", False):
        return
    for part in [getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or ())]:
        if part is not None:
            yield from _random(part)
    transform = getattr(dataset, "transform", None)
    if transform is not None:
        yield from _random_transforms(transform)


def _random_transforms(transform: Any) -> Iterator[Any]:
    if isinstance(transform, Compose) and not isinstance(transform, OneOf | SomeOf | RandomOrder):
        for one in transform.transforms:
            yield from _random_transforms(one)
    elif isinstance(transform, RandomizableTrait):
        yield transform


def _matters(transform: Any, key: str) -> bool:
    keys = getattr(transform, "keys", None)
    return keys is None or key in keys or type(transform).__module__.startswith(_SPATIAL)


def _name(transform: Any) -> str:
    keys = getattr(transform, "keys", None)
    return type(transform).__name__ + (f" (of {', '.join(map(str, keys))})" if keys is not None else "")
