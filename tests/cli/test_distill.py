import json
import warnings
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from monai_kd.cli.app import run
from monai_kd.zoo import DistilledBundle

from .. import zoo_bundles


@pytest.fixture
def distilled(monkeypatch):
    """Calls of the distillation; what it writes has tests of its own."""
    calls = []

    def distil_bundle(*arguments):
        calls.append(arguments)
        return DistilledBundle(
            root=Path(arguments[1]).absolute(),
            student={"_target_": "UNet"},
            terms=("soft_target", "hint"),
            taps=("model.1", "model.1"),
            student_parameters=1000,
            teacher_parameters=16000,
        )

    monkeypatch.setattr("monai_kd.zoo.distil_bundle", distil_bundle)
    return calls


def test_it_says_what_was_made_and_what_comes_next(distilled, tmp_path, capsys):
    root = tmp_path / "a student"
    assert run(["distill", "--teacher-bundle", "spleen", "-o", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "student: 1,000 parameters, 6.2 % of the teacher's" in shown
    assert "terms: soft_target, hint" in shown
    assert f"cd '{root}' && python -m monai.bundle run --config_file configs/train.json" in shown
    assert f"monai-kd compare '{root}' --output RUNS" in shown
    assert distilled == [(Path("spleen"), root, 0.25, None, None, None)]


def test_it_prints_json(distilled, tmp_path, capsys):
    assert run(["distill", "--teacher-bundle", "spleen", "-o", str(tmp_path / "small"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "root": str(tmp_path / "small"),
        "student": {"_target_": "UNet"},
        "terms": ["soft_target", "hint"],
        "taps": ["model.1", "model.1"],
        "student_parameters": 1000,
        "teacher_parameters": 16000,
    }


def test_warnings_are_sentences(monkeypatch, capsys):
    def distil_bundle(*arguments):
        warnings.warn("the student is larger than its teacher.", stacklevel=2)
        return DistilledBundle(Path(arguments[1]), {}, (), None, student_parameters=2000, teacher_parameters=1000)

    monkeypatch.setattr("monai_kd.zoo.distil_bundle", distil_bundle)
    assert run(["distill", "--teacher-bundle", "spleen", "-o", "large"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "warning: the student is larger than its teacher.\n"
    assert "200.0 % of the teacher's" in shown.out


def test_a_bundle_in_yaml(tmp_path, to_yaml, capsys):
    teacher = tmp_path / "teacher"
    zoo_bundles.make("spleen_ct_segmentation", teacher)
    parser = ConfigParser()
    parser.read_config(str(teacher / "configs" / "train.json"))
    zoo_bundles.save_weights(teacher, parser)
    to_yaml(teacher)
    assert run(["distill", "--teacher-bundle", str(teacher), "-o", str(tmp_path / "small")]) == 0
    assert "terms: soft_target, teacher_dice, hint" in capsys.readouterr().out
    assert (tmp_path / "small" / "configs" / "train.json").is_file()


def test_options_reach_it(distilled):
    common = ["distill", "--teacher-bundle", "spleen", "-o", "small"]
    assert run([*common, "--width", "0.5", "--terms", "terms.json", "--activation", "sigmoid"]) == 0
    assert run([*common, "--student", "net.json"]) == 0
    assert distilled[0][2:] == (0.5, None, Path("terms.json"), "sigmoid")
    assert distilled[1][3] == "net.json"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "Missing option"),
        (["--teacher-bundle", "nowhere"], 2, "Missing option '--output'"),
        (["--teacher-bundle", "nowhere", "-o", "x", "--width", "0"], 2, "between 0 and 1, such as 0.25; got 0"),
        (["--teacher-bundle", "nowhere", "-o", "x", "--width", "1"], 2, "between 0 and 1"),
        (["--teacher-bundle", "nowhere", "-o", "x", "--width", "0.5", "--student", "UNet"], 2, "leave it out"),
        (["--teacher-bundle", "nowhere", "-o", "x", "--activation", "relu"], 2, "softmax or sigmoid; got 'relu'"),
        (["--teacher-bundle", "nowhere", "-o", "x"], 1, "no bundle at 'nowhere'"),
        (["--teacher-bundle", "{bundles}/kdas_polyp_segmentation", "-o", "x"], 1, "has no models/model.pt"),
        (["--teacher-bundle", "nowhere", "-o", "{bundles}"], 1, "is there already; give another folder"),
    ],
)
def test_what_is_wrong_is_said(arguments, status, message, bundles, capsys):
    assert run(["distill", *(word.format(bundles=bundles) for word in arguments)]) == status
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
