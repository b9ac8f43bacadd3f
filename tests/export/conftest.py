"""Bundles with tiny networks and random weights, ready to be exported."""

import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle.config_parser import ConfigParser

import monai_kd

BUNDLES = Path(monai_kd.__file__).parents[1] / "bundles"


def network_of(bundle, *configs):
    """The student of a bundle with weights that are always the same."""
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / name) for name in ("inference.json", *configs)])
    torch.manual_seed(0)
    return parser.get_parsed_content("network_def").eval().requires_grad_(False)


@pytest.fixture
def bundle_of(tmp_path):
    """A copy of a bundle whose demo network has random weights, the arguments to export it, and the network."""

    def make(name, configs=("demo.json",), **overrides):
        root = tmp_path / name
        shutil.copytree(BUNDLES / name, root)
        network = network_of(root, *configs)
        (root / "models").mkdir(exist_ok=True)
        torch.save(network.state_dict(), root / "models" / "model.pt")
        arguments = {
            "bundle": root,
            "output": tmp_path / "exported",
            "configs": [root / "configs" / one for one in configs],
            "overrides": {"ckpt_dir": str(root / "models"), "dataset_dir": str(tmp_path / "no_data"), **overrides},
        }
        return arguments, network

    return make
