"""Files that are there whole or not at all."""

from __future__ import annotations

import glob
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    save_whole(path, lambda file: file.write(text.encode()))


def replace_folder(new: Path, target: Path) -> None:
    """Put a finished folder in the place of an earlier one, or of nothing; where that fails, the earlier one stays."""
    if not target.exists():
        os.replace(new, target)
        return
    before = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    os.replace(target, before)
    try:
        os.replace(new, target)
    except BaseException:
        os.replace(before, target)
        raise
    shutil.rmtree(before, ignore_errors=True)


def save_whole(path: Path, write: Callable[[BinaryIO], object], previous: Path | None = None) -> None:
    """Write a file whole or not at all, whenever the machine stops.

    Args:
        path: of the file; what is there stays until the new one is on the disk.
        write: writes the content to the open file it is given.
        previous: where the replaced file is kept, in the same folder.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes had begun to write for a file; no other process may be writing it."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if re.fullmatch("[0-9a-f]{32}", leftover.name.rpartition(".")[2]):
            leftover.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Bring the names of a folder's files to the disk, where the system has a way."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
