from __future__ import annotations

import math

import pytest
import torch

from monai_kd.losses.dist import DISTLoss

SHAPES = [(4, 3), (2, 4, 5, 4), (2, 3, 4, 3, 2)]


def correlation(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    a, b = [v - mean_a for v in a], [v - mean_b for v in b]
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def naive(p, q, beta, gamma):
    p, q = (x.movedim(1, -1).reshape(-1, x.shape[1]).tolist() for x in (p, q))
    inter = sum(1 - correlation(a, b) for a, b in zip(p, q)) / len(p)
    intra = sum(1 - correlation(a, b) for a, b in zip(zip(*p), zip(*q))) / len(p[0])
    return beta * inter + gamma * intra


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_formula(shape):
    student, teacher = torch.randn(2, *shape)
    value = DISTLoss(beta=0.5, gamma=2.0, temperature=2.0)(student, teacher).item()
    assert value == pytest.approx(naive((student / 2).softmax(1), (teacher / 2).softmax(1), 0.5, 2.0), rel=1e-3)
    value = DISTLoss(sigmoid=True)(student, teacher).item()
    assert value == pytest.approx(naive(student.sigmoid(), teacher.sigmoid(), 1.0, 1.0), rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(shape):
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: DISTLoss()(x, teacher), student.requires_grad_())


@pytest.mark.parametrize(("channels", "sigmoid"), [(1, True), (2, True), (2, False)])
def test_one_and_two_channels_have_only_the_intra_class_part(channels, sigmoid):
    student, teacher = torch.randn(2, 3, channels, 4, 4)
    value = DISTLoss(sigmoid=sigmoid)(student, teacher)
    torch.testing.assert_close(value, DISTLoss(beta=0, sigmoid=sigmoid)(student, teacher))
    assert value > 0.1


def test_keeps_relations_and_not_values():
    teacher = torch.randn(4, 3, 6, 6).sigmoid()
    student = torch.logit(0.2 + 0.5 * teacher)
    torch.testing.assert_close(DISTLoss(sigmoid=True)(student, teacher.logit()).item(), 0.0, atol=1e-5, rtol=0)


def test_a_single_item_has_no_intra_class_relation():
    student, teacher = torch.randn(2, 1, 3)
    assert DISTLoss(beta=0)(student, teacher) == 0
    assert DISTLoss(gamma=0)(student, teacher) > 0


def test_mask_selects_positions():
    student, teacher = torch.randn(2, 2, 3, 4, 4)
    mask = torch.zeros(2, 4, 4)
    mask[0, :2] = 1
    expected = DISTLoss()(student[:1, :, :2], teacher[:1, :, :2])
    torch.testing.assert_close(DISTLoss()(student, teacher, mask), expected)


def test_errors():
    with pytest.raises(ValueError, match="sigmoid=True"):
        DISTLoss()(*torch.randn(2, 2, 1, 4, 4))
    with pytest.raises(ValueError, match="temperature must be positive"):
        DISTLoss(temperature=-1)
    with pytest.raises(ValueError, match="must not be negative"):
        DISTLoss(gamma=-1)
