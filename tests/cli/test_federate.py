import json
from pathlib import Path

import pytest

from monai_kd.cli.app import run

BUNDLE = Path(__file__).parents[2] / "bundles" / "hlfd_kidney_tumor_segmentation"


def test_a_job_is_written_without_nvflare(tmp_path, capsys):
    words = [
        "federate",
        str(BUNDLE),
        "--sites",
        "a=/data/a,b=/data/b",
        "--rounds",
        "3",
        "--export",
        str(tmp_path / "job"),
    ]
    assert run([*words, "--set", "learning_rate=0.1", "--set", "b:batch_size=1"]) == 0
    assert capsys.readouterr().out == f"job: {tmp_path / 'job'}\n"
    settings = json.loads((tmp_path / "job" / "app_b" / "config" / "site.json").read_text(encoding="utf-8"))
    assert settings["overrides"] == {"dataset_dir": "/data/b", "learning_rate": 0.1, "batch_size": 1}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--sites", "a=/a"], 2, "give --output to simulate, or --export to write a job"),
        (["--sites", "a=/a", "-o", "x", "--export", "y"], 2, "give --output to simulate, or --export to write a job"),
        (["--sites", "a=/a", "--export", "y", "--at-once", "1"], 2, "--at-once and --json are of a simulation"),
        (["--sites", "a=/a", "--export", "y", "--json"], 2, "leave them out with --export"),
        (["--sites", "a", "--export", "y"], 2, "takes NAME=FOLDER"),
        (["--sites", "a=/a,a=/b", "--export", "y"], 2, "each name once; got 'a=/b'"),
        (["--sites", "a=/a", "--rounds", "0", "--export", "y"], 2, "'--rounds'"),
        (["--sites", "a=data", "--export", "y"], 1, "the data of site 'a' need a whole path"),
        (["--sites", "a=/a", "--set", "bach_size=1", "--export", "y"], 1, "did you mean 'batch_size'?"),
        (["--sites", "a=/a", "--teacher", "no.pt", "--export", "y"], 1, "no file at"),
    ],
)
def test_what_is_wrong_is_said(arguments, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["federate", str(BUNDLE), *arguments]) == status
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_the_extra_is_named_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("monai_kd.cli.extras.find_spec", lambda package: None)
    assert run(["federate", str(BUNDLE), "--sites", "a=/a", "-o", str(tmp_path / "out")]) == 1
    assert 'nvflare is not installed: pip install "monai-kd[federated]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
