"""Data lists of the endoscopy set KVASIR-V2 in its published layout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai_kd.data._class_folders import read_class_folders
from monai_kd.data._class_splits import check_split, class_datalist

__all__ = ["KVASIR_V2_CLASSES", "kvasir_v2_datalist"]

KVASIR_V2_CLASSES = (
    "dyed-lifted-polyps",
    "dyed-resection-margins",
    "esophagitis",
    "normal-cecum",
    "normal-pylorus",
    "normal-z-line",
    "polyps",
    "ulcerative-colitis",
)
"""The findings and landmarks, in the order of their labels."""


def kvasir_v2_datalist(
    root: str | os.PathLike[str],
    fold: int = 0,
    folds: int = 5,
    val_fraction: float = 0.1,
    labelled_fraction: float = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, list[dict[str, Any]]]:
    """Training, validation and test items of one fold of KVASIR-V2, as a MONAI data list.

    The 8,000 frames come without split and without patients. Near duplicates stay in one part: the groups of
    ``groups.csv`` in ``root``, if it is there (columns ``image``, a path below ``root``, and ``near_duplicate_group``),
    else those of :func:`near_duplicate_groups`, for which all images are read. Other views of a patient can still be
    in two parts. Most of these frames are in Hyper-KVASIR too: never train on one and test on the other.

    The test parts of ``fold=0`` to ``fold=folds - 1`` share no image and hold all. All parts are stratified by class.
    Parts depend on the images and on ``seed``, never on the order of the files, and not on ``labelled_fraction``.

    Args:
        root: folder with a folder of ``.jpg`` files for each of :data:`KVASIR_V2_CLASSES`.
        fold: which fold is the test part, from 0.
        folds: number of folds.
        val_fraction: share of all images for validation, 0 for none; about that share of each class, at least one
            group of each class that has two outside of the test part.
        labelled_fraction: share of the training images of each class that keep ``"label"``, at least one. Subsets of
            one seed are nested.
        seed: of the splits and of the labelled subset.
        progress: show a progress bar while near duplicates are looked for.

    Returns:
        ``{"training": items, "validation": items, "test": items}``, sorted by path, each item
        ``{"image": path, "label": int, "index": int}``. ``label`` is the position in :data:`KVASIR_V2_CLASSES`.
        ``index`` numbers the n labelled training items, 0 to n - 1: the row of an item in a memory bank. All other
        items have -1; unlabelled training items have no ``"label"``.

    Raises:
        FileNotFoundError: there is no such folder, or no folder of a class in it.
        DataError: all that does not fit: folders that are missing or empty, images that cannot be read, and what does
            not fit between the images and ``groups.csv``; or too few images for the folds.
        ValueError: ``fold``, ``folds``, ``seed`` or a fraction out of range.

    Example:
        >>> import tempfile
        >>> from monai_kd.data import make_endoscopy_images
        >>> root = make_endoscopy_images(tempfile.mkdtemp() + "/frames", count=40, size=32)
        >>> data = kvasir_v2_datalist(root, folds=2)
        >>> sum(len(items) for items in data.values())
        40
    """
    check_split(fold, folds, val_fraction, labelled_fraction, seed)
    images = read_class_folders(Path(root), ("",), KVASIR_V2_CLASSES, progress)
    return class_datalist(images, KVASIR_V2_CLASSES, fold, folds, val_fraction, labelled_fraction, seed)
