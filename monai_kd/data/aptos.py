"""Data lists of the fundus image set APTOS 2019 in its published layout."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_kd.data._class_splits import ClassImage, check_split, class_datalist
from monai_kd.data._class_table import read_images
from monai_kd.data._splits import content_keys

__all__ = ["APTOS_CLASSES", "aptos_datalist"]

APTOS_CLASSES = ("no", "mild", "moderate", "severe", "proliferative")
"""The grades of diabetic retinopathy, in the order of their labels."""

_logger = logging.getLogger(__name__)


def aptos_datalist(
    root: str | os.PathLike[str],
    fold: int = 0,
    folds: int = 5,
    val_fraction: float = 0.1,
    labelled_fraction: float = 1.0,
    seed: int = 0,
) -> dict[str, list[dict[str, Any]]]:
    """Training, validation and test items of one fold of APTOS 2019, as a MONAI data list.

    The set holds images twice, some with two grades. Of files with equal bytes one is used, the first by ``id_code``,
    and none where the grades differ; a logged warning counts both. Images that are only much alike are not recognised,
    nor are the two eyes of a patient, whom the set does not name.

    The test parts of ``fold=0`` to ``fold=folds - 1`` share no image and hold all. All parts are stratified by grade.
    Parts depend on the images listed and on ``seed``, never on the order of the table or of the files, and not on
    ``labelled_fraction``.

    Args:
        root: folder with ``train.csv`` and ``train_images/``. The published test images have no grades and are not
            used.
        fold: which fold is the test part, from 0.
        folds: number of folds.
        val_fraction: share of all images for validation, 0 for none; about that share of each grade, at least one image
            of each grade that has two outside of the test part.
        labelled_fraction: share of the training images of each grade that keep ``"label"``, at least one. Subsets of
            one seed are nested.
        seed: of the splits and of the labelled subset.

    Returns:
        ``{"training": items, "validation": items, "test": items}``, sorted by ``id_code``, each item
        ``{"image": path, "label": int, "index": int}``. ``label`` is the grade, the position in :data:`APTOS_CLASSES`.
        ``index`` numbers the n labelled training items, 0 to n - 1: the row of an item in a memory bank. All other
        items have -1; unlabelled training items have no ``"label"``.

    Raises:
        FileNotFoundError: ``root`` lacks ``train.csv`` or ``train_images/``.
        DataError: all that does not fit: listed images that are missing, images that are not listed, unknown grades,
            names listed twice; or too few images for the folds.
        ValueError: ``fold``, ``folds``, ``seed`` or a fraction out of range.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> _ = (root / "train.csv").write_text("id_code,diagnosis\\n" + "\\n".join(f"{n},{n % 5}" for n in range(50)))
        >>> (root / "train_images").mkdir()
        >>> for n in range(50):
        ...     _ = (root / "train_images" / f"{n}.png").write_text(f"image {n}")
        >>> data = aptos_datalist(root)
        >>> [len(data[part]) for part in ("training", "validation", "test")]
        [35, 5, 10]
        >>> [item["index"] for item in data["training"]] == list(range(35))
        True
    """
    check_split(fold, folds, val_fraction, labelled_fraction, seed)
    table, folder = Path(root, "train.csv"), Path(root, "train_images")
    if not table.is_file() or not folder.is_dir():
        raise FileNotFoundError(f"no train.csv or no train_images/ in '{root}'; expected both, the images as .png.")
    classes = {str(label): label for label in range(len(APTOS_CLASSES))}
    images = _one_of_equals(read_images(folder, table, (".png", ".jpg", ".jpeg"), "id_code", "diagnosis", classes))
    return class_datalist(images, APTOS_CLASSES, fold, folds, val_fraction, labelled_fraction, seed)


def _one_of_equals(images: Sequence[ClassImage]) -> list[ClassImage]:
    keys = content_keys(image.path for image in images)
    equals = defaultdict(list)
    for image in sorted(images):
        equals[keys[image.path]].append(image)
    agreed = {key: same for key, same in equals.items() if len({image.label for image in same}) == 1}
    repeated = sum(len(same) - 1 for same in agreed.values())
    disputed = sum(len(same) for key, same in equals.items() if key not in agreed)
    if repeated or disputed:
        _logger.warning(
            f"images with equal bytes: {repeated} left out that repeat another's image and grade, "
            f"{disputed} left out whose grades differ."
        )
    return [same[0] for same in agreed.values()]
