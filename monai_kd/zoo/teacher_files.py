"""The files of a teacher's bundle that its student's bundle keeps as they are."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path

__all__ = ["copy_files"]

_NOWHERE = ("__pycache__", ".*")
_NOT_COPIED = ("configs", "models", "eval", "results", "cache", "mlruns", "large_files.y*ml", *_NOWHERE)


def copy_files(root: Path, folder: Path) -> None:
    """Copy the contents of the bundle at ``root`` to a new ``folder``, but for its configuration, weights and results.

    Modes stay behind: what comes from a bundle that is read-only can be written.
    """
    _copy(root, folder, _NOT_COPIED)


def _copy(source: Path, folder: Path, left_out: tuple[str, ...]) -> None:
    folder.mkdir()
    for path in sorted(source.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in left_out):
            continue
        if path.is_dir():
            _copy(path, folder / path.name, _NOWHERE)
        else:
            shutil.copyfile(path, folder / path.name)
