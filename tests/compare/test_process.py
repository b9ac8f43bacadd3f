"""A process ends with what started it, and its folder knows who works there."""

import os
import signal
import sys
import threading
import time

import pytest

from monai_kd.compare.process import locked, run_process

SLEEP = "import time; print('begun', flush=True); time.sleep(60)"


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_output_is_logged_and_watched(tmp_path):
    seen = []
    code = "print('Zähler 1'); print('two'); raise SystemExit(3)"
    with locked(tmp_path) as lock:
        assert run_process([sys.executable, "-c", code], tmp_path / "log", lock, seen.append) == 3
    assert seen == ["Zähler 1\n", "two\n"]
    assert (tmp_path / "log").read_text(encoding="utf-8") == "Zähler 1\ntwo\n"


def test_the_folder_names_who_works_in_it(tmp_path):
    seen = []

    def watch(_):
        seen.append(int((tmp_path / ".lock").read_text(encoding="utf-8")))

    with locked(tmp_path) as lock:
        run_process([sys.executable, "-c", "import os; print(os.getpid())"], tmp_path / "log", lock, watch)
        assert int((tmp_path / ".lock").read_text(encoding="utf-8")) == os.getpid()
    assert seen == [int((tmp_path / "log").read_text(encoding="utf-8"))]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_was_started(tmp_path, number):
    before, pid = signal.getsignal(number), []

    def watch(_):
        pid.append(int((tmp_path / ".lock").read_text(encoding="utf-8")))
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()

    with locked(tmp_path) as lock, pytest.raises(SystemExit) as stopped:
        run_process([sys.executable, "-c", SLEEP], tmp_path / "log", lock, watch)
    assert stopped.value.code == 128 + number
    assert not alive(pid[0])
    assert signal.getsignal(number) == before


def test_what_outlives_a_killed_parent_holds_the_folder(tmp_path):
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(tmp_path) as lock:
            run_process([sys.executable, "-c", SLEEP], tmp_path / "log", lock, lambda _: os.write(go, b"1"))
        os._exit(0)
    os.read(ready, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    left = int((tmp_path / ".lock").read_text(encoding="utf-8"))
    with pytest.raises(BlockingIOError, match=f"process {left} works in"), locked(tmp_path):
        pass
    os.kill(left, signal.SIGKILL)
    for _ in range(100):
        try:
            with locked(tmp_path):
                return
        except BlockingIOError:
            time.sleep(0.05)
    pytest.fail("the lock outlives the process")
