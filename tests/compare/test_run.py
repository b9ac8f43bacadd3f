"""Stages, by a runner that trains nothing: what is run with what, what is kept, what goes on after a stop."""

import json
import os
import sys
from pathlib import Path

import pytest

from monai_kd.compare import StageError, compare, plan_comparison
from monai_kd.compare import run as module
from monai_kd.compare.process import locked
from monai_kd.compare.run import stages
from monai_kd.report.cost import load_costs

NAMES = ("teacher", "baseline", "distilled")

RUNNER = """
import json, os, pathlib, sys
arguments = json.load(open(sys.argv[2]))
folder, models = pathlib.Path(arguments["output_dir"]), pathlib.Path(arguments["ckpt_dir"])
evaluation = arguments["config_file"][-1].endswith("evaluate.json")
calls = pathlib.Path(os.environ["CALLS"])
calls.open("a").write(json.dumps(dict(arguments, evaluation=evaluation)) + "\\n")
stop = os.environ.get("STOP", "")
if evaluation:
    assert (models / arguments.get("checkpoint", "model.pt")).is_file()
    if stop == "evaluation":
        sys.exit("no memory")
    cost = {"parameters": 1, "gmac": 1.0, "milliseconds": 1.0}
    scores = {"meanDice": 0.5, "accuracy": 0.5}
    found = {"name": arguments["run_name"], "scores": scores, "cases": 3, "cost": cost, "input_shape": [1, 1, 8, 8]}
    (folder / (arguments["run_name"] + ".evaluation.json")).write_text(json.dumps(found))
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
    for name in ("evaluate", "teacher", "baseline"):
        (configs / f"{name}.json").write_text("{}")
    network = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 3}
    data = {
        "train": {"dataset": {"data": [{"image": "a.png", "label": "b.png"}, {"image": "c.png"}]}},
        "validate": {"dataset": {"data": [{"image": "d.png", "label": 1}]}},
    }
    (configs / "train.json").write_text(
        json.dumps({"network_def": network, "dataset_dir": "data", "epochs": 1, **data})
    )
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
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

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
    study = json.loads((output / "study.json").read_text(encoding="utf-8"))
    assert (study["bundle"], study["bundle_version"], study["command"]) == ("bundle", "0.2.0", "monai-kd compare it")
    assert study["seeds"] == [0]
    assert {"monai", "torch", "python"} <= study["versions"].keys()
    assert study["networks"]["teacher"]["seeds"] == [0]


def test_study_knows_the_data(bundle, calls, tmp_path):
    data = json.loads(
        (compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs") / "study.json").read_text(encoding="utf-8")
    )["data"]
    assert data["dataset_dir"] == str(Path("data").resolve())
    assert data["split"] == {"training": 1, "unlabelled": 1, "validation": 1, "test": 1}
    assert data["test_cases"] == [{"image": str(Path("d.png").resolve()), "label": 1}]
    assert data["other_splits"] == {}


def test_a_teacher_with_more_labels_is_told(bundle, calls, tmp_path):
    items = [{"image": name, "label": "b.png"} for name in ("a.png", "c.png")]
    (bundle / "configs" / "teacher.json").write_text(json.dumps({"train#dataset#data": items}))
    output = compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs")
    data = json.loads((output / "study.json").read_text(encoding="utf-8"))["data"]
    assert data["split"]["training"] == 1
    assert data["other_splits"] == {"teacher": {"training": 2, "unlabelled": 0}}


def test_networks_are_timed_side_by_side_once(bundle, calls, tmp_path):
    plan = plan_comparison(bundle, seeds=[0])
    output = compare(plan, tmp_path / "runs")
    costs, how = load_costs(output)
    assert list(costs) == ["teacher", "baseline", "distilled"]
    assert costs["distilled"].parameters == 10
    assert "in turns" in how
    assert costs["baseline"] == costs["distilled"] == costs["teacher"]  # one network, so one measurement
    before = (output / "cost.json").read_bytes()
    compare(plan, output)
    assert (output / "cost.json").read_bytes() == before


def test_masks_are_kept_where_the_evaluation_can(bundle, calls, tmp_path):
    (bundle / "configs" / "evaluate.json").write_text('{"masks_dir": null}')
    output = compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs")
    evaluations = [one for one in calls() if one["evaluation"]]
    assert [one["masks_dir"] for one in evaluations] == [str(output / n / "seed_0" / "masks") for n in NAMES]
    assert all("masks_dir" not in one for one in calls() if not one["evaluation"])


def test_one_cache_serves_all_runs_and_is_removed(bundle, calls, tmp_path):
    (bundle / "configs" / "baseline.json").write_text('{"cache_dir": "$@output_dir + \'/cache\'"}')
    output = tmp_path / "runs"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").write_text("")
    compare(plan_comparison(bundle, seeds=[0]), output)
    folders = {one["run_name"]: one.get("cache_dir") for one in calls()}
    assert folders == {"teacher": None, "baseline": str(output / "cache"), "distilled": None}
    assert not (output / "cache").exists()
    own = {"cache_dir": str(tmp_path / "mine")}
    compare(plan_comparison(bundle, seeds=[0], overrides=own), tmp_path / "others")
    assert {one["cache_dir"] for one in calls()[6:]} == {str(tmp_path / "mine")}
    assert (tmp_path / "mine" / "kept").is_file()


def test_a_network_that_is_trained_already_is_scored_once(bundle, calls, tmp_path):
    networks = {
        "teacher": {"role": "teacher", "files": ["teacher.json"], "checkpoint": "teacher.pt"},
        "baseline": {"role": "baseline", "files": ["baseline.json"]},
        "distilled": {"role": "student", "needs": {"teacher_checkpoint": "teacher"}},
    }
    (bundle / "configs" / "compare.json").write_text(json.dumps({"score": "accuracy", "networks": networks}))
    (bundle / "models").mkdir()
    (bundle / "models" / "teacher.pt").write_text("weights")
    output = compare(plan_comparison(bundle, seeds=[3, 4]), tmp_path / "runs")
    assert done(calls())[:2] == [("teacher", 3, "evaluation"), ("baseline", 3, "training")]
    assert calls()[0]["ckpt_dir"] == str(bundle / "models")
    assert calls()[-1]["teacher_checkpoint"] == str(bundle / "models" / "teacher.pt")
    assert (bundle / "models" / "teacher.pt").read_text(encoding="utf-8") == "weights"
    about = json.loads((output / "teacher" / "seed_3" / "run.json").read_text(encoding="utf-8"))
    assert (output / about["checkpoint"]).resolve() == bundle / "models" / "teacher.pt"


def test_an_override_of_one_network_is_no_other_ones(bundle, calls, tmp_path):
    compare(plan_comparison(bundle, seeds=[0], overrides={"teacher:epochs": 9, "epochs": 2}), tmp_path / "runs")
    epochs = {one["run_name"]: one["epochs"] for one in calls()}
    assert epochs == {"teacher": 9, "baseline": 2, "distilled": 2}


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


def test_a_run_that_was_killed_between_two_resume_files_goes_on(bundle, calls, tmp_path, monkeypatch):
    plan = plan_comparison(bundle, seeds=[0])
    monkeypatch.setenv("STOP", "baseline")
    with pytest.raises(StageError):
        compare(plan, tmp_path / "runs")
    monkeypatch.delenv("STOP")
    (path,) = (tmp_path / "runs").rglob("run_resume.pt")
    path.rename(path.with_name("run_resume.pt.previous"))
    before = len(calls())
    compare(plan, tmp_path / "runs")
    assert calls()[before]["resume"] is True


def test_the_log_of_a_failed_run_is_shown(bundle, calls, tmp_path, monkeypatch):
    monkeypatch.setenv("STOP", "teacher")
    with pytest.raises(StageError, match="the disk is full"):
        compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs")
    assert "Epoch: 1/2" in (tmp_path / "runs" / "teacher" / "seed_0" / "training.log").read_text(encoding="utf-8")


def test_what_an_interrupted_training_left_is_not_taken_for_a_model(bundle, calls, tmp_path):
    folder = tmp_path / "runs" / "teacher" / "seed_0"
    plan = plan_comparison(bundle, seeds=[0])
    compare(plan, tmp_path / "runs")
    for name in ("run.json", "trained.json"):
        (folder / name).unlink()
    (folder / "models" / "model.pt").write_text("half of it")
    compare(plan, tmp_path / "runs")
    assert (folder / "models" / "model.pt").read_text(encoding="utf-8") == "weights"


def test_another_comparison_in_the_folder_is_refused(bundle, calls, tmp_path):
    compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs")
    with pytest.raises(ValueError, match=r"holds another comparison: overrides, seeds differ"):
        compare(plan_comparison(bundle, seeds=[1], overrides={"epochs": 9}), tmp_path / "runs")
    with pytest.raises(ValueError, match=r"holds another comparison: networks differ"):
        compare(plan_comparison(bundle, seeds=[0], overrides={"teacher:epochs": 9}), tmp_path / "runs")


def test_a_comparison_grows_by_seeds_and_networks(bundle, calls, tmp_path):
    output = compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs")
    before, costs = done(calls()), (output / "cost.json").read_bytes()
    compare(plan_comparison(bundle, seeds=[0, 1]), output)
    assert done(calls())[len(before) :] == [
        (name, 1, what) for name in ("baseline", "distilled") for what in ("training", "evaluation")
    ]
    assert (output / "cost.json").read_bytes() == costs
    (bundle / "configs" / "soft_targets.json").write_text("{}")
    compare(plan_comparison(bundle, seeds=[0, 1], methods=["soft_targets"]), output)
    assert done(calls())[-4:] == [("soft_targets", s, w) for s in (0, 1) for w in ("training", "evaluation")]
    assert "soft_targets" in load_costs(output)[0]
    study = json.loads((output / "study.json").read_text(encoding="utf-8"))
    assert study["seeds"] == study["networks"]["soft_targets"]["seeds"] == [0, 1]
    with pytest.raises(ValueError, match="holds another comparison: networks, seeds differ"):
        compare(plan_comparison(bundle, seeds=[0]), output)


def test_a_folder_of_something_else_is_refused(bundle, calls, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="is not empty and holds no comparison"):
        compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs")


def test_two_at_once_in_one_folder_are_refused(bundle, calls, tmp_path):
    compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs")
    before = (tmp_path / "runs" / "study.json").read_bytes()
    with (
        locked(tmp_path / "runs"),
        pytest.raises(BlockingIOError, match=rf"process {os.getpid()} works in '.*runs'; wait for it, or stop it"),
    ):
        compare(plan_comparison(bundle, seeds=[0, 1]), tmp_path / "runs")
    assert (tmp_path / "runs" / "study.json").read_bytes() == before


def test_a_folder_that_configurations_misread_is_refused(bundle, calls, tmp_path):
    with pytest.raises(ValueError, match="has '#' or '::', which mean a path of keys"):
        compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs#1")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is no folder"):
        compare(plan_comparison(bundle, seeds=[0]), tmp_path / "file")
    assert not calls()


def test_a_score_that_is_not_there_is_told_after_the_first_evaluation(bundle, calls, tmp_path):
    with pytest.raises(
        ValueError, match=r"has no score 'kappa'; it has accuracy, meanDice\. Repeat the command with one"
    ):
        compare(plan_comparison(bundle, seeds=[0], score="kappa"), tmp_path / "runs")
    assert done(calls()) == [("teacher", 0, "training"), ("teacher", 0, "evaluation")]
    compare(plan_comparison(bundle, seeds=[0], score="accuracy"), tmp_path / "runs")
    assert done(calls()).count(("teacher", 0, "training")) == 1
    assert json.loads((tmp_path / "runs" / "study.json").read_text(encoding="utf-8"))["score"] == "accuracy"


def test_a_changed_recipe_is_another_comparison(bundle, calls, tmp_path):
    compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs")
    (bundle / "configs" / "teacher.json").write_text('{"epochs": 3}')
    with pytest.raises(ValueError, match=r"holds another comparison: 'configs/teacher.json' differ"):
        compare(plan_comparison(bundle, seeds=[0, 1]), tmp_path / "runs")


def test_a_moved_bundle_is_the_same(bundle, calls, tmp_path):
    demo = bundle / "configs" / "demo.json"
    demo.write_text("{}")
    compare(plan_comparison(bundle, seeds=[0], config_files=[demo]), tmp_path / "runs")
    before = len(calls())
    moved = bundle.rename(tmp_path / "there").parent / "there" / "bundle"
    (tmp_path / "there").rename(tmp_path / "bundle.tmp")
    moved.parent.mkdir()
    (tmp_path / "bundle.tmp").rename(moved)
    compare(plan_comparison(moved, seeds=[0], config_files=[moved / "configs" / "demo.json"]), tmp_path / "runs")
    assert len(calls()) == before


def test_a_run_says_what_it_was_made_with(bundle, calls, tmp_path):
    output = compare(plan_comparison(bundle, seeds=[0]), tmp_path / "runs")
    about = json.loads((output / "baseline" / "seed_0" / "run.json").read_text(encoding="utf-8"))
    assert about["versions"] == json.loads((output / "study.json").read_text(encoding="utf-8"))["versions"]
    assert "git" in about


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
