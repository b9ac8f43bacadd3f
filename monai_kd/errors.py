"""Errors that a user can act on, without the frames between them and the cause."""

from __future__ import annotations

import logging
import os
import sys
from types import TracebackType
from typing import Any

__all__ = ["readable_errors", "root_cause", "user_message"]

TRACEBACK = "MONAI_KD_TRACEBACK"


def readable_errors() -> None:
    """Let an uncaught error of this package end the program with its message alone and exit status 1.

    A bundle calls this first: its components are made inside some forty frames of configuration code, which hide what
    was wrong, and its engine's handlers log them once more. Errors from elsewhere keep their traceback, and
    ``MONAI_KD_TRACEBACK=1`` keeps it for all.
    """
    if os.environ.get(TRACEBACK) not in (None, "", "0"):
        return

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        message = user_message(error)
        if message is None:
            sys.__excepthook__(kind, error, trace)
        else:
            print(f"error: {message}\n(set {TRACEBACK}=1 for the traceback)", file=sys.stderr)

    make = logging.getLogRecordFactory()

    def without_trace(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        message = user_message(record.exc_info[1]) if record.exc_info and record.exc_info[1] is not None else None
        if message is not None:
            said = record.getMessage()
            record.msg, record.args = said if message in said else f"{said.rstrip()}: {message}", ()
            record.exc_info = None
        return record

    sys.excepthook = show
    logging.setLogRecordFactory(without_trace)


def user_message(error: BaseException) -> str | None:
    """The message of the outermost error of this package in ``error``'s chain of causes; ``None`` if none is."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, Exception) and _raised_here(current):
            return str(current.args[0]) if isinstance(current, KeyError) and current.args else str(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
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
