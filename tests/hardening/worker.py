"""A process of its own that brings inputs to doors, and sees how much memory each takes."""

from __future__ import annotations

import json
import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .inputs import Input
from .outcome import Outcome

MEGABYTE = 1 << 20
ROOM = 1024 * MEGABYTE  # of addresses that a door may ask for
MOST = 256 * MEGABYTE  # of memory that it may fill
_STATUS = Path("/proc/self/status")


def main() -> None:
    """Read jobs, pairs of an input's key and a door, and say of each that it begins and what became of it."""
    jobs = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # libraries write there as they like
        os.dup2(quiet, stream)
    from .corpus import corpus
    from .doors import forget

    for number, (key, door) in enumerate(jobs):
        print(json.dumps({"begun": number}), file=answers, flush=True)
        found = measured(corpus()[key], door)
        print(json.dumps({"done": number, "word": found.word, "said": found.said}), file=answers, flush=True)
    forget()


def measured(one: Input, door: str) -> Outcome:
    """What became of an input, "memory" where it took too much."""
    from .doors import bring, prepare

    prepare(one.kind)
    if not _STATUS.exists():
        return bring(one, door)
    taken: list[int] = []
    found = bring(one, door, lambda: _limited(taken))
    return found if taken[0] <= MOST else Outcome("memory", f"{taken[0] // MEGABYTE} MB; {found}")


@contextmanager
def _limited(taken: list[int]) -> Iterator[None]:
    """Within, memory is limited; how much was filled at once is noted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = _forget_peak()
    resource.setrlimit(resource.RLIMIT_AS, (_kilobytes("VmSize") * 1024 + ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        taken.append(_kilobytes("VmHWM") * 1024 - before)


def _forget_peak() -> int:
    """Have the peak of memory counted from now on; the memory that is filled now, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _kilobytes("VmRSS") * 1024
    except OSError:
        return _kilobytes("VmHWM") * 1024


def _kilobytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii", errors="replace"), re.M)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    main()
