from __future__ import annotations

import math

import pytest
import torch

from monai_kd.losses.dkd import DKDLoss
from monai_kd.losses.soft_target import SoftTargetLoss

SHAPES = [(4, 3), (2, 4, 5, 4), (2, 3, 4, 3, 2)]


def log_sum_exp(z):
    return max(z) + math.log(sum(math.exp(v - max(z)) for v in z))


def log_softmax(z):
    return [v - log_sum_exp(z) for v in z]


def kl(log_p, log_q):
    return sum(math.exp(b) * (b - a) for a, b in zip(log_p, log_q))


def naive(student, teacher, label, temperature, alpha, beta):
    rows = [x.movedim(1, -1).reshape(-1, x.shape[1]).tolist() for x in (student, teacher)]
    total = 0.0
    for s, t, y in zip(*rows, label.flatten().tolist()):
        s, t = [v / temperature for v in s], [v / temperature for v in t]
        s_others, t_others = s[:y] + s[y + 1 :], t[:y] + t[y + 1 :]
        target = kl(log_softmax([s[y], log_sum_exp(s_others)]), log_softmax([t[y], log_sum_exp(t_others)]))
        nontarget = kl(log_softmax(s_others), log_softmax(t_others))
        total += alpha * target + beta * nontarget
    return total / len(rows[0]) * temperature**2


def random_inputs(shape, dtype=torch.float32):
    student, teacher = torch.randn(2, *shape, dtype=dtype)
    return student, teacher, torch.randint(shape[1], (shape[0], *shape[2:]))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_formula(shape, alpha, beta):
    student, teacher, label = random_inputs(shape)
    value = DKDLoss(3.0, alpha, beta)(student, teacher, label).item()
    assert value == pytest.approx(naive(student, teacher, label, 3.0, alpha, beta), rel=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(shape):
    student, teacher, label = random_inputs(shape, torch.float64)
    assert torch.autograd.gradcheck(lambda x: DKDLoss(2.0)(x, teacher, label), student.requires_grad_())


def test_two_classes_have_only_the_target_part():
    student, teacher, label = random_inputs((3, 2, 5))
    torch.testing.assert_close(DKDLoss(2.0)(student, teacher, label), SoftTargetLoss(2.0)(student, teacher))
    value = DKDLoss(2.0, alpha=0.5, sigmoid=True)(student, teacher, label)
    torch.testing.assert_close(value, 0.5 * SoftTargetLoss(2.0, sigmoid=True)(student, teacher))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_extreme_logits_lose_no_precision(scale, alpha, beta):
    student, teacher, label = random_inputs((6, 4, 5))
    student, teacher = scale * student, scale * teacher
    exact = naive(student, teacher, label, 1.0, alpha, beta)
    assert DKDLoss(1.0, alpha, beta)(student, teacher, label).item() == pytest.approx(exact, rel=1e-5)


def test_a_class_that_neither_network_allows_adds_nothing():
    student, teacher, label = random_inputs((3, 4, 5))
    label %= 3
    expected = DKDLoss()(student[:, :3], teacher[:, :3], label)
    student[:, 3] = teacher[:, 3] = -math.inf
    value = DKDLoss()(student.requires_grad_(), teacher, label)
    value.backward()
    torch.testing.assert_close(value, expected)
    assert student.grad.isfinite().all()
    assert (student.grad[:, 3] == 0).all()


def test_positions_without_a_class_do_not_count():
    student, teacher, label = random_inputs((2, 3, 4, 4))
    label[1], label[0, 2:] = 255, -1
    expected = DKDLoss()(student[:1, :, :2], teacher[:1, :, :2], label[:1, :2])
    torch.testing.assert_close(DKDLoss()(student, teacher, label), expected)
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, 0] = 1
    expected = DKDLoss()(student[:1, :, :1], teacher[:1, :, :1], label[:1, :1])
    torch.testing.assert_close(DKDLoss()(student, teacher, label, mask), expected)
    assert DKDLoss()(student, teacher, torch.full_like(label, -1)) == 0


def test_label_may_have_a_channel_axis_and_be_a_float():
    student, teacher, label = random_inputs((2, 3, 4, 4))
    expected = DKDLoss()(student, teacher, label)
    torch.testing.assert_close(DKDLoss()(student, teacher, label.unsqueeze(1).float()), expected)


def test_errors():
    student, teacher, label = random_inputs((2, 3, 4, 4))
    one_hot = torch.nn.functional.one_hot(label, 3).movedim(-1, 1)
    with pytest.raises(ValueError, match="argmax"):
        DKDLoss()(student, teacher, one_hot)
    with pytest.raises(ValueError, match="sigmoid=True"):
        DKDLoss()(student[:, :1], teacher[:, :1], label)
    with pytest.raises(ValueError, match="temperature must be positive"):
        DKDLoss(temperature=0)
    with pytest.raises(ValueError, match="must not be negative"):
        DKDLoss(beta=-1)
