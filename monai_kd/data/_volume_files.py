"""Files of one volume, and the name that results saved for them get."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from monai.data.utils import create_file_basename

NIFTI = (".nii", ".nii.gz")


def visible_files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Files of ``folder`` with one of the suffixes, sorted; archives made on a Mac add ``._name`` to each ``name``."""
    for path in sorted(folder.iterdir()):
        if path.name.lower().endswith(suffixes) and not path.name.startswith(".") and path.is_file():
            yield path


def saved_name(path: str | os.PathLike[str]) -> str:
    """The name MONAI's ``SaveImaged`` gives to results, without folder and postfix."""
    return os.path.basename(create_file_basename("", path, "", separate_folder=False, makedirs=False))


def by_name(paths: Iterable[Path], problems: list[str]) -> dict[str, Path]:
    """Paths by :func:`saved_name`; names used twice go to ``problems``."""
    found: dict[str, Path] = {}
    for path in paths:
        name = saved_name(path)
        if name in found:
            problems.append(f"name used twice: {found[name]} and {path}")
        found.setdefault(name, path)
    return found
