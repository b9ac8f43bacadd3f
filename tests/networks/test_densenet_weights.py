from __future__ import annotations

import doctest
import re

import pytest
import torch
from monai.networks.nets import DenseNet, DenseNet121, UNet
from torch import nn

from monai_kd.checkpoints import CheckpointError
from monai_kd.networks import densenet_weights, load_densenet_weights

STYLES = {
    "new": lambda name: name,
    "old": lambda name: re.sub(r"(norm|conv)([12])(?=\.\w+$)", r"\1.\2", name) if "denselayer" in name else name,
}


def small(classes=5, in_channels=3, spatial_dims=2, blocks=(2, 1)):
    return DenseNet(spatial_dims, in_channels, classes, init_features=8, growth_rate=4, block_config=blocks)


def published(network, style="new", counters=True):
    """Random values in torchvision's layout, with its classifier of 1000 classes."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, value in network.state_dict().items():
        if name.startswith("class_layers") or (name.endswith("num_batches_tracked") and not counters):
            continue
        name = STYLES[style](name.replace(".layers.", "."))
        state[name] = torch.rand(value.shape, generator=generator) if value.is_floating_point() else value + 7
    width = network.class_layers.out.in_features
    return {**state, "classifier.weight": torch.rand(1000, width), "classifier.bias": torch.rand(1000)}


def copies(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def unchanged(network, before):
    return all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("counters", [True, False])
def test_everything_but_the_classifier_is_filled(style, counters, tmp_path):
    network = small()
    before, theirs = copies(network), published(network, style, counters)
    torch.save(theirs, tmp_path / "densenet.pth")
    assert load_densenet_weights(network, tmp_path / "densenet.pth") is network
    after = network.state_dict()
    for name, value in after.items():
        if name.startswith("class_layers") or (name.endswith("num_batches_tracked") and not counters):
            assert torch.equal(value, before[name])
        else:
            assert torch.equal(value, theirs[STYLES[style](name.replace(".layers.", "."))])
    assert "features.denseblock1.denselayer2." + ("norm.1" if style == "old" else "norm1") + ".weight" in theirs


def test_a_published_size_fits():
    network = DenseNet121(spatial_dims=2, in_channels=3, out_channels=7)
    theirs = published(network)
    # torchvision's densenet121: 364 parameters and 3 buffers for each of its 121 normalisations
    assert len(theirs) == 364 + 3 * 121
    load_densenet_weights(network, theirs)
    assert torch.equal(
        network.features.denseblock4.denselayer16.layers.conv2.weight,
        theirs["features.denseblock4.denselayer16.conv2.weight"],
    )
    assert network.class_layers.out.out_features == 7


def test_a_densenet_inside_another_network_is_filled():
    network = nn.ModuleDict({"backbone": small(), "head": nn.Linear(2, 2)})
    theirs = published(network["backbone"])
    load_densenet_weights(network, theirs)
    assert torch.equal(network["backbone"].features.conv0.weight, theirs["features.conv0.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("features.denseblock1.denselayer2.norm1.weight"),
            "missing in the file: features.denseblock1.",
        ),
        (lambda s: s.pop("features.conv0.weight"), "missing in the file: features.conv0.weight"),
        (lambda s: s.update({"features.extra.weight": torch.ones(1)}), "unknown to the network: features.extra.weight"),
        (
            lambda s: s.update({"features.norm0.bias": torch.ones(9)}),
            r"features.norm0.bias: file \(9,\), network \(8,\)",
        ),
    ],
)
def test_an_entry_that_does_not_fit_is_refused_by_name(change, message):
    network = small()
    before, theirs = copies(network), published(network)
    change(theirs)
    with pytest.raises(CheckpointError, match=message):
        load_densenet_weights(network, theirs)
    assert unchanged(network, before)


@pytest.mark.parametrize(
    "other", [{"blocks": (2, 2)}, {"in_channels": 1}, {"spatial_dims": 3}], ids=["deeper", "grey", "3D"]
)
def test_another_densenet_is_refused(other, tmp_path):
    torch.save(published(small()), tmp_path / "densenet.pth")
    network = small(**other)
    before = copies(network)
    with pytest.raises(CheckpointError, match=r"densenet\.pth' holds the weights of another network"):
        load_densenet_weights(network, tmp_path / "densenet.pth")
    assert unchanged(network, before)


def test_a_network_without_a_densenet_is_refused():
    with pytest.raises(TypeError, match="DenseNet"):
        load_densenet_weights(UNet(2, 1, 1, (4, 8), (2,)), published(small()))
    with pytest.raises(TypeError, match="with 2"):
        load_densenet_weights(nn.ModuleList([small(), small()]), published(small()))


def test_no_file():
    with pytest.raises(FileNotFoundError):
        load_densenet_weights(small(), "nowhere.pth")


def test_examples_run():
    result = doctest.testmod(densenet_weights)
    assert result.failed == 0
    assert result.attempted > 0
