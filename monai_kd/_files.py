"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CANNOT_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)
_LONGEST = 255  # bytes that a name may have


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    save_whole(path, lambda file: file.write(text.encode()))


def replace_folder(new: Path, target: Path) -> None:
    """Put a finished folder in the place of an earlier one, or of nothing; where that fails, the earlier one stays."""
    if not target.exists():
        os.replace(new, target)
        return
    before = _beside(target)
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

    Raises:
        OSError: it cannot be written; of a full disk, how much is needed and what is still there.
    """
    temporary = _beside(path)
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if (reason := _full_disk(error)) is not None:
            raise OSError(_without_room(path, write, reason)) from error
        raise


def digest_of(file: BinaryIO) -> str:
    """SHA-256 of an open file, from where it stands to its end, in hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def inside(folder: Path, path: Path) -> None:
    """Raise ``ValueError`` for a file to be written that a link leads out of its folder."""
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"'{path}' would lie outside the output folder (a link?)")
    if path.is_symlink():
        raise ValueError(f"'{path}' is a link, and what it leads to is not replaced; remove it.")


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes had begun to write for a file; no other process may be writing it."""
    for leftover in path.parent.glob(f".{glob.escape(_stem(path))}.*"):
        if re.fullmatch("[0-9a-f]{32}", leftover.name.rpartition(".")[2]):
            leftover.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A new name in the same folder, which begins with a dot."""
    return path.with_name(f".{_stem(path)}.{uuid.uuid4().hex}")


def _stem(path: Path) -> str:
    """What the names beside a path begin with: its own name, or of one that would be too long the digest."""
    name = os.fsencode(path.name)
    return path.name if len(name) <= _LONGEST - 34 else hashlib.sha256(name).hexdigest()


def _full_disk(error: BaseException) -> str | None:
    """Why there was no room, in the system's words; torch hides it behind an error of its own."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) and current.errno in _FULL:
            return os.strerror(current.errno)
        current = current.__cause__ or current.__context__
    return None


def _without_room(path: Path, write: Callable[[BinaryIO], object], reason: str) -> str:
    counter = _Counter()
    write(counter)  # type: ignore[arg-type]
    needed, free = (f"{size / 1e6:.1f} MB" for size in (counter.size, shutil.disk_usage(path.parent).free))
    before = "The file of before is whole" if path.exists() else "There is no such file of before"
    return (
        f"cannot write '{path}': {reason}; it takes {needed}, {free} are free. {before}. Make room; where there is "
        "some, a quota or a limit on the size of files was met."
    )


class _Counter(io.RawIOBase):
    """A file that forgets all but its size."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        length = memoryview(data).nbytes
        self.size += length
        return length


def _sync(folder: Path) -> None:
    """Bring the names of a folder's files to the disk, where the system has a way."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:  # as folders of some network drives say
            raise
    finally:
        os.close(number)
