"""Every bundle's inference runs on an exported network alone: no weights, no network class."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image
from torch import nn

from monai_kd.data import make_polyp_frames
from monai_kd.inferers import RuntimeNetwork

ROOT = Path(__file__).parents[2]


@pytest.fixture(
    params=sorted(path for path in (ROOT / "bundles").iterdir() if path.is_dir()), ids=lambda path: path.name
)
def bundle(request):
    return request.param


def read(bundle, name):
    return json.loads((bundle / "configs" / f"{name}.json").read_text(encoding="utf-8"))


def stand_in(bundle):
    """A network of the bundle's channels, and the size it is called with; both as small as they may be."""
    data = read(bundle, "metadata")["network_data_format"]
    channels, classes = data["inputs"]["image"]["num_channels"], data["outputs"]["pred"]["num_channels"]
    torch.manual_seed(0)
    if len(data["inputs"]["image"]["spatial_shape"]) == 3:
        return nn.Conv3d(channels, classes, 3, padding=1), (channels, 16, 16, 16), {"patch_size": [16, 16, 16]}
    network = nn.Conv2d(channels, classes, 3, padding=1)
    if data["outputs"]["pred"]["format"] == "classes":
        network = nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return network, (channels, 32, 32), {"image_size": 32}


def write_cases(folder, volumes):
    folder.mkdir()
    for name in ("a", "b"):
        if volumes:
            data = np.random.default_rng(0).integers(-200, 200, (20, 18, 22)).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.5, -1.5, 2.0, 1.0])), folder / f"{name}.nii.gz")
        else:
            pixels = np.random.default_rng(ord(name)).integers(0, 256, (40, 36, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.png")


def test_runs_on_the_exported_network(bundle, export_network, tmp_path):
    network, shape, size = stand_in(bundle)
    write_cases(tmp_path / "cases", volumes=len(shape) == 4)
    flow = ConfigWorkflow(
        config_file=[str(bundle / "configs" / f"{name}.json") for name in ("inference", "inference_runtime")],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="inference",
        bundle_root=str(bundle),
        dataset_dir=str(tmp_path / "cases"),
        output_dir=str(tmp_path / "out"),
        exported_dir=str(export_network(network, shape)),
        num_threads=1,
        num_workers=0,
        **size,
    )
    flow.initialize()
    assert flow.check_properties() == []
    served = flow.parser.get_parsed_content("network")
    assert isinstance(served, RuntimeNetwork)
    assert (served.model.runtime, served.model.precision, served.model.num_threads) == ("openvino", "f32", 1)
    flow.run()
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    ending = {4: "_seg.nii.gz", 3: ".png"}[len(shape)]
    assert made in ([f"a{ending}", f"b{ending}"], ["predictions.csv"])


def test_says_all_that_may_be_changed(bundle):
    override = read(bundle, "inference_runtime")
    assert {"exported_dir", "runtime", "precision", "num_threads"} <= override.keys()
    assert override["network_def"]["_target_"] == "monai_kd.inferers.RuntimeNetwork"
    assert override["weights"] is None


@pytest.mark.parametrize("config", ["inference", "evaluate"])
def test_weights_are_loaded_by_one_key(bundle, config):
    """So that the override takes that step alone away, before the network is asked."""
    lists = read(bundle, config)
    steps = lists["initialize"] + lists["run"]
    assert steps.count("@weights") == 1
    before, after = steps[: steps.index("@weights")], steps[steps.index("@weights") + 1 :]
    assert not any("evaluator" in step for step in before)
    assert after
    assert "evaluator.run()" in after[0]
    assert "load_weights" not in json.dumps(steps)
    assert "load_weights" in json.dumps(read(bundle, config)["weights"])


def test_scores_the_exported_network(export_network, tmp_path):
    """The same override behind ``evaluate.json``: the score is that of the masks of that network."""
    bundle = ROOT / "bundles" / "kdas_polyp_segmentation"
    make_polyp_frames(tmp_path / "frames", count=10, size=(40, 40))
    always = nn.Conv2d(3, 1, 1)
    nn.init.zeros_(always.weight)
    nn.init.ones_(always.bias)
    flow = ConfigWorkflow(
        config_file=[
            str(bundle / "configs" / f"{name}.json") for name in ("train", "demo", "evaluate", "inference_runtime")
        ],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle),
        dataset_dir=str(tmp_path / "frames"),
        output_dir=str(tmp_path / "out"),
        exported_dir=str(export_network(always, (3, 32, 32))),
        num_threads=1,
        num_workers=0,
        image_size=32,
        test_fraction=0.4,
        test_split=None,
    )
    flow.initialize()
    flow.run()
    found = json.loads((tmp_path / "out" / "distilled.evaluation.json").read_text(encoding="utf-8"))
    masks = [np.asarray(Image.open(path)) > 127 for path in (tmp_path / "frames" / "masks").iterdir()]
    dice = [2 * mask.sum() / (mask.sum() + mask.size) for mask in masks]
    assert min(dice) <= found["scores"]["meanDice"] <= max(dice)
