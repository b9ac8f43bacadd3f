"""What Ctrl-C and SIGTERM do: to a program, to a training, and to the processes that load its data."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from functools import partial
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)
_ONE_SIGNAL = 1.0  # seconds; a scheduler sends its signal to a process and to its group, Ctrl-C goes to both as well


def stop_in_one_line() -> None:
    """Let SIGINT and SIGTERM end this program with a line and exit status 130 or 143.

    Those that somebody else handles are left alone, and threads other than the main one cannot do it.
    """
    if not _in_main_thread():
        return
    own = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            _default(number)
            return
        say(f"stopped by {name_of(number)}")
        raise SystemExit(exit_status(number))

    for number, usual in zip(STOPPING, (signal.default_int_handler, signal.SIG_DFL)):
        if signal.getsignal(number) == usual:
            signal.signal(number, stop)


def no_longer_stop_in_one_line() -> None:
    """Let SIGTERM end this program without a word: it has said why it ends, and a launcher may not wait for it."""
    if _in_main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class StopSignals:
    """Within it SIGINT and SIGTERM are noted, so that a training can end where nothing is lost.

    The second one does what it did before, which usually ends the program at once. Within a second both count as one.
    In a thread other than the main one nothing is noted.

    Example:
        >>> with StopSignals("stopping after this step") as signals:
        ...     signals.number
        0
    """

    def __init__(self, said: str) -> None:
        self.said = said
        self.number = 0
        self._since = 0.0
        self._own = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if _in_main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._own:  # in a process that was forked
            if number != signal.SIGINT:
                _default(number)
        elif not self.number:
            self.number, self._since = number, time.monotonic()
            say(f"{name_of(number)}: {self.said}")
        elif time.monotonic() - self._since >= _ONE_SIGNAL:
            self.__exit__()
            signal.raise_signal(number)


def leave_stops_to_the_training(loader: Any) -> None:
    """Let the worker processes of a loader live until their training ends them.

    A signal to the whole group of processes would end them in the middle of a step. They still end with the process
    that they load for.
    """
    begin = getattr(loader, "worker_init_fn", None)
    workers = getattr(loader, "num_workers", 0)
    if workers and hasattr(signal, "sigwaitinfo") and getattr(begin, "func", None) is not _begin_worker:
        loader.worker_init_fn = partial(_begin_worker, begin)
        loader.multiprocessing_context = _unstoppable(loader.multiprocessing_context)


def name_of(number: int) -> str:
    """Of a signal: "SIGTERM"."""
    return signal.Signals(number).name


def exit_status(number: int) -> int:
    """That of a program which a signal has ended, as shells count."""
    return 128 + number


def say(line: str) -> None:
    """A line on the screen, from within a signal handler: it may have interrupted a print."""
    with suppress(OSError):
        os.write(2, f"\n{line}\n".encode())


def _unstoppable(context: Any) -> Any:
    """The same way to start processes, but SIGTERM waits in them, for it may come before :func:`_begin_worker` does."""
    usual: Any = copy(context or multiprocessing.get_context())

    class Process(usual.Process):
        def start(self) -> None:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            try:
                super().start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    usual.Process = Process
    return usual


def _begin_worker(begin: Callable[[int], None] | None, worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    training = multiprocessing.parent_process()
    threading.Thread(target=_end_with, args=(training.pid if training else 0,), daemon=True).start()
    if begin is not None:
        begin(worker)


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _default(number: int) -> None:
    """What the signal does to a program that has not heard of any of this."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
