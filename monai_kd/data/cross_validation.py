"""Folds of a data list: several networks, each validated on cases that it did not train on, and one test part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.data.utils import partition_dataset, select_cross_validation_folds

__all__ = ["cross_validation_fold"]

_POOLED = ("training", "validation")


def cross_validation_fold(
    datalist: Mapping[str, Sequence[Mapping[str, Any]]], fold: int, folds: int = 5, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """One fold of a cross-validation, as a MONAI data list.

    The labelled items of "training" and "validation" are pooled and divided in ``folds`` parts that differ by one item
    at most: part ``fold`` is for validation, the others train. Items without ``"label"`` train in every fold. "test",
    and whatever else the data list has, stays as it is, so the networks of all folds are compared on the same cases.

    The parts depend on ``seed`` and the images' paths, never on the order of the items. Items are divided one by one:
    where several show one patient, divide a data list of patients first.

    Args:
        datalist: such as ``kits_datalist(root)``; "validation" may be empty or missing.
        fold: 0 to ``folds - 1``.
        folds: how many parts.
        seed: of the division; the same for all folds.

    Returns:
        ``{"training": items, "validation": items, ...}``, copies of the items sorted by the image's path, those without
        label last.

    Raises:
        ValueError: fewer than two folds, a fold that does not exist, or fewer labelled items than folds.

    Example:
        >>> pairs = [{"image": f"{name}.nii.gz", "label": f"{name}_seg.nii.gz"} for name in "abcde"]
        >>> datalist = {"training": [*pairs[:3], {"image": "x.nii.gz"}], "validation": pairs[3:4], "test": pairs[4:]}
        >>> data = cross_validation_fold(datalist, fold=1, folds=2)
        >>> {part: [item["image"] for item in items] for part, items in data.items()}
        {'training': ['b.nii.gz', 'c.nii.gz', 'x.nii.gz'], 'validation': ['a.nii.gz', 'd.nii.gz'], 'test': ['e.nii.gz']}
    """
    if folds < 2:
        raise ValueError(f"a cross-validation needs two folds or more, got folds={folds!r}.")
    if fold not in range(folds):
        raise ValueError(f"fold must be 0 to {folds - 1} of {folds} folds, got {fold!r}.")
    pool = _by_image([item for name in _POOLED for item in datalist.get(name, ())])
    labelled = [item for item in pool if "label" in item]
    if len(labelled) < folds:
        raise ValueError(
            f"{len(labelled)} labelled items in 'training' and 'validation' are too few for {folds} folds; "
            "give more labels or fewer folds."
        )
    parts = partition_dataset(labelled, num_partitions=folds, shuffle=True, seed=seed)
    others = select_cross_validation_folds(parts, [index for index in range(folds) if index != fold])
    unlabelled = [item for item in pool if "label" not in item]
    kept = {name: [dict(item) for item in items] for name, items in datalist.items() if name not in _POOLED}
    return {"training": _by_image(others) + unlabelled, "validation": _by_image(parts[fold]), **kept}


def _by_image(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies in an order of their own; an image may be a list of files."""
    return sorted((dict(item) for item in items), key=lambda item: str(item["image"]))
