"""Data lists of a task of the Medical Segmentation Decathlon in its published layout."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from monai_kd.data._splits import Pair, check_fractions, content_keys, keep_labels, share, split_off, to_items
from monai_kd.data._volume_files import NIFTI, by_name, visible_files

__all__ = ["decathlon_datalist"]


def decathlon_datalist(
    root: str | os.PathLike[str],
    seed: int = 0,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    labelled_fraction: float = 1.0,
) -> dict[str, list[dict[str, str]]]:
    """Training, validation and test items of a Decathlon task, as a MONAI data list.

    The labelled volumes, ``imagesTr/`` and ``labelsTr/`` with equal names, are split in three; ``dataset.json`` is not
    needed. Splits depend on ``seed``, file names and contents, never on the order in which the system lists files.
    Volumes with the same bytes stay in one split.

    Args:
        root: the task's folder, such as ``Task04_Hippocampus``.
        seed: of the splits and of the labelled subset.
        val_fraction: share used for validation, 0 for none.
        test_fraction: share used for test, 0 for none.
        labelled_fraction: share of the training items that keep ``"label"``, at least one item. Subsets of one seed are
            nested. The splits do not depend on it.

    Returns:
        ``{"training": items, "validation": items, "test": items}``, items ``{"image": path, "label": path}`` sorted
        by path. Unlabelled training items have no ``"label"``.

    Raises:
        FileNotFoundError: there is no such folder, or no ``imagesTr/`` with ``labelsTr/`` in it.
        ValueError: images without label, labels without image or names used twice (all are listed), a fraction out of
            range, or too few images for the splits asked for.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for folder in ("imagesTr", "labelsTr"):
        ...     (root / folder).mkdir()
        ...     for number in range(10):
        ...         _ = (root / folder / f"liver_{number}.nii.gz").write_bytes(bytes([number]))
        >>> {part: len(items) for part, items in decathlon_datalist(root, val_fraction=0.2).items()}
        {'training': 7, 'validation': 2, 'test': 1}
    """
    check_fractions(val_fraction, test_fraction, labelled_fraction)
    pairs = _pairs(Path(root))
    order = np.random.default_rng([seed, 0])
    wanted = share(val_fraction, pairs)
    test, rest = split_off(pairs, share(test_fraction, pairs), order)
    validation, train = split_off(rest, wanted, order)
    if not train:
        raise ValueError(f"no training image left in {root} after validation and test were taken; lower the fractions.")
    items = {"training": to_items(train), "validation": to_items(validation), "test": to_items(test)}
    keep_labels(items["training"], labelled_fraction, seed)
    return items


def _pairs(root: Path) -> list[Pair]:
    folders = [root / "imagesTr", root / "labelsTr"]
    if not all(folder.is_dir() for folder in folders):
        raise FileNotFoundError(f"no imagesTr/ and labelsTr/ in '{root}'; give the folder of one Decathlon task.")
    problems: list[str] = []
    images, labels = (by_name(visible_files(folder, NIFTI), problems) for folder in folders)
    problems += [f"image without label: {images[name]}" for name in sorted(images.keys() - labels.keys())]
    problems += [f"label without image: {labels[name]}" for name in sorted(labels.keys() - images.keys())]
    if not images and not labels:
        problems.append(f"no {' or '.join(NIFTI)} file in {folders[0]}")
    if problems:
        raise ValueError("images and labels do not match:\n" + "\n".join(problems))
    content = content_keys(images.values())
    return [Pair(images[name], labels[name], content[images[name]]) for name in sorted(images)]
