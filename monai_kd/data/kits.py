"""Data lists of the kidney tumour CT sets KiTS19 and KiTS23 in their published folder layout."""

from __future__ import annotations

import os
from pathlib import Path

from monai_kd.data._splits import arrange, check_fractions, committed, held_out, keep_labels

__all__ = ["kits_datalist"]

_LAYOUT = "expected case_00000/ and so on with imaging.nii.gz and segmentation.nii.gz, in it, in data/ or in dataset/"
_EDITIONS = ("kits19", "kits23")


def kits_datalist(
    root: str | os.PathLike[str],
    edition: str = "kits19",
    seed: int = 0,
    labelled_fraction: float = 1.0,
) -> dict[str, list[dict[str, str]]]:
    """Training, validation and test items of KiTS19 or KiTS23, as a MONAI data list.

    The splits are fixed lists of case numbers that come with the package: of the labelled cases of KiTS19 151, 17 and
    42, of KiTS23 352, 39 and 98. KiTS23 holds the cases of KiTS19 under the same numbers, and what KiTS19 holds out is
    held out of KiTS23 too; the unlabelled training images of KiTS19 (210 to 299) may be in KiTS23's test.

    A folder that holds some of the published cases gives those, with a warning. Cases without segmentation train
    without ``"label"``. Labels: 0 background, 1 kidney, 2 tumour, in KiTS23 also 3 cyst.

    Args:
        root: the folder with the cases, or the repository that holds them in ``data/`` or ``dataset/``.
        edition: ``"kits19"`` or ``"kits23"``.
        seed: of the labelled subset.
        labelled_fraction: share of the labelled training cases that keep ``"label"``, at least one. Subsets of one seed
            are nested.

    Returns:
        ``{"training": items, "validation": items, "test": items}``, items ``{"image": path, "label": path}`` by case
        number, then training cases that were published without label.

    Raises:
        FileNotFoundError: there are no cases.
        ValueError: an unknown edition, a fraction out of range, or all that is wrong with the cases: unknown numbers,
            no image, a held-out case without segmentation.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for number in (0, 1, 210):
        ...     (root / f"case_{number:05d}").mkdir()
        ...     (root / f"case_{number:05d}" / "imaging.nii.gz").touch()
        ...     if number < 210:
        ...         (root / f"case_{number:05d}" / "segmentation.nii.gz").touch()
        >>> data = kits_datalist(root)
        >>> {part: [Path(item["image"]).parent.name for item in items] for part, items in data.items()}
        {'training': ['case_00001', 'case_00210'], 'validation': [], 'test': ['case_00000']}
    """
    if edition not in _EDITIONS:
        raise ValueError(f"unknown edition {edition!r}; expected one of {', '.join(map(repr, _EDITIONS))}.")
    check_fractions(0, 0, labelled_fraction)
    folder, numbered = _case_folders(Path(root))
    split = committed(edition)
    known = {case for part in ("training", "validation", "test", "unlabelled") for case in split[part]}

    problems, cases = [], {}
    for path in numbered:
        number = _number(path)
        image, label = path / "imaging.nii.gz", path / "segmentation.nii.gz"
        if number not in known:
            other = ", ".join(name for name in _EDITIONS if name != edition)
            problems.append(f"{path.name} is no case of {edition}; is it one of {other}, or not of the published set?")
        elif not image.is_file():
            problems.append(f"{path.name} has no {image.name}; the repository's script downloads the images")
        elif not label.is_file() and number in held_out(split):
            problems.append(f"{path.name} has no {label.name}, and is a validation or test case")
        else:
            cases[number] = {"image": str(image)} | ({"label": str(label)} if label.is_file() else {})
    if problems:
        raise ValueError(f"cases in {folder} that cannot be used:\n" + "\n".join(problems))

    items = arrange(cases, split, folder)
    keep_labels(items["training"], labelled_fraction, seed)
    return items


def _case_folders(root: Path) -> tuple[Path, list[Path]]:
    for folder in (root, root / "data", root / "dataset"):
        if found := sorted(path for path in folder.glob("case_*") if path.is_dir()):
            return folder, found
    raise FileNotFoundError(f"no KiTS cases in '{root}'; {_LAYOUT}.")


def _number(folder: Path) -> int:
    """The case number, -1 for a name that has none."""
    digits = folder.name.removeprefix("case_")
    return int(digits) if len(digits) == 5 and digits.isdecimal() else -1
