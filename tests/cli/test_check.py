import json
import shutil
from pathlib import Path

import nibabel
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


@pytest.fixture
def check_volumes(tmp_path, capsys):
    """Checks a data list beside three volumes of two values; exit status, parts, and what the standard error has."""
    for name in ("a", "b", "c"):
        values = np.zeros((4, 4, 4), dtype=np.float32)
        values[ord(name) % 3] = 1
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")

    def check(content):
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        values = ["--label-value", "0", "--label-value", "1"]
        status = run(["check", str(tmp_path / "dataset.json"), *values, "--json"])
        shown = capsys.readouterr()
        return status, json.loads(shown.out or "{}"), shown.err

    return check


def problems(part):
    return [(case["index"], case["problem"]) for case in part["errors"]]


def test_an_item_without_image_is_an_error_of_that_item(check_volumes):
    good = {"image": "a.nii.gz", "label": "b.nii.gz"}
    status, parts, _ = check_volumes({"training": [good, {"imge": "c.nii.gz"}, 7], "validation": [good]})
    assert status == 1
    assert problems(parts["training"]) == [(1, "no 'image' in the item"), (2, "no 'image' in the item")]
    assert problems(parts["validation"]) == []


def test_a_list_of_paths_is_a_list_of_images(check_volumes):
    """As the Medical Segmentation Decathlon has them under "test"."""
    status, parts, _ = check_volumes({"training": [{"image": "a.nii.gz"}], "test": ["./b.nii.gz", "missing.nii.gz"]})
    assert status == 1
    assert (parts["test"]["items"], problems(parts["test"])) == (2, [(1, "no such file")])


def test_every_channel_is_checked_as_a_volume(check_volumes):
    both = {"image": ["a.nii.gz", "b.nii.gz"], "label": "c.nii.gz"}
    assert check_volumes({"training": [both]})[:2] == (
        0,
        {"training": {"items": 1, "labelled": 1, "errors": [], "warnings": []}},
    )
    status, parts, _ = check_volumes({"training": [both, {"image": ["c.nii.gz", "missing.nii.gz"]}]})
    assert (status, problems(parts["training"])) == (1, [(1, "no such file")])
    status, parts, _ = check_volumes({"training": [both, {"image": ["c.nii.gz"]}]})
    assert (status, problems(parts["training"])) == (1, [(1, "channels: 1, but other items have 2")])


def test_a_file_may_be_a_list_itself(check_volumes):
    status, parts, _ = check_volumes([{"image": "a.nii.gz"}, {"image": "missing.nii.gz"}])
    assert (status, problems(parts["list"])) == (1, [(1, "no such file")])


def test_what_is_not_checked_is_named(check_volumes):
    others = {"name": "x", "labels": {"0": "background"}, "classes": ["nv", "mel"], "sizes": [1, 2]}
    status, parts, said = check_volumes({**others, "training": [{"image": "a.nii.gz"}], "test": []})
    assert (status, sorted(parts)) == (0, ["test", "training"])
    assert "not checked, for it is no list of items: name, labels, classes, sizes" in said
    assert "not checked" not in check_volumes({"training": [{"image": "a.nii.gz"}]})[2]


def test_options_of_the_other_kind_are_wrong_usage(pictures, bundles, capsys):
    assert run(["check", str(pictures), "--set", "dataset_dir=x"]) == 2
    assert "belong to a bundle" in capsys.readouterr().err
    assert run(["check", str(bundles / "kdas_polyp_segmentation"), "--classes", "7"]) == 2
    assert "belong to a data list" in capsys.readouterr().err
    assert run(["check", str(pictures), "--classes", "0"]) == 2


def test_a_bundle_in_yaml(tmp_path, bundles, to_yaml, capsys):
    data = make_lesion_images(tmp_path / "lesions", count=60, size=32)
    bundle = to_yaml(shutil.copytree(bundles / "hdkd_skin_lesion_classification", tmp_path / "bundle"))
    assert run(["check", str(bundle), "--set", f"dataset_dir={data}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["training"]["items"] + found["test"]["items"] == 60


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
        (["{bundles}/kdas_polyp_segmentation", "--set", "dataset_dir=2024"], "cannot be checked: TypeError"),
        (["{bundles}/kdas_polyp_segmentation", "--set", "a#b=1"], "cannot be checked: "),
        (["{bundles}/kdas_polyp_segmentation", "--config", "{tmp}/bad.json"], "bad.json' cannot be read"),
    ],
)
def test_what_is_wrong_is_said(arguments, message, tmp_path, bundles, capsys):
    (tmp_path / "text").write_text("no JSON")
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "bad.json").write_text("{")
    assert run(["check", *(word.format(tmp=tmp_path, bundles=bundles) for word in arguments)]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_a_bundle_without_checks_is_no_good_bundle(tmp_path, capsys):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.json").write_text('{"initialize": []}')
    assert run(["check", str(tmp_path)]) == 1
    assert "does not check its data when it begins" in capsys.readouterr().err
