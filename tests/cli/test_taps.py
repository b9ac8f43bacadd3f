import json
import shutil
import sys

import pytest

from monai_kd.cli.app import run

UNET = ["--network", "UNet", "--argument", "spatial_dims=2", "--argument", "in_channels=1"]
UNET += ["--argument", "out_channels=2", "--argument", "channels=[4,8]", "--argument", "strides=[2]"]
SHAPE = ["--input-shape", "1,1,16,16"]


def test_of_a_network(capsys):
    assert run(["taps", *UNET, *SHAPE]) == 0
    assert "model.1.submodule.conv" in capsys.readouterr().out
    assert run(["taps", *UNET, *SHAPE, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == {
        "name": "model.0.conv",
        "type": "Conv2d",
        "shape": "(1, 4, 8, 8)",
        "stride": "2",
        "parameters": 40,
    }


def test_of_a_bundle_and_of_its_teacher(bundles, capsys):
    """The metadata of this bundle says the size of its images."""
    bundle = str(bundles / "hdkd_skin_lesion_classification")
    counts = []
    for key in ("network_def", "teacher_def"):
        assert run(["taps", bundle, "--key", key, "--json"]) == 0
        rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
        counts.append(rows["stage3"]["parameters"])
    assert counts[1] > counts[0]


def test_of_a_bundle_in_yaml(bundles, tmp_path, to_yaml, capsys):
    name = "hdkd_skin_lesion_classification"
    bundle = to_yaml(shutil.copytree(bundles / name, tmp_path / name))
    shown = []
    for root in (bundles / name, bundle):
        assert run(["taps", str(root)]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


def test_yaml_without_pyyaml_names_the_extra(tmp_path, monkeypatch, capsys):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.yaml").write_text("network_def: {}")
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert run(["taps", str(tmp_path), *SHAPE]) == 1
    shown = capsys.readouterr().err
    assert "'train.yaml' is YAML" in shown
    assert 'pip install "monai-kd[cli]"' in shown


def test_of_a_bundle_with_a_network_of_its_own(tmp_path, capsys):
    (tmp_path / "configs").mkdir()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "__init__.py").write_text("")
    (tmp_path / "scripts" / "net.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Conv2d(1, 3, 1))\n"
    )
    (tmp_path / "configs" / "train.json").write_text('{"network_def": {"_target_": "scripts.net.net"}}')
    assert run(["taps", str(tmp_path), *SHAPE]) == 0
    assert "(1, 3, 16, 16)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a bundle's folder or --network"),
        (["somewhere", *UNET, *SHAPE], "one of them"),
        (["--network", "UNet"], "--network needs --input-shape"),
        ([*UNET, "--input-shape", "1,x"], "expected B,C and the sizes"),
        ([*UNET, "--input-shape", "1,1,0,16"], "expected B,C and the sizes"),
        (["somewhere", "--argument", "channels=[4]"], "--argument belongs to --network"),
        ([*UNET, *SHAPE, "--key", "teacher_def"], "--key belongs to a bundle"),
        (["--network", "UNet", "--argument", "channels", *SHAPE], "expected KEY=VALUE, got 'channels'"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    assert run(["taps", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no bundle at 'nowhere'"),
        (["{bundles}"], "has no configs/train.json"),
        (["{bundles}/kdas_polyp_segmentation", "--key", "net"], "has no 'net'; networks may be at ['network_def'"),
        (["{bundles}/kdas_polyp_segmentation"], "leaves the size of the input open"),
        (["--network", "NoNet", *SHAPE], "NoNet cannot be made: ModuleNotFoundError"),
        (["--network", "UNet", *SHAPE], "UNet cannot be made: TypeError"),
        (["--network", "torch.nn.Conv2d", *SHAPE], "missing 3 required positional arguments"),
        (["--network", "collections.OrderedDict", *SHAPE], "is a OrderedDict, not a network"),
        ([*UNET, "--input-shape", "1,3,16,16"], "UNet does not take an input of shape (1, 3, 16, 16)"),
        ([*UNET, "--input-shape", "1,1,16,16,16"], "Give the shape that it takes with --input-shape"),
    ],
)
def test_what_is_wrong_is_said(arguments, message, bundles, capsys):
    assert run(["taps", *(word.replace("{bundles}", str(bundles)) for word in arguments)]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
