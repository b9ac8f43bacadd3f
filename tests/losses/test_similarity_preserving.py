from __future__ import annotations

import math

import pytest
import torch

from monai_kd.losses.similarity_preserving import SimilarityPreservingLoss

SHAPES = [(4, 3), (3, 3, 5, 4), (3, 3, 4, 3, 2)]


def naive_similarity(features):
    items = features.flatten(1).tolist()
    rows = [[sum(a * b for a, b in zip(x, y)) for y in items] for x in items]
    return [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows]


def naive(student, teacher):
    s, t = naive_similarity(student), naive_similarity(teacher)
    return sum((a - b) ** 2 for x, y in zip(s, t) for a, b in zip(x, y)) / len(s) ** 2


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_formula(shape):
    student, teacher = torch.randn(shape), torch.randn(shape[0], 7, 2, 2)
    assert SimilarityPreservingLoss()(student, teacher).item() == pytest.approx(naive(student, teacher), rel=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(shape):
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: SimilarityPreservingLoss()(x, teacher), student.requires_grad_())


def test_does_not_depend_on_the_scale_of_the_features():
    student, teacher = torch.randn(2, 4, 3, 4)
    loss = SimilarityPreservingLoss()
    torch.testing.assert_close(loss(1e15 * student, 1e-6 * teacher), loss(student, teacher))


def test_a_single_item_gives_0_in_the_graph():
    student, teacher = torch.randn(2, 1, 3, 4)
    value = SimilarityPreservingLoss()(student.requires_grad_(), teacher)
    value.backward()
    assert value == 0
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-6, rtol=0)


def test_an_empty_item_beside_others_does_not_blow_up():
    student, teacher = torch.randn(2, 4, 3, 4)
    student[0] = 0
    SimilarityPreservingLoss()(student.requires_grad_(), teacher).backward()
    assert student.grad.abs().max() < 1e4


def test_differing_batches_are_refused():
    with pytest.raises(ValueError, match="3 items of the student and 4 of the teacher"):
        SimilarityPreservingLoss()(torch.randn(3, 2), torch.randn(4, 2))
