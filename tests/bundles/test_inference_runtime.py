"""Every bundle's inference runs on an exported network alone: no weights, no network class."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image
from torch import nn

from monai_kd.inferers import RuntimeNetwork

ROOT = Path(__file__).parents[2]


@pytest.fixture(
    params=sorted(path for path in (ROOT / "bundles").iterdir() if path.is_dir()), ids=lambda path: path.name
)
def bundle(request):
    return request.param


@pytest.fixture(autouse=True)
def keep_the_hooks(monkeypatch):
    """A bundle's ``initialize`` shortens the program's error messages."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


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
    assert "load_weights" not in json.dumps(override)
    # All other steps of the inference are kept.
    kept = [step for step in read(bundle, "inference")["initialize"] if "load_weights" not in json.dumps(step)]
    assert override["initialize"] == kept
