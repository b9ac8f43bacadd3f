"""Images with a class each, from folders named after the classes, and the groups that must stay together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from monai_kd.data._class_splits import ClassImage
from monai_kd.data._class_table import find_files, read_table
from monai_kd.data.checks import DataError
from monai_kd.data.near_duplicates import near_duplicate_groups

_SUFFIXES = (".jpg", ".jpeg", ".png")
_GROUPS = "groups.csv"
_SHOWN = 5


def read_class_folders(
    root: Path, parts: Iterable[str], classes: Sequence[str], progress: bool = False
) -> list[ClassImage]:
    """The images in ``root/<part>/<class>/`` of all parts, named by their path below ``root``.

    Hidden files and all other folders are passed over. Groups: see :func:`image_groups`.

    Raises:
        FileNotFoundError: there is no such folder, or no folder of a class in it.
        DataError: everything that does not fit: class folders that are missing or empty, names used twice, images that
            cannot be read, and what does not fit between the images and ``groups.csv``.
    """
    folders = {(part, name): root / part / name for part in parts for name in classes}
    if not any(folder.is_dir() for folder in folders.values()):
        raise FileNotFoundError(
            f"no folder of a class in '{root}'; expected {', '.join(classes)}, the .jpg images in them."
        )
    problems: list[str] = []
    found: dict[str, tuple[Path, int]] = {}
    for (_, name), folder in folders.items():
        paths = find_files(folder, _SUFFIXES, None, problems).values() if folder.is_dir() else []
        if not paths:
            problems.append(f"no image in {folder} (is the download complete, is all of it unpacked?)")
        found.update({path.relative_to(root).as_posix(): (path, classes.index(name)) for path in paths})
    if problems:
        raise DataError(f"not all of the images are in '{root}':\n" + "\n".join(problems))
    groups = image_groups(root, {name: path for name, (path, _) in found.items()}, progress)
    return [ClassImage(name, path, label, groups[name]) for name, (path, label) in found.items()]


def image_groups(root: Path, paths: Mapping[str, Path], progress: bool = False) -> dict[str, str]:
    """The group of each image by name: from the table ``groups.csv`` in ``root``, else its near duplicates.

    The table has the columns ``image``, the path below ``root``, and ``near_duplicate_group``; other columns are not
    used.

    Raises:
        DataError: all images that the table lacks, lists twice or gives no group; or that cannot be read.
    """
    table = root / _GROUPS
    if not table.is_file():
        names = sorted(paths)
        first = {str(paths[name]): name for name in reversed(names)}
        groups = near_duplicate_groups((paths[name] for name in names), progress=progress)
        return {name: first[group] for name, group in zip(names, groups)}
    rows = read_table(table, ["image", "near_duplicate_group"])
    listed = Counter(row["image"] for row in rows)
    problems = {
        "images listed more than once": [name for name, count in listed.items() if count > 1],
        f"images not listed in {_GROUPS} (remove it to look for near duplicates anew)": paths.keys() - listed.keys(),
        f"of {len(listed)} listed images not found (is the download complete?)": listed.keys() - paths.keys(),
        "rows without near_duplicate_group": [row["image"] for row in rows if not row["near_duplicate_group"]],
    }
    if lines := [f"{len(names)} {problem}: {some_of(names)}" for problem, names in problems.items() if names]:
        raise DataError(f"images in '{root}' and {_GROUPS} do not fit:\n" + "\n".join(lines))
    return {row["image"]: row["near_duplicate_group"] for row in rows}


def some_of(names: Iterable[str]) -> str:
    """The first few, for a message."""
    shown = sorted(names)
    return ", ".join([*shown[:_SHOWN], *["..."] * (len(shown) > _SHOWN)])
