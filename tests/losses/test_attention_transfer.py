from __future__ import annotations

import math

import pytest
import torch

from monai_kd.losses.attention_transfer import AttentionTransferLoss, attention_map

SHAPES = [(2, 3, 6), (2, 3, 5, 4), (2, 3, 4, 3, 2)]


def naive_map(features, p):
    strength = [sum(abs(v) ** p for v in position) for position in features.flatten(1).T.tolist()]
    length = math.sqrt(sum(v * v for v in strength))
    return [v / length for v in strength]


def naive(student, teacher, p):
    total = 0.0
    for s, t in zip(student, teacher):
        total += sum((a - b) ** 2 for a, b in zip(naive_map(s, p), naive_map(t, p)))
    return total / len(student)


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_formula(shape, p):
    student, teacher = torch.randn(shape), torch.randn(shape[0], 7, *shape[2:])
    assert AttentionTransferLoss(p)(student, teacher).item() == pytest.approx(naive(student, teacher, p), rel=1e-4)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(shape, p):
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: AttentionTransferLoss(p)(x, teacher), student.requires_grad_())


def test_does_not_depend_on_the_scale_of_the_features():
    student, teacher = torch.randn(2, 2, 3, 4, 4)
    loss = AttentionTransferLoss(4.0)
    torch.testing.assert_close(loss(1e6 * student, 1e-6 * teacher), loss(student, teacher))


def test_opposite_attention_is_2():
    student, teacher = torch.zeros(2, 1, 1, 2, 2)
    student[..., 0, 0], teacher[..., 1, 1] = 1.0, 3.0
    assert AttentionTransferLoss()(student, teacher) == 2
    assert attention_map(torch.zeros(1, 3, 4, 4)).eq(0).all()


def test_errors():
    loss = AttentionTransferLoss()
    with pytest.raises(ValueError, match="adapter"):
        loss(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match="1 position"):
        loss(torch.randn(2, 3), torch.randn(2, 3))
    with pytest.raises(ValueError, match="1 position"):
        loss(torch.randn(2, 3, 1, 1), torch.randn(2, 3, 1, 1))
    with pytest.raises(ValueError, match="p must be at least 1"):
        AttentionTransferLoss(0.5)
