import json
import shlex
import sys
from pathlib import Path

import pytest

from monai_kd.cli import extras
from monai_kd.cli.app import run


@pytest.fixture
def bundle(tmp_path):
    configs = tmp_path / "bundle" / "configs"
    configs.mkdir(parents=True)
    for name in ("train", "evaluate", "teacher", "baseline"):
        (configs / f"{name}.json").write_text('{"epochs": 1}' if name == "train" else "{}")
    return configs.parent


@pytest.fixture
def compared(monkeypatch, write_runs):
    """Calls of the comparison, which has run at once."""
    calls = []

    def compare(plan, output, command, progress):
        calls.append((plan, command))
        return write_runs(output)

    monkeypatch.setattr("monai_kd.compare.compare", compare)
    return calls


def test_a_dry_run_lists_the_stages(bundle, tmp_path, capsys):
    runs = tmp_path / "runs"
    done = runs / "teacher" / "seed_0" / "run.json"
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    (runs / "study.json").write_text("{}")
    assert run(["compare", str(bundle), "-o", str(runs), "--seeds", "0,1", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "finished  teacher, seed 0",
        "to do     baseline, seed 0",
        "to do     baseline, seed 1",
        "to do     distilled, seed 0",
        "to do     distilled, seed 1",
    ]
    assert (runs / "study.json").read_text(encoding="utf-8") == "{}"  # as it was


def test_a_dry_run_prints_json(bundle, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert run(["compare", str(bundle), "-o", str(runs), "--seeds", "4", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["network"], one["seed"], one["finished"]) for one in found] == [
        ("teacher", 4, False),
        ("baseline", 4, False),
        ("distilled", 4, False),
    ]
    assert found[0]["folder"] == str(runs / "teacher" / "seed_4")


@pytest.mark.parametrize(
    ("arguments", "seeds"),
    [([], (0, 1, 2)), (["--seeds", "5"], (5,)), (["-s", "3 1"], (3, 1)), (["--seeds=0,7"], (0, 7))],
)
def test_seeds(arguments, seeds, bundle, compared, tmp_path):
    assert run(["compare", str(bundle), "-o", str(tmp_path / "runs"), *arguments]) == 0
    assert compared[0][0].seeds == seeds


def test_it_ends_with_the_verdict_and_where_the_report_is(bundle, compared, tmp_path, monkeypatch, capsys):
    runs = tmp_path / "runs"
    monkeypatch.setattr(sys, "argv", ["monai-kd", "compare", "a bundle"])
    assert run(["compare", str(bundle), "-o", str(runs), "--set", "epochs=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("distilled: Distillation helped: meanDice is 0.200 higher")
    assert lines[-1] == f"report: {runs / 'report.html'}"
    plan, command = compared[0]
    assert plan.overrides == {"epochs": 2}
    assert command == f"cd {shlex.quote(str(Path.cwd()))} && monai-kd compare 'a bundle'"


def test_it_prints_json(bundle, compared, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert run(["compare", str(bundle), "-o", str(runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == str(runs / "report.html")
    assert found["verdicts"] == json.loads((runs / "report.json").read_text(encoding="utf-8"))["verdicts"]
    assert found["verdicts"][0]["shown"] == 1


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_what_the_report_needs_is_missed_before_anything_is_run(
    package, bundle, compared, tmp_path, monkeypatch, capsys
):
    find = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == package else find(name))
    assert run(["compare", str(bundle), "-o", str(tmp_path / "runs")]) == 1
    assert f'{package} is not installed: pip install "monai-kd[report]"' in capsys.readouterr().err
    assert compared == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere", "-o", "x"], 1, "give a bundle's folder"),
        (["{bundle}"], 2, "Missing option '--output'"),
        (["{bundle}", "-o", "x", "--seeds", "0,a"], 2, "expected whole numbers"),
        (["{bundle}", "-o", "x", "--seeds", "0", "1"], 2, "unexpected extra argument"),
        (["{bundle}", "-o", "x", "--seeds", "0,0"], 1, "different numbers from 0"),
        (["{bundle}", "-o", "x", "--set", "epochs"], 2, "expected KEY=VALUE, got 'epochs'"),
        (["{bundle}", "-o", "x", "--set", "epoch=3"], 1, "no key 'epoch' (did you mean 'epochs'?)"),
        (["{bundle}", "-o", "a#1", "--dry-run"], 1, "has '#' or '::'"),
        (["{bundle}", "-o", "{bundle}/configs/train.json", "--dry-run"], 1, "is no folder"),
        (["{bundle}", "-o", "x", "--set", "seed=3"], 1, "['seed'] are set for each run"),
        (["{bundle}", "-o", "x", "--method", "nothing"], 1, "has no configs/nothing.json"),
        (["{bundle}", "-o", "x", "--config", "nowhere.json"], 1, "no configuration file at"),
    ],
)
def test_what_is_wrong_is_said(arguments, status, message, bundle, compared, capsys):
    assert run(["compare", *(word.format(bundle=bundle) for word in arguments)]) == status
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert compared == []
