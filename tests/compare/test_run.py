"""Stages, by a runner that trains nothing: what is run with what, what is kept, what goes on after a stop."""

import fcntl
import json
import os
import sys

import pytest

from monai_kd.compare import StageError, compare, plan_comparison
from monai_kd.compare import run as module
from monai_kd.compare.run import stages

RUNNER = """
import json, os, pathlib, sys
arguments = json.load(open(sys.argv[2]))
folder, models = pathlib.Path(arguments["output_dir"]), pathlib.Path(arguments["ckpt_dir"])
evaluation = arguments["config_file"][-1].endswith("evaluate.json")
calls = pathlib.Path(os.environ["CALLS"])
calls.open("a").write(json.dumps(dict(arguments, evaluation=evaluation)) + "\\n")
stop = os.environ.get("STOP", "")
if evaluation:
    assert (models / "model.pt").is_file()
    if stop == "evaluation":
        sys.exit("no memory")
    (folder / (arguments["run_name"] + ".evaluation.json")).write_text("{}")
else:
    models.mkdir(parents=True, exist_ok=True)
    for epoch in (1, 2):
        print(f"Epoch: {epoch}/2, Iter: 1/1 -- loss: 1.0")
        (models / "run_resume.pt").write_text("x")
        if stop == arguments["run_name"]:
            sys.exit("error: the disk is full")
    (models / "model.pt").write_text("weights")
"""


@pytest.fixture
def bundle(tmp_path):
    configs = tmp_path / "bundle" / "configs"
    configs.mkdir(parents=True)
    for name in ("train", "evaluate", "teacher", "baseline"):
        (configs / f"{name}.json").write_text("{}")
    (configs / "metadata.json").write_text('{"version": "0.2.0"}')
    return configs.parent


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """What the runner was called with so far."""
    (tmp_path / "runner.py").write_text(RUNNER)
    monkeypatch.setattr(module, "RUNNER", (sys.executable, str(tmp_path / "runner.py")))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))

    def read():
        path = tmp_path / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


def done(calls):
    return [(one["run_name"], one["seed"], "evaluation" if one["evaluation"] else "training") for one in calls]


def test_every_network_is_trained_and_evaluated_with_every_seed(bundle, calls, tmp_path):
    plan = plan_comparison(bundle, seeds=[0, 1], overrides={"epochs": 2})
    output = compare(plan, tmp_path / "runs")
    names = [("teacher", 0), ("baseline", 0), ("baseline", 1), ("distilled", 0), ("distilled", 1)]
    assert done(calls()) == [(*one, what) for one in names for what in ("training", "evaluation")]
    last = calls()[-1]
    assert last["teacher_checkpoint"] == str(output / "teacher" / "seed_0" / "models" / "model.pt")
    assert last["ckpt_dir"] == str(output / "distilled" / "seed_1" / "models")
    assert last["epochs"] == 2
    assert all(stage.finished for stage in stages(plan, output))
    assert not list(output.rglob("*_resume.pt"))


def test_a_teacher_that_another_run_wrote_is_evaluated_only(bundle, calls, tmp_path):
    networks = {
        "baseline": {"role": "baseline", "files": ["baseline.json"]},
        "distilled": {"role": "student"},
        "teacher": {"role": "teacher", "files": ["teacher.json"], "evaluates": "distilled"},
    }
    (bundle / "configs" / "compare.json").write_text(json.dumps({"score": "accuracy", "networks": networks}))
    output = compare(plan_comparison(bundle, seeds=[5]), tmp_path / "runs")
    last = calls()[-1]
    assert done(calls())[-2:] == [("distilled", 5, "evaluation"), ("teacher", 5, "evaluation")]
    assert last["ckpt_dir"] == str(output / "distilled" / "seed_5" / "models")
    assert last["output_dir"] == str(output / "teacher" / "seed_5")
    assert "checkpoint" not in last


def test_study_says_what_was_run(bundle, calls, tmp_path):
    output = compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs", command="monai-kd compare it")
    study = json.loads((output / "study.json").read_text())
    assert (study["bundle"], study["bundle_version"], study["command"]) == ("bundle", "0.2.0", "monai-kd compare it")
    assert study["seeds"] == [0]
    assert {"monai", "torch", "python"} <= study["versions"].keys()


def test_a_finished_comparison_is_not_run_again(bundle, calls, tmp_path):
    plan = plan_comparison(bundle, seeds=[0])
    compare(plan, tmp_path / "runs")
    before = len(calls())
    compare(plan, tmp_path / "runs")
    assert len(calls()) == before


@pytest.mark.parametrize("stop", ["baseline", "evaluation"])
def test_a_failed_run_is_told_and_what_is_finished_is_kept(bundle, calls, tmp_path, monkeypatch, stop):
    plan = plan_comparison(bundle, seeds=[0])
    monkeypatch.setenv("STOP", stop)
    with pytest.raises(StageError, match=r"the (training|evaluation) of \w+, seed 0 ended with status 1"):
        compare(plan, tmp_path / "runs")
    monkeypatch.delenv("STOP")
    before = len(calls())
    compare(plan, tmp_path / "runs")
    after = calls()[before:]
    if stop == "baseline":
        assert done(after)[0] == ("baseline", 0, "training")
        assert after[0]["resume"] is True
    else:
        assert done(after)[0] == ("teacher", 0, "evaluation")
    whole = [one for one in done(calls()) if one[2] == "training"]
    assert whole.count(("teacher", 0, "training")) == 1


def test_the_log_of_a_failed_run_is_shown(bundle, calls, tmp_path, monkeypatch):
    monkeypatch.setenv("STOP", "teacher")
    with pytest.raises(StageError, match="the disk is full"):
        compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs")
    assert "Epoch: 1/2" in (tmp_path / "runs" / "teacher" / "seed_0" / "training.log").read_text()


def test_what_an_interrupted_training_left_is_not_taken_for_a_model(bundle, calls, tmp_path):
    folder = tmp_path / "runs" / "teacher" / "seed_0"
    plan = plan_comparison(bundle, seeds=[0])
    compare(plan, tmp_path / "runs")
    for name in ("run.json", "trained.json"):
        (folder / name).unlink()
    (folder / "models" / "model.pt").write_text("half of it")
    compare(plan, tmp_path / "runs")
    assert (folder / "models" / "model.pt").read_text() == "weights"


def test_another_comparison_in_the_folder_is_refused(bundle, calls, tmp_path):
    compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs")
    with pytest.raises(ValueError, match=r"holds another comparison: overrides, seeds differ"):
        compare(plan_comparison(bundle, seeds=[1], overrides={"epochs": 9}), tmp_path / "runs")


def test_a_folder_of_something_else_is_refused(bundle, calls, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="is not empty and holds no comparison"):
        compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs")


def test_two_at_once_in_one_folder_are_refused(bundle, calls, tmp_path):
    plan = plan_comparison(bundle, seeds=[0])
    compare(plan, tmp_path / "runs")
    descriptor = os.open(tmp_path / "runs" / ".lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(StageError, match="another process works in"):
            compare(plan, tmp_path / "runs")
    finally:
        os.close(descriptor)


def test_progress_is_told(bundle, calls, tmp_path):
    seen = []
    compare(
        plan_comparison(bundle, seeds=[0]),
        tmp_path / "runs",
        progress=lambda stage, what, share: seen.append((stage.name, what, share)),
    )
    assert seen[:5] == [
        ("teacher, seed 0", "training", 0.0),
        ("teacher, seed 0", "training", 0.0),
        ("teacher, seed 0", "training", 0.5),
        ("teacher, seed 0", "evaluation", 0.0),
        ("teacher, seed 0", "finished", 1.0),
    ]
