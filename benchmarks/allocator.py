"""glibc's memory kept when it is freed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536}
_KEEPING = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}


def keeping_freed_memory(step: Callable[[], T]) -> Callable[[], T]:
    """``step``, within which freed memory stays with the process; where this is not glibc, ``step`` itself."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return step

    def kept() -> T:
        for parameter, value in _KEEPING.items():
            mallopt(parameter, value)
        try:
            return step()
        finally:
            for parameter, value in _DEFAULTS.items():
                mallopt(parameter, value)

    return kept
