"""Errors that a user can act on, without the frames between them and the cause."""

from __future__ import annotations

import logging
import os
import re
import sys
from types import TracebackType
from typing import Any

from monai_kd._launcher import failed_before, first_to_fail, lost_the_others, tell_launcher
from monai_kd._signals import no_longer_stop_in_one_line, stop_in_one_line

__all__ = ["readable_errors", "root_cause", "user_message"]

TRACEBACK = "MONAI_KD_TRACEBACK"

_MEMORY = (
    "A process that loads data was ended from outside, mostly because the memory was full: lower num_workers, "
    "batch_size or cache_rate. After a bus error it was the shared memory: give a container more (docker run "
    "--shm-size=8g, or --ipc=host)."
)
_DISK = "A file could not be written to its end: the disk is full, or a quota or a limit on the size of files was met."
_LOST = (
    "another process of this training is not there any more. If none of the others says why, it was ended from outside "
    "(killed, out of memory), or the network to it is gone."
)
_KNOWN = (  # of other packages, by how the message begins
    (re.compile(r"DataLoader worker \(pid.*?(?:killed by signal: [\w ]+|exited unexpectedly)"), _MEMORY),
    (re.compile(r"\[enforce fail at inline_container\.cc.*unexpected pos.*"), _DISK),
)


def readable_errors() -> None:
    """Let an uncaught error of this package end the program with its message alone and exit status 1.

    A bundle calls this first: its components are made inside some forty frames of configuration code, which hide what
    was wrong, and its engine's handlers log them once more. Errors from elsewhere keep their traceback, but for a full
    disk and a loading process that was ended, and ``MONAI_KD_TRACEBACK=1`` keeps it for all. Of several processes the
    one that failed first says why, to ``torchrun``'s summary too, and the others that they end for that.

    Ctrl-C and SIGTERM end the program with one line as well, and exit status 130 and 143; while it trains,
    :class:`~monai_kd.handlers.ResumeCheckpoint` saves before that.
    """
    if os.environ.get(TRACEBACK) not in (None, "", "0"):
        return
    stop_in_one_line()

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _show(kind, error, trace)
        no_longer_stop_in_one_line()

    make = logging.getLogRecordFactory()

    def without_trace(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, SystemExit | KeyboardInterrupt):
            record.msg, record.args, record.exc_info = "stopped", (), None
        elif record.levelno >= logging.ERROR and lost_the_others(RuntimeError(record.getMessage())):
            head = record.getMessage().partition(": ")[0]
            record.msg, record.args, record.exc_info = f"{head}: another process is not there any more", (), None
        elif error is not None and (message := user_message(error)) is not None:
            said = record.getMessage()
            record.msg, record.args = said if message in said else f"{said.rstrip()}: {message}", ()
            record.exc_info = None
        return record

    sys.excepthook = show
    logging.setLogRecordFactory(without_trace)


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    message = user_message(error)
    if message == _LOST:
        failed = failed_before()
        message = _LOST if failed is None else f"process {failed} has failed, its message says why: this ends too."
        tell_launcher(message, cause=False)
    elif isinstance(error, Exception):
        own = message if message is not None else f"{kind.__name__}: {error}"
        first, said = first_to_fail(own)
        tell_launcher(own, cause=first)
        if said == own and not first:
            return  # it is on the screen
    if message is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(f"error: {message}\n(set {TRACEBACK}=1 for the traceback)", file=sys.stderr)


def user_message(error: BaseException) -> str | None:
    """The message of the outermost error of this package in ``error``'s chain of causes, or of one of others that is
    known to have a cause outside of the program; ``None`` if none is."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, Exception) and _raised_here(current):
            return str(current.args[0]) if isinstance(current, KeyError) and current.args else str(current)
        if lost_the_others(current):
            return _LOST
        if isinstance(current, RuntimeError) and (known := _known(str(current))) is not None:
            return known
        if isinstance(current, Exception) and (said := _said_while_loading(current)) is not None:
            return said
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return None


def _said_while_loading(error: Exception) -> str | None:
    """The message of an error class of this package from a process that loads data, whose traceback PyTorch puts around
    it."""
    kind, text = type(error), str(error)
    if kind.__module__.partition(".")[0] != "monai_kd" or not text.startswith(f"Caught {kind.__name__} in DataLoader"):
        return None
    return text.rpartition(f"\n{kind.__module__}.{kind.__name__}: ")[2].strip()


def _known(message: str) -> str | None:
    for pattern, explained in _KNOWN:
        if found := pattern.match(message):
            return f"{found[0].rstrip('. ')}. {explained}"
    return None


def root_cause(error: BaseException) -> str:
    """Kind and message of what went wrong first, such as below the errors of MONAI's configuration parser."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _raised_here(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__package__") if trace is not None else None
    return (module or "").partition(".")[0] == "monai_kd"
