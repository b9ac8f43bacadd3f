"""Jobs run in processes that may hang or die without harm."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from .outcome import Outcome

ROOT = Path(__file__).parents[2]
LIMIT = 60.0  # seconds that a door may take, on a machine that does other things too
START = 300.0  # seconds until the first door, whose libraries are loaded
Job = tuple[str, str]


def run_all(jobs: Sequence[Job], processes: int = 1) -> dict[Job, Outcome]:
    """What became of every job."""
    if processes == 1:
        return _run(list(jobs))
    from concurrent.futures import ThreadPoolExecutor

    parts = [list(jobs[number::processes]) for number in range(processes)]
    with ThreadPoolExecutor(processes) as pool:
        found = {job: outcome for part in pool.map(_run, parts) for job, outcome in part.items()}
    return {job: found[job] for job in jobs}


def _run(jobs: list[Job]) -> dict[Job, Outcome]:
    found: dict[Job, Outcome] = {}
    while len(found) < len(jobs):
        rest = jobs[len(found) :]
        found |= _until_it_ends(rest)
    return found


def _until_it_ends(jobs: list[Job]) -> dict[Job, Outcome]:
    """What became of the first ones, until the process was done, died, or did not answer any more."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "COLUMNS": "200", "NO_COLOR": "1",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.hardening.worker"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment, cwd=ROOT,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: PT018
    found: dict[Job, Outcome] = {}
    begun = 0
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    try:
        reader.start()
        process.stdin.write(json.dumps(jobs))
        process.stdin.close()
        while len(found) < len(jobs):
            try:
                line = lines.get(timeout=LIMIT if found else START)
            except queue.Empty:
                found[jobs[begun]] = Outcome("hang", "no answer in time")
                return found
            if not line:
                said = process.stderr.read()[-2000:]
                found[jobs[begun]] = Outcome("crash", f"status {process.wait()}: {said}")
                return found
            answer = json.loads(line)
            if "begun" in answer:
                begun = answer["begun"]
            else:
                found[jobs[answer["done"]]] = Outcome(answer["word"], answer["said"])
        process.wait(LIMIT)
        return found
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()


def _read(stream: TextIO, lines: queue.Queue[str]) -> None:
    """All lines, and an empty one behind them."""
    for line in stream:
        lines.put(line)
    lines.put("")
