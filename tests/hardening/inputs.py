"""One bad input of the corpus, and how it is made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Input:
    """A file, a folder or words of a command line that somebody may hand over.

    Attributes:
        kind: what it claims to be, such as "picture"; says which doors it is brought to.
        name: says what is odd about it, one of a kind.
        write: makes it in an empty folder and gives its path (or the words of a command line).
        handled: doors where it is valid though odd; all others of its kind refuse it.
        truth: of a handled one, what a reader must find in it.
        only: the doors of its kind that it can come to at all, where these are not all.
    """

    kind: str
    name: str
    write: Callable[[Path], Any]
    handled: tuple[str, ...] = ()
    truth: Callable[[Path], Any] | None = None
    only: tuple[str, ...] | None = None

    @property
    def key(self) -> str:
        """What results are kept under."""
        return f"{self.kind}: {self.name}"


def file_of(content: bytes | Callable[[], bytes], name: str) -> Callable[[Path], Path]:
    """Writes bytes to a file of that name; large ones are made when they are asked for."""

    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content() if callable(content) else content)
        return path

    return write


def no_file(name: str) -> dict[str, Callable[[Path], Path]]:
    """What may lie where a file of that name is expected, and is none that can be read."""

    def missing(folder: Path) -> Path:
        return folder / name

    def a_folder(folder: Path) -> Path:
        (folder / name).mkdir()
        return folder / name

    def link(target: str) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            (folder / name).symlink_to(target)
            return folder / name

        return write

    def pipe(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name

    def below_a_file(folder: Path) -> Path:
        (folder / "file").write_bytes(b"x")
        return folder / "file" / name

    return {
        "missing": missing,
        "a folder in its place": a_folder,
        "a dangling link": link("nowhere"),
        "a link to itself": link(name),
        "a link to an endless device": link("/dev/zero"),
        "a link to an empty device": link("/dev/null"),
        "a pipe that nobody writes to": pipe,
        "below a file": below_a_file,
        "no right to read it, or a broken disk": _denied(name),
        "a name of 5,000 characters": lambda folder: folder / ("x" * 5000 + name),
    }


def _denied(name: str) -> Callable[[Path], Path]:
    """A regular file whose reading is an error, for root too."""

    def write(folder: Path) -> Path:
        if os.geteuid() == 0:
            (folder / name).symlink_to("/proc/self/mem")
        else:
            (folder / name).write_bytes(b"content")
            (folder / name).chmod(0)
        return folder / name

    return write


def cut(content: bytes, places: Iterable[int]) -> dict[str, bytes]:
    """The content, ending after so many bytes; less than 0: before its end."""
    cuts = {place if place >= 0 else len(content) + place for place in places}
    return {f"cut after {place} of {len(content)} bytes": content[:place] for place in sorted(cuts)}


def flipped(content: bytes, place: int, bit: int = 0) -> bytes:
    """The content with one bit changed."""
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)
