"""Trainings as processes, killed at a point of one's choice and resumed until they are done."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from ..bundles.running import PYTHON, environment, results, weights

STEP = b"Iter: "  # in the line that is logged of each
STOPPED = 128 + signal.SIGTERM
PATIENCE = 300  # seconds without the next point
KINDS = ("step", "resume file", "best model", "signal")


class Training:
    """A bundle's training that is run in many folders.

    Args:
        bundle: a ``Bundle``.
        common: its settings but for the folders.
    """

    def __init__(self, bundle, common):
        self.bundle = bundle
        self.common = {**common, "log_interval": 1}

    def settings(self, folder, **more):
        return {**self.common, "ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval"), **more}

    def whole(self, folder):
        """Train in one go, in this process; the number of steps."""
        flow = self.bundle.run("train.json", **self.settings(folder))
        return flow.parser.get_parsed_content("train#trainer").state.iteration

    def killed(self, folder, kind, step, delay=0.0):
        """Train until the point, and kill: whether the training came to it before its end.

        Args:
            kind: "step": so many steps are done, and ``delay`` seconds are over; "resume file": after the step, one is
                being written; "best model": after the step, one has just been begun or written; "signal": as "step",
                and all its processes are sent SIGTERM instead, as a scheduler does, after which it saves and ends.
        """
        with self._process(folder) as process:
            if not _reached(process, lambda: (folder / "log").read_bytes().count(STEP) >= step, every=0.005):
                return False
            if kind in ("step", "signal"):
                time.sleep(delay)
            elif kind == "resume file":
                if not _reached(process, lambda: _half_files(folder) and _halted(process, folder)):
                    return False
            else:
                before = _stamp(folder)
                if not _reached(process, lambda: _stamp(folder) != before):
                    return False
            if kind == "signal":
                return self._stopped(process, folder)
            os.killpg(process.pid, signal.SIGKILL)
            killed = process.wait() == -signal.SIGKILL
        assert _half_files(folder) or kind != "resume file"
        return killed

    def _stopped(self, process, folder):
        os.killpg(process.pid, signal.SIGTERM)
        status = process.wait(PATIENCE)
        # Behind the last epoch, the interpreter may be on its way out already.
        done = (0, -signal.SIGTERM) if self._complete(folder) else ()
        assert status in (STOPPED, *done), (folder / "log").read_text(encoding="utf-8")[-3000:]
        return status == STOPPED

    def _complete(self, folder):
        file = folder / "models" / "distilled_resume.pt"
        return file.is_file() and weights(file)["trainer"]["epoch"] == self.common["epochs"]

    def finish(self, folder):
        """Resume, or begin anew where no epoch was finished, until the training is done."""
        resumable = any((folder / "models").glob("distilled_resume.pt*"))
        with self._process(folder, **({"resume": True} if resumable else {})) as process:
            status = process.wait(PATIENCE)
        assert status == 0, (folder / "log").read_text(encoding="utf-8")[-3000:]

    @contextmanager
    def _process(self, folder, **more):
        """A process group of its own, of which nothing is left."""
        folder.mkdir(exist_ok=True)
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(
                self.bundle.words(PYTHON, "train.json", **self.settings(folder, **more)),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(),
                start_new_session=True,
            )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # it has ended, and been waited for
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def left(folder):
    """What is compared, by file: every checkpoint and the table of epochs, and that there is nothing beside them.

    A resume file holds network, optimizer, schedules, distiller (adapters, banks, mean teacher), the best scores and
    the numbers of epochs and steps. Not compared: TensorBoard's files, caches, and what was logged.
    """
    names = sorted(path.name for path in (folder / "eval").iterdir() if path.is_file())
    return {**results(folder), "names": names}


def _half_files(folder):
    return list((folder / "models").glob(".distilled_resume.pt.*"))


def _halted(process, folder):
    """Hold the processes; whether the file is still being written then. If not, let them go on."""
    os.killpg(process.pid, signal.SIGSTOP)
    while (state := _state(process.pid)) not in "TZ":
        assert state
    if _half_files(folder):
        return True
    os.killpg(process.pid, signal.SIGCONT)
    return False


def _state(number):
    """A letter: R of a process that runs, T of one that is held, Z of one that has ended."""
    return Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


def _stamp(folder):
    try:
        status = (folder / "models" / "model.pt").stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _reached(process, condition, every=0.0002):
    """Wait for it, looking at it ``every`` so many seconds; False if the process ends before."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None:
        if condition():
            return True
        assert time.monotonic() < end
        time.sleep(every)
    return False
