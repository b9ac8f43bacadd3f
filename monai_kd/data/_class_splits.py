"""Stratified splits by group of images with a class each, the labels that are kept, and their rows."""

from __future__ import annotations

import logging
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.utils import check_random_state

from monai_kd.data._splits import check_fractions
from monai_kd.data.checks import DataError, require_splits

_logger = logging.getLogger(__name__)

Item = dict[str, Any]


class ClassImage(NamedTuple):
    """An image, its class, and a key that it shares with the images that must stay in its part."""

    name: str
    path: Path
    label: int
    group: str


def check_split(fold: int, folds: int, val_fraction: float, labelled_fraction: float, seed: int) -> None:
    """Raise ``ValueError`` for arguments of :func:`class_datalist` out of range."""
    if folds < 2:
        raise ValueError(f"folds must be 2 or more, got {folds}.")
    if fold not in range(folds):
        raise ValueError(f"fold must be one of 0 to {folds - 1} with folds={folds}, got {fold}.")
    if not 0 <= val_fraction < 1 - 1 / folds:
        raise ValueError(
            "val_fraction must be 0 or more and leave images for training, "
            f"got {val_fraction} beside a test fold of 1/{folds}."
        )
    check_fractions(0, 0, labelled_fraction)
    if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer from 0 to 2**32 - 1, got {seed}.")


def class_datalist(
    images: Iterable[ClassImage],
    classes: Sequence[str],
    fold: int,
    folds: int,
    val_fraction: float,
    labelled_fraction: float,
    seed: int,
) -> dict[str, list[Item]]:
    """Training, validation and test items by image name; they do not depend on the order of ``images``.

    A class with fewer groups than folds is named in a logged warning.

    Raises:
        DataError: too few images or groups for the folds.
    """
    images = sorted(images)
    labels = np.array([image.label for image in images], dtype=int)
    groups = [image.group for image in images]
    counts = np.bincount(labels, minlength=len(classes))
    if counts.max(initial=0) < folds or len(set(groups)) < folds:
        raise DataError(
            f"{len(images)} images in {len(set(groups))} groups, at most {counts.max(initial=0)} of a class, "
            f"are too few for {folds} folds; give more images or lower folds."
        )
    _warn_of_small_classes(images, classes, folds)

    test = stratified_group_folds(labels, groups, folds, seed) == fold
    return items_around(test, images, classes, val_fraction, labelled_fraction, seed)


def items_around(
    test: np.ndarray,
    images: Sequence[ClassImage],
    classes: Sequence[str],
    val_fraction: float,
    labelled_fraction: float,
    seed: int,
) -> dict[str, list[Item]]:
    """Training, validation and test items, in the order of ``images``, for a given test part, boolean of shape (N,).

    Raises:
        DataError: nothing is left for training, or for the test.
    """
    labels = np.array([image.label for image in images], dtype=int)
    validation = np.zeros_like(test)
    if val_fraction > 0:
        rest = np.flatnonzero(~test)
        counts = np.bincount(labels, minlength=len(classes))
        wanted = [round(val_fraction * count) for count in counts.tolist()]
        validation[rest] = split_off_groups(labels[rest], [images[index].group for index in rest], wanted, seed)
    parts = {"training": ~test & ~validation, "validation": validation, "test": test}
    items: dict[str, list[Item]] = {
        name: [{"image": str(images[index].path), "label": images[index].label} for index in np.flatnonzero(part)]
        for name, part in parts.items()
    }
    require_splits(items, "training", "test")
    keep_class_labels(items["training"], labelled_fraction, seed)
    number_labelled(items)
    return items


def stratified_group_folds(labels: np.ndarray, groups: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """The fold of each image, shape (N,): no group is in two, and the classes are spread evenly.

    These are the folds of ``StratifiedGroupKFold(folds, shuffle=True, random_state=seed)`` in scikit-learn 1.8.
    Before, its shuffled folds were not stratified, so the groups are shuffled here.
    """
    names, group = np.unique(groups, return_inverse=True)
    group = np.argsort(check_random_state(seed).permutation(len(names)))[group]
    found = np.empty(len(labels), dtype=int)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        for fold, (_, test) in enumerate(StratifiedGroupKFold(folds).split(labels, labels, group)):
            found[test] = fold
    return found


def split_off_groups(labels: np.ndarray, groups: Sequence[str], wanted: Sequence[int], seed: int) -> np.ndarray:
    """Which images make up about ``wanted[c]`` of each class c, boolean of shape (N,).

    Whole groups, with their most frequent class: as many as fit, at least one of each class that has two, and never
    the last one. Folds would be no such share: a tenth of all is 1/8 of the rest, but a fifth of all 1/4.
    """
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    counts = np.zeros((len(names), len(wanted)), dtype=int)
    np.add.at(counts, (group, labels), 1)
    main = counts.argmax(axis=1)
    taken = np.zeros(len(names), dtype=bool)
    for label, left in enumerate(wanted):
        candidates = np.random.default_rng([seed, 2, label]).permutation(np.flatnonzero(main == label))[:-1]
        for candidate in candidates:
            if sizes[candidate] <= left:
                taken[candidate] = True
                left -= sizes[candidate]
        if len(candidates) and not taken[candidates].any():
            taken[candidates[sizes[candidates].argmin()]] = True
    return taken[group]


def keep_class_labels(items: Sequence[Item], labelled_fraction: float, seed: int) -> None:
    """Drop ``"label"`` from all but a share of each class, at least one item; subsets of one seed are nested."""
    members = defaultdict(list)
    for item in items:
        members[item["label"]].append(item)
    for label, labelled in members.items():
        keep = max(1, round(labelled_fraction * len(labelled)))
        for index in np.random.default_rng([seed, 1, label]).permutation(len(labelled))[keep:]:
            del labelled[index]["label"]


def number_labelled(parts: Mapping[str, Sequence[Item]]) -> None:
    """Give the labelled training items the ``"index"`` 0, 1, ..., all others -1."""
    for item in (item for items in parts.values() for item in items):
        item["index"] = -1
    for index, item in enumerate(item for item in parts["training"] if "label" in item):
        item["index"] = index


def _warn_of_small_classes(images: Iterable[ClassImage], classes: Sequence[str], folds: int) -> None:
    groups: list[set[str]] = [set() for _ in classes]
    for image in images:
        groups[image.label].add(image.group)
    if few := [f"{name} {len(found)}" for name, found in zip(classes, groups) if len(found) < folds]:
        _logger.warning(
            f"classes with fewer groups than the {folds} folds: {', '.join(few)}; some parts have no image of them."
        )
