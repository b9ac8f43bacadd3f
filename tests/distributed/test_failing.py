"""A process that fails ends the training of all with its reason, and a launcher that restarts them loses nothing."""

import json
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..bundles.running import TORCHRUN as LAUNCHER
from ..bundles.running import Bundle, differing, finished, results, weights
from .recipes import KDAS, made

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SOON = 60  # seconds, on a machine that has other things to do; without being told, gloo waits for half an hour
# In the second of three epochs, of the second process, where it is not restarted.
AT = "Events.ITERATION_STARTED(once=5)"
NOT_FINITE = "[p.data.fill_(float('nan')) for p in @network_def.parameters()]"
KILLED = "os.kill(os.getpid(), 9)"
REASON = re.compile(r"error: distillation term .* are not finite in epoch 2, iteration 5\.")


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    settings = made(KDAS, folder)
    del settings["device"]
    own = {
        "epochs": 3,
        "epoch_length": 3,
        "scales": [1.0],
        "batch_size": 3,
        "labelled_fraction": 0.5,
        "learning_rate": 0.001,
    }
    return {**settings, **own}


def start(common, folder, happens, launcher=LAUNCHER):
    """The training in two processes, in the second of which something happens; when it did is in the file ``time``."""
    override = {
        "+imports": ["$import time", "$from pathlib import Path", "$from ignite.engine import Events"],
        "+initialize": [
            f"$@train#trainer.add_event_handler({AT}, lambda: "
            f"(Path('{folder}/time').write_text(str(time.time())), {happens})) "
            "if os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' else None"
        ],
    }
    folder.mkdir(exist_ok=True)
    path = folder / "override.json"
    path.write_text(json.dumps(override), encoding="utf-8")
    where = {"ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}
    return Bundle(KDAS).start(launcher, "train.json", "multi_gpu_train.json", path, **{**common, **where})


def other_than(folder, whole):
    """What a run has left otherwise than the uninterrupted one, but for the name of its job."""
    return [key for key in differing(results(folder), results(whole)) if not key.endswith("/job")]


def ended_soon(folder):
    return time.time() - float((folder / "time").read_text(encoding="utf-8")) < SOON


# Where processes meet: in the launcher's store, or in one of process 0, as on several machines with restarts.
STORES = ["launcher", pytest.param("process 0", marks=pytest.mark.distributed)]


@pytest.fixture(params=STORES)
def store(request, monkeypatch):
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", str(int(request.param == "process 0")))
    return request.param


def test_a_process_that_fails_ends_the_training_with_its_reason(common, store, tmp_path):
    status, shown, errors = finished(start(common, tmp_path / "run", NOT_FINITE))
    assert status == 1, shown[-5000:]
    assert ended_soon(tmp_path / "run")
    said = [line for line in errors.splitlines() if "error: " in line and "Engine" not in line]
    (reason,) = (line for line in said if REASON.search(line))
    assert reason.startswith("[rank1]: ")
    (other,) = (line for line in said if line != reason and line.startswith("[rank"))
    assert other == "[rank0]: error: process 1 has failed, its message says why: this ends too."
    assert shown.count("Traceback") == 1  # the launcher's own
    cause = errors.partition("Root Cause")[2]
    assert "rank      : 1" in cause
    assert "traceback : distillation term" in cause
    resume = weights(tmp_path / "run" / "models" / "distilled_resume.pt")
    assert resume["trainer"]["epoch"] == 1


@pytest.mark.distributed
def test_what_is_wrong_in_all_processes_ends_them_before_the_training(common, store, tmp_path):
    status, shown, errors = finished(start({**common, "batch_size": 0}, tmp_path / "run", "None"))
    assert status == 1, shown[-5000:]
    said = [line for line in errors.splitlines() if "error: settings that cannot be used:" in line]
    assert len(said) == 1 or (store == "process 0" and len(said) == 2)  # process 0 may have ended before the other asks
    assert "batch_size must be a whole number from 1, got 0" in errors
    assert "not there any more" not in shown
    assert shown.count("Traceback") == 1  # the launcher's own
    assert not (tmp_path / "run" / "models").exists()


@pytest.fixture(scope="module")
def whole(common, tmp_path_factory):
    """Of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole")
    status, shown, _ = finished(start(common, folder, "None"))
    assert status == 0, shown[-5000:]
    return folder


def test_processes_that_are_restarted_go_on_as_if_none_had_been_killed(common, whole, tmp_path):
    status, shown, _ = finished(start(common, tmp_path / "run", KILLED, [*LAUNCHER, "--max-restarts=1"]))
    assert status == 0, shown[-5000:]
    assert (tmp_path / "run" / "time").is_file()
    assert other_than(tmp_path / "run", whole) == []
    assert "killed, out of memory" in shown
    assert [shown.count(f"Epoch: {epoch}/3, Iter: 1/3") for epoch in (1, 2, 3)] == [1, 2, 1]


@pytest.mark.distributed
def test_two_nodes_train_as_one_and_are_restarted_together(common, whole, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = ["--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=7", "--local_addr=127.0.0.1"]
    node = [*LAUNCHER[:3], "--nnodes=2", "--nproc_per_node=1", "--max-restarts=1", *meet]
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    nodes = [start(common, tmp_path / "run", KILLED, node) for _ in range(2)]
    with ThreadPoolExecutor() as readers:  # of both, or one would wait until somebody reads what it says
        for status, shown, _ in readers.map(finished, nodes):
            assert status == 0, shown[-5000:]
    assert (tmp_path / "run" / "time").is_file()
    assert other_than(tmp_path / "run", whole) == []


@pytest.mark.distributed
def test_a_process_that_is_killed_ends_the_training(common, tmp_path):
    status, shown, errors = finished(start(common, tmp_path / "run", KILLED))
    assert status == 1, shown[-5000:]
    assert ended_soon(tmp_path / "run")
    cause = errors.partition("Root Cause")[2]
    assert f"exitcode  : {-signal.SIGKILL} " in cause
    (said,) = (line for line in errors.splitlines() if line.startswith("[rank") and "error: " in line)
    assert said.startswith("[rank0]: error: another process of this training is not there any more")
