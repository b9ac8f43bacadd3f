"""Processes whose largest memory is watched."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

PEAKS: list[float] = []
"""Largest resident size of each process that was run, in megabytes."""


def run_watched(command: list[str]) -> None:
    """Run a command without its output, and note its largest memory (Linux).

    What ``getrusage`` tells of a process that has ended begins with the size of the one that started it.

    Raises:
        RuntimeError: the command failed.
    """
    peak = 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, largest_megabytes(process.pid))
            time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"'{' '.join(command[:6])} ...' ended with {process.returncode}.")
    PEAKS.append(peak)


def largest_megabytes(pid: int | str = "self") -> float:
    """The largest resident size of a process so far; 0 where this is not told."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), 0.0)
