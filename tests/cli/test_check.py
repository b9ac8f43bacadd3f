import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_kd.cli.app import run
from monai_kd.data import make_lesion_images


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


def test_lists_every_bad_case_of_every_part(pictures, capsys):
    assert run(["check", str(pictures), "--classes", "2"]) == 1
    shown = capsys.readouterr().out
    assert "training: 2 items checked" in shown
    assert "1.png" in shown
    assert "validation: 2 items checked" in shown
    assert "7" in shown


def test_prints_json(pictures, capsys):
    assert run(["check", str(pictures), "--classes", "2", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [case["index"] for case in found["training"]["errors"]] == [1]
    assert [case["index"] for case in found["validation"]["errors"]] == [1]


def test_of_good_data_ends_with_0(pictures, capsys):
    lists = json.loads(pictures.read_text(encoding="utf-8"))
    pictures.write_text(json.dumps({"training": lists["training"][:1]}))
    assert run(["check", str(pictures), "--classes", "2"]) == 0


def test_asks_for_the_classes(pictures, capsys):
    assert run(["check", str(pictures)]) == 2
    assert "say how many with --classes" in capsys.readouterr().err


def test_a_bundle_runs_its_own_checks(tmp_path, bundles, capsys):
    root = Path(make_lesion_images(tmp_path / "lesions", count=60, size=32))
    bundle = str(bundles / "hdkd_skin_lesion_classification")
    common = ["check", bundle, "--set", f"dataset_dir={root}", "--json"]
    assert run(common) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"training", "test"}
    assert found["training"]["items"] + found["test"]["items"] == 60
    broken = next((root / "images").iterdir())
    broken.write_bytes(b"no picture")
    assert run(common) == 1
    assert broken.name in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no data list or bundle at 'nowhere'"),
        (["{tmp}/text"], "is no JSON file"),
        (["{tmp}/empty.json"], "has no list of items with an 'image'"),
        (["{tmp}"], "has no configs/train.json"),
        (
            ["{bundles}/kdas_polyp_segmentation", "--config", "nowhere.json"],
            "no configuration file at",
        ),
        (["{bundles}/kdas_polyp_segmentation", "--set", "dataset_dir=/nowhere"], "no such folder: /nowhere"),
    ],
)
def test_what_is_wrong_is_said(arguments, message, tmp_path, bundles, capsys):
    (tmp_path / "text").write_text("no JSON")
    (tmp_path / "empty.json").write_text("{}")
    assert run(["check", *(word.format(tmp=tmp_path, bundles=bundles) for word in arguments)]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_a_bundle_without_checks_is_no_good_bundle(tmp_path, capsys):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.json").write_text('{"initialize": []}')
    assert run(["check", str(tmp_path)]) == 1
    assert "does not check its data when it begins" in capsys.readouterr().err
