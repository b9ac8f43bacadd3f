"""What processes that fail tell each other and the launcher, by a store and its files, without a launcher."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time

import ignite.distributed as idist
import pytest
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from monai_kd._launcher import failed_before, first_to_fail, lost_the_others, tell_launcher
from monai_kd.errors import readable_errors
from monai_kd.handlers._resume_file import job
from monai_kd.launch import join_processes

CLOSED = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:47317."


@pytest.fixture
def launcher(monkeypatch, tmp_path):
    """The environment of two processes of one launcher; its store."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)
    for key, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": store.port,
        "RANK": 0,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": 2,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": 0,
        "TORCHELASTIC_ERROR_FILE": tmp_path / "error.json",
    }.items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.delenv("MONAI_KD_TRACEBACK", raising=False)
    return store


def test_the_first_to_fail_is_remembered_until_a_restart(launcher, monkeypatch):
    assert failed_before() is None
    monkeypatch.setenv("RANK", "1")
    assert first_to_fail("no such file: a b") == (True, "no such file: a b")
    monkeypatch.setenv("RANK", "0")
    assert first_to_fail("another") == (False, "no such file: a b")
    assert failed_before() == 1
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert failed_before() is None


def test_process_0_keeps_what_was_said_where_the_launcher_has_no_store(launcher, monkeypatch):
    """Each machine counts restarts of its own, and every start has a new store."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    for rank, restarts, first in ((1, 2, True), (0, 1, False)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        assert first_to_fail("no such file") == (first, "no such file")
        assert failed_before() == 1


def test_one_process_is_the_first(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert first_to_fail("wrong") == (True, "wrong")
    assert failed_before() is None


def test_a_store_that_is_gone_hides_no_error_and_is_not_waited_for(launcher, monkeypatch, capfd):
    with socket.socket() as nobody:  # listens there
        nobody.bind(("127.0.0.1", 0))
        for port in ("no port", nobody.getsockname()[1]):
            monkeypatch.setenv("MASTER_PORT", str(port))
            since = time.monotonic()
            assert first_to_fail("wrong") == (True, "wrong")
            assert failed_before() is None
            assert time.monotonic() - since < 2
    assert capfd.readouterr() == ("", "")


def test_the_launchers_summary_takes_the_cause_for_the_earlier_failure(launcher, monkeypatch, tmp_path):
    failures = []
    for name, cause in (("other", False), ("cause", True)):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / name))
        tell_launcher(f"the {name} fails", cause=cause)
        failures.append(ProcessFailure(0, 1, 1, str(tmp_path / name)))
    assert failures[1].timestamp < failures[0].timestamp
    assert failures[1].message["extraInfo"]["py_callstack"] == "the cause fails"


def test_a_lost_connection_is_one_between_several_processes(launcher, monkeypatch):
    assert lost_the_others(RuntimeError(CLOSED))
    assert lost_the_others(dist.DistNetworkError("Broken pipe"))
    assert not lost_the_others(RuntimeError("shapes differ"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not lost_the_others(RuntimeError(CLOSED))


@pytest.mark.parametrize("launchers", [True, False])
def test_one_process_says_why_and_the_other_that_it_ends_too(launcher, launchers, monkeypatch, capsys, caplog):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", str(launchers))
    readable_errors()
    log = logging.getLogger("engine")

    def fail(rank, error):
        monkeypatch.setenv("RANK", str(rank))
        log.error(f"Current run is terminating due to exception: {error}")
        sys.excepthook(type(error), error, None)
        return capsys.readouterr().err.splitlines()

    lost = fail(0, RuntimeError(CLOSED))
    assert lost[0].startswith("error: another process of this training is not there any more. If none of the others")
    assert "terminating due to exception: another process is not there any more" in caplog.text
    assert "gloo" not in caplog.text
    assert "ValueError: wrong" in fail(1, ValueError("wrong"))
    assert fail(0, RuntimeError(CLOSED))[0] == "error: process 1 has failed, its message says why: this ends too."
    assert fail(0, ValueError("wrong")) == []  # as process 1 has said
    assert "ValueError: else" in fail(0, ValueError("else"))


def test_who_was_not_started_by_a_launcher_is_told(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    said = r"\(RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT\): start it with torchrun, or"
    with pytest.raises(ValueError, match=said):
        join_processes()


def test_launchers_that_would_not_find_each_other_again_are_refused(launcher, monkeypatch):
    for key, value in {"GROUP_WORLD_SIZE": 2, "TORCHELASTIC_MAX_RESTARTS": 3}.items():
        monkeypatch.setenv(key, str(value))
    said = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where each torchrun starts, and take --rdzv_backend=c10d"
    with pytest.raises(ValueError, match=said):
        join_processes()


def test_launchers_whose_job_has_no_number_restart_nothing(launcher, monkeypatch):
    """Or a restarted process would take the file of any other such job."""
    own = {"GROUP_WORLD_SIZE": 2, "TORCHELASTIC_USE_AGENT_STORE": False}
    for key, value in own.items():
        monkeypatch.setenv(key, str(value))
    assert job() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "77")
    assert job() == "77"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ValueError, match="give --rdzv_id, this job's own number"):
        join_processes()


def test_in_a_slurm_job_each_process_keeps_its_number_on_the_machine(launcher, monkeypatch):
    """One task starts a launcher, and that all processes of the machine."""
    for key, value in {"WORLD_SIZE": 1, "LOCAL_RANK": 3, "SLURM_JOB_ID": 77, "SLURM_LOCALID": 0}.items():
        monkeypatch.setenv(key, str(value))
    join_processes()
    try:
        assert idist.get_local_rank() == 3
        assert os.environ["LOCAL_RANK"] == "3"
    finally:
        idist.finalize()  # the group too; ignite would go on asking it otherwise


def test_a_second_group_does_not_meet_what_the_first_has_left(launcher, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    left = []
    for _ in range(2):
        join_processes()
        assert dist.get_world_size() == 1
        dist.destroy_process_group()
        left.append(set(launcher.list_keys()))
    assert 0 < len(left[0]) < len(left[1])
