"""What became of an input at a door, in one word."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from typing import Any

from monai_kd.errors import user_message

REFUSED, HANDLED = "refused", "handled"
FORBIDDEN = ("hang", "crash", "silent wrong", "unclear", "memory")
_ALLOCATION = re.compile(r"unable to allocate|can't allocate|cannot allocate|out of memory|MemoryError|bad_alloc", re.I)
_FOREIGN = re.compile(r"^(\w+\.)*\w+(Error|Exception|Warning|Interrupt|Exit)\b: ")


@dataclass(frozen=True)
class Outcome:
    """One word, and what was said."""

    word: str
    said: str = ""


class WrongResult(Exception):
    """An input was taken, and what came of it is not what it holds."""


def refused(message: str, *names: str) -> Outcome:
    """A refusal by this message, which must name one of these, if any are given, and be of this package's words."""
    if _ALLOCATION.search(message):
        return Outcome("memory", message)
    if _FOREIGN.match(message) or "Traceback (most recent call last)" in message:
        return Outcome("unclear", message)
    if names and not any(name in message for name in names if name):
        return Outcome("unclear", f"(none of {list(names)} is named) {message}")
    return Outcome(REFUSED, message)


def refused_by(error: BaseException, *names: str) -> Outcome:
    """A refusal by an error: one of this package, or of the system with the file's name."""
    if isinstance(error, WrongResult):
        return Outcome("silent wrong", str(error))
    if isinstance(error, MemoryError):
        return Outcome("memory", str(error))
    message: Any = user_message(error)
    if message is None and isinstance(error, OSError) and error.filename is not None:
        message = str(error)
    if message is None:
        frames = "".join(traceback.format_exception(error)[-3:])
        return Outcome("unclear", f"a foreign error: {frames}")
    return refused(message, *names)
