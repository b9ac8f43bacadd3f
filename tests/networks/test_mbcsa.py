from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_kd.networks import MBCSA, mbcsa

# Outputs of the released block on one input, weights filled by ``hash_fill``: mean, standard deviation, [0, 3, 2, 1].
VALUES = {
    (12, True): (-0.019360967077115182, 1.3487167756337732, -0.6399370771726292),
    (8, False): (0.12323615371094775, 1.0244858545830509, 0.6859796267012519),
}
every_dimension = pytest.mark.parametrize("dims", [2, 3])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def hash_fill(network: nn.Module) -> nn.Module:
    """Weights that depend on shapes and positions only, so any implementation in the right layout must agree."""
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
            continue
        h = (747796405 * np.arange(parameter.numel(), dtype=np.uint64) + 2891336453) & 0xFFFFFFFF
        h = (((h >> ((h >> np.uint64(28)) + np.uint64(4))) ^ h) * np.uint64(277803737)) & np.uint64(0xFFFFFFFF)
        uniform = ((h >> np.uint64(22)) ^ h) / 2.0**32
        weights = (2 * uniform - 1) * math.sqrt(6 * parameter.shape[0] / parameter.numel())
        parameter.data = torch.from_numpy(weights).reshape(parameter.shape)
    return network.double().eval()


@pytest.mark.parametrize(("out_channels", "downsample"), list(VALUES))
def test_values_of_the_released_block(out_channels, downsample):
    x = torch.sin(0.05 * torch.arange(800, dtype=torch.float64)).reshape(1, 8, 10, 10)
    with torch.no_grad():
        y = hash_fill(MBCSA(2, 8, out_channels, downsample))(x)
    assert y.shape == ((1, 12, 5, 5) if downsample else (1, 8, 10, 10))
    expected = VALUES[out_channels, downsample]
    assert [y.mean().item(), y.std().item(), y[0, 3, 2, 1].item()] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("channels", "parameters"), [((64, 96), 59_042), ((96, 96), 97_634), ((96, 192), 153_122), ((192, 192), 379_490)]
)
def test_parameter_counts(channels, parameters):
    with torch.device("meta"):
        block = MBCSA(2, *channels, downsample=channels[0] != channels[1])
    assert sum(p.numel() for p in block.parameters()) == parameters


@every_dimension
@pytest.mark.parametrize(("size", "half"), [(10, 5), (7, 4), (1, 1)])
def test_downsampling_rounds_up(dims, size, half):
    block = MBCSA(dims, 4, 6, downsample=True).eval()
    assert block(torch.randn(1, 4, *[size] * dims)).shape == (1, 6, *[half] * dims)


@every_dimension
def test_body_and_shortcut_are_added(dims):
    """With the last normalisation at 0 the body is 0 and the block is its shortcut."""
    x = torch.randn(2, 4, *[8] * dims)
    same, down = MBCSA(dims, 4, 4), MBCSA(dims, 4, 6, downsample=True)
    for block in (same, down):
        nn.init.zeros_(block.conv.fn[8].weight)
    torch.testing.assert_close(same(x), x)
    pooled = (F.max_pool2d if dims == 2 else F.max_pool3d)(x, 3, 2, 1)
    torch.testing.assert_close(down(x), torch.einsum("oc,bc...->bo...", down.proj.weight.flatten(1), pooled))


@every_dimension
def test_attention_equals_the_formula(dims):
    attention = MBCSA(dims, 8, 8).conv.fn[6]
    x = torch.randn(2, 32, *range(5, 5 + dims))
    axes = tuple(range(2, 2 + dims))
    narrow, wide = (attention.channel_attention.fc[i].weight.flatten(1) for i in (0, 2))
    hidden = [F.gelu(v @ narrow.T) @ wide.T for v in (x.mean(axes), x.amax(axes))]
    attended = torch.sigmoid(sum(hidden)).reshape(2, 32, *[1] * dims) * x
    maps = torch.stack([attended.mean(1), attended.amax(1)], dim=1)
    convolution = F.conv2d if dims == 2 else F.conv3d
    weight = torch.sigmoid(convolution(maps, attention.spatial_attention.conv1.weight, padding=3))
    torch.testing.assert_close(attention(x), weight * attended + x)


@every_dimension
@pytest.mark.parametrize("downsample", [False, True])
def test_every_parameter_learns(dims, downsample):
    block = MBCSA(dims, 16, 16, downsample)
    block(torch.randn(2, 16, *[8] * dims)).square().mean().backward()
    assert [name for name, p in block.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_dimension
def test_bfloat16_autocast(dims):
    block = MBCSA(dims, 8, 12, downsample=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(torch.randn(2, 8, *[8] * dims))
    y.float().square().mean().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in block.parameters())


def test_the_identity_keeps_the_channels():
    with pytest.raises(ValueError, match=r"got 8 in, 12 out. Set downsample=True"):
        MBCSA(2, 8, 12)


def test_examples_run():
    result = doctest.testmod(mbcsa, extraglobs={"torch": torch})
    assert result.failed == 0
    assert result.attempted > 0
