"""What is forbidden is seen: the harness fails where the library would."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from . import doors, running, worker
from .corpus import corpus
from .inputs import Input, file_of
from .outcome import Outcome, WrongResult, refused, refused_by


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ("'a.png' cannot be read: cut short", "refused"),
        ("cannot be read: cut short", "unclear"),
        ("KeyError: 'a.png'", "unclear"),
        ("a.png: Unable to allocate 1.00 TiB for an array", "memory"),
    ],
)
def test_messages(message, word):
    assert refused(message, "a.png").word == word


def test_errors():
    from monai_kd.data import class_weights

    def error_of(call):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            call()
        return caught.value

    assert refused_by(error_of(lambda: {}["a.png"]), "a.png").word == "unclear"
    assert refused_by(error_of(lambda: Path("nowhere/a.png").read_bytes()), "a.png").word == "refused"
    assert refused_by(error_of(lambda: class_weights([], 1)), "no labelled item").word == "refused"
    assert refused_by(error_of(lambda: class_weights([], 1)), "a.png").word == "unclear"
    assert refused_by(MemoryError()).word == "memory"
    assert refused_by(WrongResult("other pixels")).word == "silent wrong"


@pytest.mark.parametrize("name", ["EPS named .png", "EPS with a place for a preview, named .tif"])
def test_a_started_program_is_seen(name, monkeypatch):
    def take(one, path, out):
        Image.open(path).load()

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # to be looked for
    monkeypatch.setitem(doors.DOORS, "picture", {"taking": take})
    one = corpus()[f"picture: {name}"]
    assert doors.bring(one, "taking") == Outcome("silent wrong", "code in it was executed")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)


def _fill(one, path, out):
    bytearray(400 << 20)[:] = b"x" * (400 << 20)
    return Outcome("handled")


def test_memory_is_seen(monkeypatch):
    if not worker._STATUS.exists():
        pytest.skip("the system does not say how much memory a process has")
    monkeypatch.setitem(doors.DOORS, "picture", {"filling": _fill})
    monkeypatch.setattr(doors, "prepare", lambda kind: None)
    assert worker.measured(Input("picture", "any", file_of(b"", "a.png")), "filling").word == "memory"


def test_hangs_and_crashes_are_seen_and_the_others_done(monkeypatch, tmp_path):
    """With a worker that sleeps, dies or answers, by the name of the door."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, os, sys, time\n"
        "for number, (key, door) in enumerate(json.load(sys.stdin)):\n"
        "    print(json.dumps({'begun': number}), flush=True)\n"
        "    if door == 'hang': time.sleep(60)\n"
        f"    if door == 'crash': os.kill(os.getpid(), {int(signal.SIGSEGV)})\n"
        "    print(json.dumps({'done': number, 'word': 'refused', 'said': ''}), flush=True)\n"
    )
    start = running.subprocess.Popen
    monkeypatch.setattr(running.subprocess, "Popen", lambda words, **more: start([words[0], str(script)], **more))
    monkeypatch.setattr(running, "START", 5.0)
    monkeypatch.setattr(running, "LIMIT", 1.0)
    jobs = [("a", "good"), ("b", "hang"), ("c", "good"), ("d", "crash"), ("e", "crash"), ("f", "good")]
    begun = time.monotonic()
    found = running.run_all(jobs)
    assert [found[job].word for job in jobs] == ["refused", "hang", "refused", "crash", "crash", "refused"]
    assert time.monotonic() - begun < 50
