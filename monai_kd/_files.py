"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    save_whole(path, lambda file: file.write(text.encode()))


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
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
