"""Data lists of the skin lesion set HAM10000 in its published layout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai_kd.data._class_splits import check_split, class_datalist
from monai_kd.data._class_table import read_images

__all__ = ["HAM10000_CLASSES", "ham10000_datalist"]

HAM10000_CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""The diagnoses, in the order of their labels."""

_TABLE = "HAM10000_metadata"
# Comes in one download with the set and is not in its table.
_CHALLENGE_TEST = "ISIC2018_Task3_Test"


def ham10000_datalist(
    root: str | os.PathLike[str],
    fold: int = 0,
    folds: int = 5,
    val_fraction: float = 0.1,
    labelled_fraction: float = 1.0,
    seed: int = 0,
) -> dict[str, list[dict[str, Any]]]:
    """Training, validation and test items of one fold of HAM10000, as a MONAI data list.

    The 10,015 images show 7,470 lesions: the images of a lesion (``lesion_id``) stay in one part. The test parts of
    ``fold=0`` to ``fold=folds - 1`` share no image and hold all. All parts are stratified by class; a class with fewer
    lesions than folds is missing in some, which is logged as a warning.

    Parts depend on the images listed and on ``seed``, never on the order of the table or of the files, and not on
    ``labelled_fraction``.

    Args:
        root: folder with ``HAM10000_metadata.csv`` (or without ``.csv``); the ``.jpg`` files may lie in any folders
            below. The challenge's test images, in ``ISIC2018_Task3_Test_Images/``, are passed over.
        fold: which fold is the test part, from 0.
        folds: number of folds.
        val_fraction: share of all images for validation, 0 for none; about that share of each class, at least one
            lesion of each class that has two outside of the test part.
        labelled_fraction: share of the training images of each class that keep ``"label"``, at least one. Subsets of
            one seed are nested.
        seed: of the splits and of the labelled subset.

    Returns:
        ``{"training": items, "validation": items, "test": items}``, sorted by ``image_id``, each item
        ``{"image": path, "label": int, "index": int}``. ``label`` is the position in :data:`HAM10000_CLASSES`.
        ``index`` numbers the n labelled training items, 0 to n - 1: the row of an item in a memory bank. All other
        items have -1; unlabelled training items have no ``"label"``.

    Raises:
        FileNotFoundError: there is no such folder, or no table in it.
        DataError: all that does not fit: listed images that are missing, images that are not listed, unknown
            diagnoses, names listed twice; or too few images for the folds.
        ValueError: ``fold``, ``folds``, ``seed`` or a fraction out of range.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> rows = [f"HAM_{n // 2},ISIC_{n},{('mel', 'nv')[n % 4 // 2]}" for n in range(40)]
        >>> _ = (root / "HAM10000_metadata.csv").write_text("lesion_id,image_id,dx\\n" + "\\n".join(rows))
        >>> (root / "images").mkdir()
        >>> for n in range(40):
        ...     (root / "images" / f"ISIC_{n}.jpg").touch()
        >>> data = ham10000_datalist(root, labelled_fraction=0.5)
        >>> [len(data[part]) for part in ("training", "validation", "test")]
        [28, 4, 8]
        >>> max(item["index"] for item in data["training"])
        13
    """
    check_split(fold, folds, val_fraction, labelled_fraction, seed)
    folder = Path(root)
    table = next((path for path in (folder / f"{_TABLE}.csv", folder / _TABLE) if path.is_file()), None)
    if table is None:
        raise FileNotFoundError(f"no {_TABLE}.csv in '{root}'; expected it there, and the .jpg images in folders.")
    classes = {name: label for label, name in enumerate(HAM10000_CLASSES)}
    images = read_images(
        folder, table, (".jpg", ".jpeg"), "image_id", "dx", classes, group="lesion_id", without=_CHALLENGE_TEST
    )
    return class_datalist(images, HAM10000_CLASSES, fold, folds, val_fraction, labelled_fraction, seed)
