from __future__ import annotations

import itertools
import math

import pytest
import torch

from monai_kd.losses.rkd import RKDLoss

SHAPES = [(4, 3), (4, 3, 5, 4), (4, 3, 4, 3, 2)]


def huber(x):
    return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


def difference(a, b):
    return [x - y for x, y in zip(a, b)]


def inner(a, b):
    return sum(x * y for x, y in zip(a, b))


def length(a):
    return math.sqrt(inner(a, a))


def naive_distance(student, teacher):
    pairs = list(itertools.permutations(range(len(student)), 2))
    s, t = ([length(difference(x[i], x[j])) for i, j in pairs] for x in (student, teacher))
    s, t = ([v * len(x) / sum(x) for v in x] for x in (s, t))
    return sum(huber(a - b) for a, b in zip(s, t)) / len(pairs)


def cosine(x, i, j, k):
    a, b = difference(x[i], x[j]), difference(x[k], x[j])
    return inner(a, b) / length(a) / length(b)


def naive_angle(student, teacher):
    triplets = list(itertools.permutations(range(len(student)), 3))
    return sum(huber(cosine(student, *ijk) - cosine(teacher, *ijk)) for ijk in triplets) / len(triplets)


def pooled(x):
    return (x.flatten(2).mean(2) if x.ndim > 2 else x).tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_formula(shape):
    student, teacher = torch.randn(shape), torch.randn(shape[0], 5, 3, 3)
    distance, angle = (f(pooled(student), pooled(teacher)) for f in (naive_distance, naive_angle))
    assert RKDLoss(1.0, 0.0)(student, teacher).item() == pytest.approx(distance, rel=1e-4)
    assert RKDLoss(0.0, 1.0)(student, teacher).item() == pytest.approx(angle, rel=1e-4)
    assert RKDLoss(3.0, 4.0)(student, teacher).item() == pytest.approx(3 * distance + 4 * angle, rel=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(shape):
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: RKDLoss()(x, teacher), student.requires_grad_())


def test_moved_turned_and_scaled_items_keep_their_relations():
    student = torch.randn(5, 3)
    turn, _ = torch.linalg.qr(torch.randn(3, 3))
    value = RKDLoss()(student, 7.0 * student @ turn + 2.0)
    torch.testing.assert_close(value, torch.zeros(()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 2])
def test_small_batches_give_0_in_the_graph(size):
    student, teacher = torch.randn(2, size, 3)
    value = RKDLoss()(student.requires_grad_(), teacher)
    value.backward()
    torch.testing.assert_close(value, torch.zeros(()))
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-5, rtol=0)


def test_duplicate_items_have_a_bounded_gradient():
    student, teacher = torch.randn(2, 6, 4)
    student[1] = student[0]
    RKDLoss()(student.requires_grad_(), teacher).backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1e3


def test_nearly_equal_items_far_from_0_keep_their_angles():
    student, teacher = torch.randn(2, 5, 4)
    student[1] = student[0] + 0.01 * torch.randn(4)
    student += 10
    exact = naive_angle(student.tolist(), teacher.tolist())
    assert RKDLoss(0.0, 1.0)(student, teacher).item() == pytest.approx(exact, rel=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="3 items of the student and 4 of the teacher"):
        RKDLoss()(torch.randn(3, 2), torch.randn(4, 2))
    with pytest.raises(ValueError, match="must not be negative"):
        RKDLoss(angle_weight=-1)
