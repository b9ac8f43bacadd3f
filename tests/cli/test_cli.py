"""What the commands print, how they end, and what they say when something is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import monai_kd
from monai_kd.cli.app import run
from monai_kd.cli.overrides import parse_overrides
from monai_kd.version import __version__

BUNDLES = Path(monai_kd.__file__).parents[1] / "bundles"
UNET = [
    "--network",
    "UNet",
    "--argument",
    "spatial_dims=2",
    "--argument",
    "in_channels=1",
    "--argument",
    "out_channels=2",
]
UNET += ["--argument", "channels=[4,8]", "--argument", "strides=[2]", "--input-shape", "1,1,16,16"]


@pytest.fixture(autouse=True)
def _plain_output(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize("command", [[], ["taps"], ["check"], ["distill"], ["compare"], ["report"]])
def test_help_helps(command, capsys):
    assert run([*command, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_every_option_is_explained(capsys):
    for command in ("taps", "check", "distill", "compare", "report"):
        run([command, "--help"])
        lines = capsys.readouterr().out.splitlines()
        options = [line for line in lines if line.strip("│ *").startswith("--")]
        assert options
        for line in options:
            assert len(line.strip("│ *").split()) > 2, line


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"monai-kd {__version__}"


def test_it_is_a_module_and_a_script():
    done = subprocess.run(
        [sys.executable, "-m", "monai_kd", "--version"], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == f"monai-kd {__version__}"
    script = Path(sys.executable).parent / "monai-kd"
    assert script.is_file()


def test_overrides():
    words = ["a=1", "b=0.5", "c=[1, 2]", "d=true", "e=null", "f=/data/x", "g#h=a=b", "i=", "j={'x': 2}"]
    expected = {
        "a": 1,
        "b": 0.5,
        "c": [1, 2],
        "d": True,
        "e": None,
        "f": "/data/x",
        "g#h": "a=b",
        "i": "",
        "j": {"x": 2},
    }
    assert parse_overrides(words) == expected


@pytest.mark.parametrize("word", ["epochs", "=3"])
def test_an_override_without_key_or_value_is_wrong_usage(word, capsys):
    assert run(["compare", str(BUNDLES / "kdas_polyp_segmentation"), "-o", "x", "--dry-run", "--set", word]) == 2
    assert f"expected KEY=VALUE, got '{word}'" in capsys.readouterr().err


# --- taps -----------------------------------------------------------------------------------------------------------


def test_taps_of_a_network(capsys):
    assert run(["taps", *UNET]) == 0
    assert "model.1.submodule.conv" in capsys.readouterr().out
    assert run(["taps", *UNET, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == {
        "name": "model.0.conv",
        "type": "Conv2d",
        "shape": "(1, 4, 8, 8)",
        "stride": "2",
        "parameters": 40,
    }


def test_taps_of_a_bundle_and_of_its_teacher(capsys):
    bundle = str(BUNDLES / "hdkd_skin_lesion_classification")
    counts = []
    for key in ("network_def", "teacher_def"):
        assert run(["taps", bundle, "--key", key, "--input-shape", "1,3,224,224", "--json"]) == 0
        rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
        counts.append(rows["stage3"]["parameters"])
    assert counts[1] > counts[0]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["taps"], 2, "give a bundle's folder or --network"),
        (["taps", "--network", "UNet"], 2, "--network needs --input-shape"),
        (["taps", *UNET[:-1], "1,x"], 2, "expected B,C and the sizes"),
        (["taps", "nowhere"], 1, "'nowhere' has no configs/train.json"),
        (["taps", str(BUNDLES / "kdas_polyp_segmentation"), "--key", "net"], 1, "has no 'net'; networks may be at"),
        (["report", "nowhere"], 1, "nowhere"),
        (["check", "nowhere"], 1, "no data list or bundle at 'nowhere'"),
        (["compare", "nowhere", "-o", "x"], 1, "give a bundle's folder"),
        (["nothing"], 2, "No such command"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments, status, message, capsys):
    assert run(arguments) == status
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


# --- check ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Four pictures, one of them cut short, one with a label that is no class."""
    items = []
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
        items.append({"image": f"{number}.png", "label": number % 2})
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:200])
    items[3]["label"] = 7
    (tmp_path / "list.json").write_text(
        json.dumps({"name": "pictures", "training": items[:2], "validation": items[2:]})
    )
    return tmp_path / "list.json"


def test_check_lists_every_bad_case_of_every_part(pictures, capsys):
    assert run(["check", str(pictures), "--classes", "2"]) == 1
    shown = capsys.readouterr().out
    assert "training: 2 items checked" in shown
    assert "1.png" in shown
    assert "validation: 2 items checked" in shown
    assert "7" in shown


def test_check_prints_json(pictures, capsys):
    assert run(["check", str(pictures), "--classes", "2", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [case["index"] for case in found["training"]["errors"]] == [1]
    assert [case["index"] for case in found["validation"]["errors"]] == [1]


def test_check_of_good_data_ends_with_0(pictures, capsys):
    lists = json.loads(pictures.read_text())
    pictures.write_text(json.dumps({"training": lists["training"][:1]}))
    assert run(["check", str(pictures), "--classes", "2"]) == 0


def test_check_asks_for_the_classes(pictures, capsys):
    assert run(["check", str(pictures)]) == 2
    assert "say how many with --classes" in capsys.readouterr().err


def test_check_of_a_bundle_runs_its_own_checks(tmp_path, capsys):
    from monai_kd.data import make_lesion_images

    root = Path(make_lesion_images(tmp_path / "lesions", count=60, size=32))
    bundle = str(BUNDLES / "hdkd_skin_lesion_classification")
    common = ["check", bundle, "--set", f"dataset_dir={root}", "--json"]
    assert run(common) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"training", "test"}
    assert found["training"]["items"] + found["test"]["items"] == 60
    broken = next((root / "images").iterdir())
    broken.write_bytes(b"no picture")
    assert run(common) == 1
    assert broken.name in capsys.readouterr().out


# --- compare --------------------------------------------------------------------------------------------------------


def test_dry_run_lists_the_stages(tmp_path, capsys):
    bundle = str(BUNDLES / "kdas_polyp_segmentation")
    assert run(["compare", bundle, "-o", str(tmp_path / "runs"), "-s", "0", "-s", "1", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1].strip() for line in lines] == [
        "teacher, seed 0",
        "baseline, seed 0",
        "baseline, seed 1",
        "distilled, seed 0",
        "distilled, seed 1",
    ]
    assert not (tmp_path / "runs").exists()
