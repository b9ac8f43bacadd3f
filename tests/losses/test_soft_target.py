from __future__ import annotations

import math

import pytest
import torch

from monai_kd.losses.soft_target import SoftTargetLoss, soft_target_kl

SHAPES = [(4, 3), (2, 3, 5, 4), (2, 3, 4, 3, 2)]


def softmax(z):
    total = sum(math.exp(v) for v in z)
    return [math.exp(v) / total for v in z]


def naive(student, teacher, temperature):
    total = 0.0
    s_rows, t_rows = (x.movedim(1, -1).reshape(-1, x.shape[1]).tolist() for x in (student, teacher))
    for s, t in zip(s_rows, t_rows):
        p, q = softmax([v / temperature for v in s]), softmax([v / temperature for v in t])
        total += sum(b * math.log(b / a) for a, b in zip(p, q))
    return total / len(s_rows) * temperature**2


def naive_bernoulli(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist()):
        p, q = 1 / (1 + math.exp(-s / temperature)), 1 / (1 + math.exp(-t / temperature))
        total += q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    return total / student.numel() * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_formula(shape, temperature):
    student, teacher = torch.randn(2, *shape)
    value = SoftTargetLoss(temperature)(student, teacher).item()
    assert value == pytest.approx(naive(student, teacher, temperature), rel=1e-4)
    value = SoftTargetLoss(temperature, sigmoid=True)(student, teacher).item()
    assert value == pytest.approx(naive_bernoulli(student, teacher, temperature), rel=1e-4)


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(shape, sigmoid):
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    loss = SoftTargetLoss(2.0, sigmoid)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student.requires_grad_())


def test_bernoulli_form_is_the_two_class_softmax():
    student, teacher = torch.randn(2, 3, 1, 4, 4)
    two_class = [torch.cat((torch.zeros_like(x), x), dim=1) for x in (student, teacher)]
    torch.testing.assert_close(SoftTargetLoss(3.0, sigmoid=True)(student, teacher), SoftTargetLoss(3.0)(*two_class))


def test_mask_selects_positions():
    student, teacher = torch.randn(2, 2, 3, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, :2] = 1
    expected = SoftTargetLoss()(student[:1, :, :2], teacher[:1, :, :2])
    torch.testing.assert_close(SoftTargetLoss()(student, teacher, mask), expected)
    torch.testing.assert_close(SoftTargetLoss()(student, teacher, mask[:, 0].bool()), expected)


def test_one_value_a_position():
    assert soft_target_kl(*torch.randn(2, 2, 3, 4, 5, 6)).shape == (2, 4, 5, 6)


def test_one_channel_softmax_is_refused():
    with pytest.raises(ValueError, match="sigmoid=True"):
        SoftTargetLoss()(*torch.randn(2, 2, 1, 4, 4))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperature_is_checked(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        SoftTargetLoss(temperature)
