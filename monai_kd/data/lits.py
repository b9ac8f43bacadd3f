"""Data lists of the liver tumour CT set LiTS in its published layout."""

from __future__ import annotations

import os
import re
from pathlib import Path

from monai_kd.data._splits import arrange, check_fractions, committed, held_out, keep_labels

__all__ = ["lits_datalist"]

_NAME = re.compile(r"(volume|segmentation|test-volume)-(\d+)\.nii(\.gz)?")
_CASES = 131


def lits_datalist(
    root: str | os.PathLike[str],
    fold: int = 0,
    seed: int = 0,
    labelled_fraction: float = 1.0,
) -> dict[str, list[dict[str, str]]]:
    """Training, validation and test items of LiTS, as a MONAI data list.

    The 131 labelled cases are split in five fixed folds, lists of case numbers that come with the package. The fold
    asked for is the test part (27 cases of fold 0, 26 of the others), 10 of the other cases are for validation.

    A folder that holds some of the published cases gives those, with a warning. Volumes without segmentation, and the
    challenge's ``test-volume-N``, train without ``"label"``. Labels: 0 background, 1 liver, 2 tumour; some cases have
    no tumour.

    Args:
        root: the folder with ``volume-N.nii`` and ``segmentation-N.nii`` (or ``.nii.gz``), which may lie in subfolders
            such as ``Training Batch 1``.
        fold: 0 to 4.
        seed: of the labelled subset.
        labelled_fraction: share of the labelled training cases that keep ``"label"``, at least one. Subsets of one seed
            are nested.

    Returns:
        ``{"training": items, "validation": items, "test": items}``, items ``{"image": path, "label": path}`` by case
        number, then training volumes that are on no list.

    Raises:
        FileNotFoundError: there are no volumes.
        ValueError: an unknown fold, a fraction out of range, or all that is wrong with the files: two of one case, a
            segmentation without volume or of a case that was not published, a held-out case without segmentation.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for number in (0, 1, 2, 7):
        ...     (root / f"volume-{number}.nii").touch()
        ...     (root / f"segmentation-{number}.nii").touch()
        >>> data = lits_datalist(root, fold=0)
        >>> {part: [Path(item["image"]).name for item in items] for part, items in data.items()}
        {'training': ['volume-0.nii', 'volume-1.nii'], 'validation': ['volume-7.nii'], 'test': ['volume-2.nii']}
    """
    folds = committed("lits")["folds"]
    if fold not in range(len(folds)):
        raise ValueError(f"fold must be 0 to {len(folds) - 1}, got {fold!r}.")
    check_fractions(0, 0, labelled_fraction)
    split = folds[fold]
    problems: list[str] = []
    files = _find(Path(root), problems)
    volumes, labels = files["volume"], files["segmentation"]

    problems += [f"{labels[number]} has no volume" for number in sorted(labels.keys() - volumes.keys())]
    for number in sorted(volumes):
        if number in labels and number >= _CASES:
            problems.append(f"{labels[number]} is no case of LiTS, whose labelled cases are 0 to {_CASES - 1}")
        if number not in labels and number in held_out(split):
            problems.append(f"{volumes[number]} has no segmentation, and is a validation or test case")
    if problems:
        raise ValueError(f"files in {root} that cannot be used:\n" + "\n".join(problems))

    cases = {
        number: {"image": str(path)} | ({"label": str(labels[number])} if number in labels else {})
        for number, path in volumes.items()
    }
    items = arrange(cases, split, Path(root))
    items["training"] += [{"image": str(path)} for _, path in sorted(files["test-volume"].items())]
    keep_labels(items["training"], labelled_fraction, seed)
    return items


def _find(root: Path, problems: list[str]) -> dict[str, dict[int, Path]]:
    files: dict[str, dict[int, Path]] = {"volume": {}, "segmentation": {}, "test-volume": {}}
    for path in sorted(root.rglob("*.nii*")):
        match = _NAME.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        found, number = files[match[1]], int(match[2])
        if number in found:
            problems.append(f"{match[1]} {number} is there twice: {found[number]} and {path}")
        found.setdefault(number, path)
    if not files["volume"] and not files["test-volume"]:
        raise FileNotFoundError(
            f"no LiTS volumes in '{root}'; expected volume-0.nii, segmentation-0.nii and so on (or .nii.gz), "
            "in it or in its subfolders."
        )
    return files
