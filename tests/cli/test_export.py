"""``monai-kd export``: what it prints and how it ends."""

import json
from pathlib import Path

import pytest
import torch
from monai.bundle.config_parser import ConfigParser

import monai_kd
from monai_kd.cli.app import run

BUNDLE = Path(monai_kd.__file__).parents[1] / "bundles" / "mhakd_gi_endoscopy_classification"


@pytest.fixture
def words(tmp_path):
    demo = str(BUNDLE / "configs" / "demo.json")
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / "inference.json"), demo])
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    sets = ["--set", f"ckpt_dir={tmp_path}", "--set", f"dataset_dir={tmp_path / 'no_data'}"]
    return ["export", str(BUNDLE), "-o", str(tmp_path / "exported"), "--config", demo, *sets]


def test_every_option_is_explained(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["export", "--help"]) == 0
    options = [line.strip("│ *") for line in capsys.readouterr().out.splitlines()]
    options = [line for line in options if line.startswith("--")]
    assert len(options) > 8
    assert all(len(line.split()) > 2 for line in options)


def test_the_table_is_printed(words, tmp_path, capsys):
    assert run([*words, "--to", "torchscript"]) == 0
    printed = capsys.readouterr().out
    assert "noise 4" in printed
    assert "max difference" in printed
    assert "no validation cases were used: " in printed
    assert f"exported: {tmp_path / 'exported'}" in printed
    assert run([*words, "--to", "torchscript", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(
        (tmp_path / "exported" / "export.json").read_text(encoding="utf-8")
    )


def test_what_was_not_verified_is_said(words, capsys, monkeypatch):
    pytest.importorskip("openvino")
    from monai_kd.export import exporting

    def other(file, precision):
        raise RuntimeError("not supported here")

    monkeypatch.setattr(exporting, "_others", lambda *_: [("openvino", "bf16")])
    monkeypatch.setitem(exporting._LOADERS, "openvino", other)
    assert run([*words, "--to", "torchscript"]) == 0
    assert "not verified, so not served: openvino bf16: not supported here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("further", "status", "message"),
    [
        (["--to", "tensorrt"], 1, "unknown format 'tensorrt'"),
        (["--to", "onnx", "--precision", "int8"], 1, "onnx is exported in f32"),
        (["--spatial-shape", "wide"], 2, "expected the sizes of the axes"),
        (["--to", "torchscript", "--checkpoint", "other.pt"], 1, "no checkpoint at"),
    ],
)
def test_what_is_wrong_is_said(words, further, status, message, capsys):
    assert run([*words, *further]) == status
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
