from __future__ import annotations

import copy
import doctest

import pytest
import torch
from monai.networks import convert_to_torchscript
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from monai_kd import FeatureTaps
from monai_kd.networks import TinyEndoNet, tiny_endo_net

SMALL = {"channels": (4, 6, 8), "strides": (2, 1, 2)}
every_dimension = pytest.mark.parametrize("dims", [2, 3])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("num_classes", "parameters"), [(8, 51_832), (23, 54_247)])
def test_size_and_cost(num_classes, parameters):
    network = TinyEndoNet(num_classes=num_classes).eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 224, 224))
    assert count(network) == parameters
    assert counter.get_total_flops() / 2 == pytest.approx(24.0e6, abs=0.05e6)


def test_layer_by_layer():
    with torch.device("meta"):
        network = TinyEndoNet().eval()
        x, sizes = torch.empty(1, 3, 224, 224), []
        for layer in network.features:
            x = layer(x)
            sizes.append((x.shape[1], x.shape[2]))
    assert [count(layer) for layer in network.features] == [464, 752, 1_984, 3_728, 5_984, 12_688, 24_944]
    assert sizes == [(16, 112), (32, 56), (48, 56), (64, 28), (80, 28), (144, 14), (160, 7)]
    assert count(network.classifier) == 1_288
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.bias for conv in convolutions] == [None] * 13
    assert [conv.groups for conv in convolutions] == [1, 16, 1, 32, 1, 48, 1, 64, 1, 80, 1, 144, 1]


@every_dimension
def test_equals_the_formula(dims):
    network, x = TinyEndoNet(dims, 2, 3, **SMALL).double(), torch.randn(2, 2, *[8] * dims).double()
    convolve = [None, None, nn.functional.conv2d, nn.functional.conv3d][dims]
    weights = iter([m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)])

    def unit(x, **kwargs):
        y = convolve(x, next(weights), **kwargs)
        axes = [0, *range(2, y.ndim)]
        return ((y - y.mean(axes, True)) / (y.var(axes, unbiased=False, keepdim=True) + 1e-5).sqrt()).clamp(min=0)

    features = unit(x, stride=2, padding=1)
    features = unit(unit(features, padding=1, groups=4))
    features = unit(unit(features, stride=2, padding=1, groups=6))
    pooled = features.flatten(2).mean(2)
    torch.testing.assert_close(network(x), pooled @ network.classifier.weight.T + network.classifier.bias)


@every_dimension
def test_taps(dims):
    network = TinyEndoNet(dims, 1, 3, **SMALL).eval()
    with FeatureTaps(network, network.tap_points) as taps:
        output = network(torch.randn(2, 1, *[9, 8, 16][:dims]))  # any size, rounded up
        found = taps.outputs()
    assert found["features"].shape == (2, 8, *[3, 2, 4][:dims])
    assert found["features"].min() == 0
    assert torch.equal(found["classifier"], output)


@every_dimension
def test_every_parameter_learns(dims):
    network = TinyEndoNet(dims, 1, 3, **SMALL)
    network(torch.randn(4, 1, *[8] * dims)).pow(3).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_dimension
@pytest.mark.parametrize("trace", [True, False], ids=["traced", "scripted"])
def test_torchscript_answers_alike(dims, trace, tmp_path):
    network, x = TinyEndoNet(dims, 1, 3, **SMALL).eval(), torch.randn(1, 1, *[8] * dims)
    path = str(tmp_path / "network.ts")
    convert_to_torchscript(network, filename_or_obj=path, inputs=[x], use_trace=trace)
    two = torch.randn(2, 1, *[12] * dims)  # another batch and image size
    torch.testing.assert_close(torch.jit.load(path)(two), network(two))
    assert torch.equal(copy.deepcopy(network)(two), network(two))


@pytest.mark.parametrize("lists", [{"channels": (4, 6)}, {"channels": (), "strides": ()}])
def test_each_layer_needs_a_width_and_a_stride(lists):
    with pytest.raises(ValueError, match=r"one entry a layer, got \("):
        TinyEndoNet(**lists)


def test_examples_run():
    result = doctest.testmod(tiny_endo_net)
    assert result.failed == 0
    assert result.attempted > 0
