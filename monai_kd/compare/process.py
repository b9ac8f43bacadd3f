"""One process at a time in the folder of a comparison, and none that outlives what started it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

__all__ = ["locked", "run_process"]

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the folder's lock, whose file names the process that works there.

    Processes that :func:`run_process` starts inherit the lock, so that one that outlives a killed parent is noticed.

    Raises:
        BlockingIOError: another process holds it; its number is in the message.
    """
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            named = f"process {holder}" if holder else "another process"
            raise BlockingIOError(f"{named} works in '{folder}'; wait for it, or stop it.") from None
        _sign(descriptor, os.getpid())
        yield descriptor
    finally:
        os.close(descriptor)


def run_process(command: Sequence[str], log: Path, lock: int, watch: Callable[[str], None]) -> int:
    """Run a command to its end; its output is appended to a log.

    Whatever stops this process, SIGTERM and SIGHUP of a scheduler too, ends the command first; only SIGKILL does not.

    Args:
        command: program and arguments.
        log: file, made if need be.
        lock: of :func:`locked`.
        watch: called with every line.

    Returns:
        The exit status.
    """
    with open(log, "a", encoding="utf-8") as kept, _signals_as_exceptions():
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            pass_fds=(lock,),
        )
        _sign(lock, process.pid)
        try:
            for line in process.stdout or ():
                kept.write(line)
                kept.flush()
                watch(line)
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            _sign(lock, os.getpid())


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """SIGTERM and SIGHUP raise ``SystemExit`` within; signals belong to the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {one: signal.signal(one, stop) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _sign(lock: int, pid: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{pid}\n".encode(), 0)
