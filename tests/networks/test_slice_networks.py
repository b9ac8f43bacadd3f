"""The 2D networks of HLFD's released code: U-Net, UNet++ and the ResNet-18 without a decoder."""

from __future__ import annotations

import doctest
import importlib
import math

import numpy as np
import pytest
import torch
from torch import nn

from monai_kd.networks import NestedUNet, ResNetFCN, UNet2d, encoder_decoder_taps
from monai_kd.taps import FeatureTaps

# Outputs of the released networks on one input, weights filled by ``hash_fill``: mean, standard deviation, one value;
# and the standard deviations of the U-Net's taps e1 to e5, d5 to d2.
OUTPUTS = {
    NestedUNet: (36_628_546, 0.13484554295939086, 0.3272155862448405, 0.2325105299432952),
    UNet2d: (34_525_954, -1.0132964232859496, 0.632906817432575, -0.1385445505685745),
    ResNetFCN: (11_177_538, 4.035170913146825, 19.26095322432488, 14.545573683615075),
}
UNET_TAPS = (0.575481, 0.659833, 0.675688, 0.75092, 0.697908, 0.679622, 0.661365, 0.718118, 0.618811)
TINY = {
    UNet2d: {"channels": (2, 4, 6)},
    NestedUNet: {"channels": (2, 4, 6)},
    ResNetFCN: {"channels": (2, 4, 6, 8)},
}
every_network = pytest.mark.parametrize("network_class", list(TINY))


def hash_fill(network: nn.Module) -> nn.Module:
    """Weights that depend on shapes and positions only, so any implementation in the right layout must agree."""
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:
            torch.nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
            continue
        h = (747796405 * np.arange(parameter.numel(), dtype=np.uint64) + 2891336453) & 0xFFFFFFFF
        h = (((h >> ((h >> np.uint64(28)) + np.uint64(4))) ^ h) * np.uint64(277803737)) & np.uint64(0xFFFFFFFF)
        uniform = ((h >> np.uint64(22)) ^ h) / 2.0**32
        weights = (2 * uniform - 1) * math.sqrt(6 * parameter.shape[0] / parameter.numel())
        parameter.data = torch.from_numpy(weights).reshape(parameter.shape)
    return network.double().eval()


@pytest.mark.parametrize("network_class", list(OUTPUTS))
def test_values_of_the_released_networks(network_class):
    network = hash_fill(network_class())
    parameters, *expected = OUTPUTS[network_class]
    assert sum(p.numel() for p in network.parameters()) == parameters
    x = torch.sin(0.01 * torch.arange(64 * 64, dtype=torch.float64)).reshape(1, 1, 64, 64)
    taps = encoder_decoder_taps(network)
    with torch.no_grad(), FeatureTaps(network, [*taps.encoder, *taps.decoder]) as recorder:
        y = network(x)
        features = recorder.outputs()
    assert [y.mean().item(), y.std().item(), y[0, 1, 0, 0].item()] == pytest.approx(expected, rel=1e-10)
    if network_class is UNet2d:
        assert [features[layer].std().item() for layer in (*taps.encoder, *taps.decoder)] == pytest.approx(
            UNET_TAPS, abs=6e-7
        )


@every_network
@pytest.mark.parametrize("size", [(64, 64), (50, 37)])
def test_logits_have_the_size_of_the_image(network_class, size):
    network = network_class(out_channels=3, **TINY[network_class])
    assert network(torch.randn(2, 1, *size)).shape == (2, 3, *size)


def test_a_grey_slice_is_three_equal_channels():
    network = ResNetFCN(**TINY[ResNetFCN]).eval()
    grey = torch.randn(2, 1, 64, 64)
    assert torch.equal(network(grey), network(grey.repeat(1, 3, 1, 1)))
    assert not torch.allclose(network(grey), network(torch.cat([grey, grey, -grey], dim=1)))


@every_network
def test_every_parameter_is_trained(network_class):
    network = network_class(**TINY[network_class])
    network(torch.randn(2, 1, 64, 64)).square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("network_class", [UNet2d, NestedUNet])
def test_one_level_is_no_network(network_class):
    with pytest.raises(ValueError, match=r"at least two levels, got \(8,\)"):
        network_class(channels=(8,))


@pytest.mark.parametrize("name", ["unet_2d", "nested_unet", "resnet_fcn"])
def test_examples_run(name):
    module = importlib.import_module(f"monai_kd.networks.{name}")
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.failed == 0
    assert result.attempted > 0
