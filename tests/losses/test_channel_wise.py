from __future__ import annotations

import math

import pytest
import torch

from monai_kd.losses.channel_wise import ChannelWiseLoss, channel_wise_kl

SHAPES = [(2, 3, 6), (2, 3, 5, 4), (2, 3, 4, 3, 2)]


def softmax(z):
    total = sum(math.exp(v) for v in z)
    return [math.exp(v) / total for v in z]


def naive(student, teacher, temperature):
    total = 0.0
    for i in range(student.shape[0]):
        for c in range(student.shape[1]):
            p, q = (softmax((x[i, c].flatten() / temperature).tolist()) for x in (student, teacher))
            total += sum(b * math.log(b / a) for a, b in zip(p, q))
    return total / (student.shape[0] * student.shape[1]) * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_formula(shape, temperature):
    student, teacher = torch.randn(2, *shape)
    value = ChannelWiseLoss(temperature)(student, teacher).item()
    assert value == pytest.approx(naive(student, teacher, temperature), rel=1e-4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(shape, masked):
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    mask = torch.rand(shape[0], *shape[2:]) > 0.5 if masked else None
    assert torch.autograd.gradcheck(lambda x: ChannelWiseLoss(2.0)(x, teacher, mask), student.requires_grad_())


def test_mask_selects_positions_and_items():
    student, teacher = torch.randn(2, 2, 3, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, :2] = 1
    expected = ChannelWiseLoss()(student[:1, :, :2], teacher[:1, :, :2])
    torch.testing.assert_close(ChannelWiseLoss()(student, teacher, mask), expected)


def test_nothing_valid_gives_0():
    mask = torch.ones(2, 4, 4)
    mask[0] = 0
    divergence = channel_wise_kl(*torch.randn(2, 2, 3, 4, 4), mask=mask)
    assert divergence[0].eq(0).all()
    assert divergence[1].gt(0).all()


def test_one_channel_is_fine():
    assert ChannelWiseLoss()(*torch.randn(2, 2, 1, 4, 4)) > 0


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1, 1)])
def test_one_position_is_refused(shape):
    with pytest.raises(ValueError, match="1 position"):
        ChannelWiseLoss()(*torch.randn(2, *shape))


def test_temperature_is_checked():
    with pytest.raises(ValueError, match="temperature must be positive"):
        ChannelWiseLoss(0.0)
