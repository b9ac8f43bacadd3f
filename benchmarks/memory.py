"""The largest memory of one form, in a process of its own: ``python -m benchmarks.memory NAME CASE FORM [--quick]``.

What is printed, in megabytes, is how much the process's largest resident size grows over one step (Linux), or the
largest resident size of a process that the step starts and watches, whichever is more. Tensors go back to the system
as soon as they are freed (``MALLOC_MMAP_THRESHOLD_``, of glibc), so that the figure is that of the tensors. What is
loaded on first use does not count: the step runs once before.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.processes import PEAKS, largest_megabytes

THRESHOLD = "65536"


def megabytes_of(name: str, case: str, form: str, quick: bool) -> float | None:
    """The largest memory of a form, ``None`` where this system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", name, case, form]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": THRESHOLD}
    done = subprocess.run(
        command + ["--quick"] * quick, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    return float(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    name, case, form = arguments[:3]
    cases = {one.name: one for one in import_module(f"benchmarks.{name}").cases("--quick" in arguments)}
    step = cases[case].forms[form]()
    if form not in cases[case].once and cases[case].timed:
        step()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the largest size so far
    start = largest_megabytes()
    PEAKS.clear()
    step()
    print(max([largest_megabytes() - start, *PEAKS]))


if __name__ == "__main__":
    main(sys.argv[1:])
