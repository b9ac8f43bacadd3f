"""What processes that fail tell each other and the launcher, by the launcher's store and files, without a launcher."""

from __future__ import annotations

import logging
import os
import sys

import ignite.distributed as idist
import pytest
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from monai_kd._launcher import failed_before, first_to_fail, lost_the_others, tell_launcher
from monai_kd.errors import readable_errors
from monai_kd.launch import join_processes

from .bundles.conftest import keep_the_hooks

__all__ = ["keep_the_hooks"]

CLOSED = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:47317."


@pytest.fixture
def launcher(monkeypatch, tmp_path):
    """The environment of two processes of one launcher; its store."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)
    for key, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": store.port,
        "RANK": 0,
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


def test_without_a_launcher_a_process_is_the_first(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert first_to_fail("wrong") == (True, "wrong")
    assert failed_before() is None


def test_a_store_that_is_gone_hides_no_error(launcher, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "no port")
    assert first_to_fail("wrong") == (True, "wrong")
    assert failed_before() is None


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


def test_one_process_says_why_and_the_other_that_it_ends_too(launcher, monkeypatch, capsys, caplog):
    readable_errors()
    log = logging.getLogger("engine")

    def fail(rank, error):
        monkeypatch.setenv("RANK", str(rank))
        log.error(f"Current run is terminating due to exception: {error}")
        sys.excepthook(type(error), error, None)
        return capsys.readouterr().err.splitlines()

    lost = fail(0, RuntimeError(CLOSED))
    assert lost[0].startswith("error: another process of this training is not there any more, and left no message")
    assert "terminating due to exception: another process is not there any more" in caplog.text
    assert "gloo" not in caplog.text
    assert "ValueError: wrong" in fail(1, ValueError("wrong"))
    assert fail(0, RuntimeError(CLOSED))[0] == "error: process 1 has failed, its message says why: this ends too."
    assert fail(0, ValueError("wrong")) == []  # as process 1 has said
    assert "ValueError: else" in fail(0, ValueError("else"))


def test_who_was_not_started_by_a_launcher_is_told(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT\): start it with torchrun, or"):
        join_processes()


def test_launchers_that_would_not_find_each_other_again_are_refused(launcher, monkeypatch):
    for key, value in {"GROUP_WORLD_SIZE": 2, "TORCHELASTIC_MAX_RESTARTS": 3}.items():
        monkeypatch.setenv(key, str(value))
    with pytest.raises(ValueError, match="set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where each torchrun starts"):
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
        dist.destroy_process_group()


def test_a_second_group_does_not_meet_what_the_first_has_left(launcher, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    left = []
    for _ in range(2):
        join_processes()
        assert dist.get_world_size() == 1
        dist.destroy_process_group()
        left.append(set(launcher.list_keys()))
    assert 0 < len(left[0]) < len(left[1])
