"""Data lists of the labelled images of the endoscopy set Hyper-KVASIR with its official splits."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monai_kd.data._class_folders import image_groups, some_of
from monai_kd.data._class_splits import ClassImage, check_split, items_around
from monai_kd.data._class_table import find_files, read_table
from monai_kd.data.checks import DataError

__all__ = ["HYPER_KVASIR_CLASSES", "hyper_kvasir_datalist"]

HYPER_KVASIR_CLASSES = (
    "barretts",
    "bbps-0-1",
    "bbps-2-3",
    "dyed-lifted-polyps",
    "dyed-resection-margins",
    "hemorroids",
    "ileum",
    "impacted-stool",
    "normal-cecum",
    "normal-pylorus",
    "normal-z-line",
    "oesophagitis-a",
    "oesophagitis-b-d",
    "polyp",
    "retroflex-rectum",
    "retroflex-stomach",
    "short-segment-barretts",
    "ulcerative-colitis-grade-0-1",
    "ulcerative-colitis-grade-1",
    "ulcerative-colitis-grade-1-2",
    "ulcerative-colitis-grade-2",
    "ulcerative-colitis-grade-2-3",
    "ulcerative-colitis-grade-3",
)
"""The classes as the official splits spell them, in the order of their labels."""

_SUFFIXES = (".jpg", ".jpeg", ".png")
_IMAGES = "labeled-images"
_SPLITS = ("2_fold_split.csv", "5_fold_split.csv")
_COLUMNS = ("file-name", "class-name", "split-index")
_logger = logging.getLogger(__name__)


class _Row(NamedTuple):
    name: str
    label: str
    split: str


def hyper_kvasir_datalist(
    root: str | os.PathLike[str],
    fold: int = 0,
    val_fraction: float = 0.1,
    labelled_fraction: float = 1.0,
    seed: int = 0,
    split_file: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> dict[str, list[dict[str, Any]]]:
    """Training, validation and test items of one official fold of Hyper-KVASIR, as a MONAI data list.

    The test part is the official split ``fold``, as it was published, so that results can be compared. The official
    splits are not by patient; test images that have near duplicates among the others stay where they are, and a logged
    warning counts them. The validation part is cut from the others, stratified by class, near duplicates together:
    the groups of ``groups.csv`` in ``root``, if it is there (columns ``image``, a path below ``root``, and
    ``near_duplicate_group``), else those of :func:`near_duplicate_groups`, for which all images are read.

    Classes are those of the split file: the folders of the download spell some of them differently. The validation
    part depends on the images listed and on ``seed``, never on an order, and not on ``labelled_fraction``.

    Args:
        root: folder with ``labeled-images/`` and the split file, which may both lie up to two folders deep. Without
            ``labeled-images/``, images are looked for in all of ``root``.
        fold: the ``split-index`` of the test part, from 0.
        val_fraction: share of all images for validation, 0 for none; about that share of each class, at least one
            group of each class that has two outside of the test part.
        labelled_fraction: share of the training images of each class that keep ``"label"``, at least one. Subsets of
            one seed are nested.
        seed: of the validation part and of the labelled subset.
        split_file: official split, with the columns ``file-name;class-name;split-index``; ``None`` for
            ``2_fold_split.csv``, else ``5_fold_split.csv`` below ``root``.
        progress: show a progress bar while near duplicates are looked for.

    Returns:
        ``{"training": items, "validation": items, "test": items}``, sorted by file name, each item
        ``{"image": path, "label": int, "index": int}``. ``label`` is the position in :data:`HYPER_KVASIR_CLASSES`.
        ``index`` numbers the n labelled training items, 0 to n - 1: the row of an item in a memory bank. All other
        items have -1; unlabelled training items have no ``"label"``.

    Raises:
        FileNotFoundError: there is no such folder, or no split file.
        DataError: all that does not fit: listed images that are missing, listed twice or cannot be read, unknown
            classes, splits that are not numbered 0, 1, ...; or no images left for training. Images that are not listed
            are passed over.
        ValueError: ``fold``, ``seed`` or a fraction out of range.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "labeled-images" / "polyps").mkdir(parents=True)
        >>> rows = ["file-name;class-name;split-index", *(f"{n}.jpg;polyp;{n % 2}" for n in range(20))]
        >>> _ = (root / "2_fold_split.csv").write_text("\\n".join(rows))
        >>> for n in range(20):
        ...     noise = np.random.default_rng(n).integers(0, 256, (32, 32), dtype=np.uint8)
        ...     Image.fromarray(noise).save(root / "labeled-images" / "polyps" / f"{n}.jpg")
        >>> data = hyper_kvasir_datalist(root, fold=1)
        >>> [len(data[part]) for part in ("training", "validation", "test")]
        [8, 2, 10]
    """
    folder = Path(root)
    table = Path(split_file) if split_file is not None else _split_below(folder)
    if not table.is_file():
        raise FileNotFoundError(f"no split file '{table}'; give one with the columns {';'.join(_COLUMNS)}.")
    rows = sorted(_read_split(table))
    folds = len({row.split for row in rows})
    files = _find_listed(_images_below(folder), rows, table)
    check_split(fold, folds, val_fraction, labelled_fraction, seed)

    names = {row.name: Path(os.path.relpath(files[row.name], folder)).as_posix() for row in rows}
    groups = image_groups(folder, {names[row.name]: files[row.name] for row in rows}, progress)
    images = [
        ClassImage(row.name, files[row.name], HYPER_KVASIR_CLASSES.index(row.label), groups[names[row.name]])
        for row in rows
    ]
    test = np.array([int(row.split) == fold for row in rows])
    _warn_of_leaks(images, test)
    return items_around(test, images, HYPER_KVASIR_CLASSES, val_fraction, labelled_fraction, seed)


def _warn_of_leaks(images: Sequence[ClassImage], test: np.ndarray) -> None:
    others = {image.group for image, is_test in zip(images, test) if not is_test}
    leaks = sum(image.group in others for image, is_test in zip(images, test) if is_test)
    if leaks:
        _logger.warning(
            f"{leaks} of {test.sum()} test images have near duplicates among the other images; "
            "the official split is kept as it is."
        )


def _split_below(root: Path) -> Path:
    found = (path for name in _SPLITS for level in ("", "*/", "*/*/") for path in sorted(root.glob(level + name)))
    if (path := next(found, None)) is None:
        raise FileNotFoundError(
            f"no {' or '.join(_SPLITS)} in '{root}' or its folders; give split_file (it is in the set's repository)."
        )
    return path


def _images_below(root: Path) -> Path:
    found = (path for level in ("", "*/", "*/*/") for path in sorted(root.glob(level + _IMAGES)) if path.is_dir())
    return next(found, root)


def _read_split(table: Path) -> list[_Row]:
    rows = (_Row(*row.values()) for row in read_table(table, _COLUMNS, delimiter=";"))
    return [row._replace(name=os.path.splitext(row.name)[0]) for row in rows]


def _find_listed(folder: Path, rows: Sequence[_Row], table: Path) -> dict[str, Path]:
    """The images by name, if table and files fit."""
    problems: list[str] = []
    files = find_files(folder, _SUFFIXES, None, problems)

    listed = Counter(row.name for row in rows)
    splits = {row.split for row in rows}
    found = {
        "file-name listed more than once": [name for name, count in listed.items() if count > 1],
        f"of {len(listed)} listed images not found (is the download complete, is all of it unpacked?)": (
            listed.keys() - files.keys()
        ),
        f"rows with a class-name that is none of {', '.join(HYPER_KVASIR_CLASSES)}": [
            f"{row.name} {row.label!r}" for row in rows if row.label not in HYPER_KVASIR_CLASSES
        ],
    }
    problems += [f"{len(cases)} {problem}: {some_of(cases)}" for problem, cases in found.items() if cases]
    if splits != {str(number) for number in range(max(2, len(splits)))}:
        problems.append(f"split-index must be 0, 1 and so on, got {', '.join(sorted(splits)) or 'none'}")
    if problems:
        raise DataError(f"images in '{folder}' and {table.name} do not fit:\n" + "\n".join(problems))
    return files
