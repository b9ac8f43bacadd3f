from __future__ import annotations

import math

import pytest
import torch

from monai_kd import testing
from monai_kd.losses import HardTargetLoss
from monai_kd.losses.hard_target import hard_target_cross_entropy

SHAPES = [(4, 3), (4, 3, 5, 4), (4, 3, 4, 3, 2)]
both_forms = pytest.mark.parametrize("sigmoid", [False, True])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def naive(student, teacher):
    s_rows, t_rows = (x.movedim(1, -1).reshape(-1, x.shape[1]).tolist() for x in (student, teacher))
    total = sum(math.log(sum(math.exp(v) for v in s)) - s[t.index(max(t))] for s, t in zip(s_rows, t_rows))
    return total / len(s_rows)


def naive_sigmoid(student, teacher):
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist())
    return sum(math.log(1 + math.exp(-s if t > 0 else s)) for s, t in pairs) / student.numel()


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_formula(shape):
    student, teacher = torch.randn(2, *shape)
    assert HardTargetLoss()(student, teacher).item() == pytest.approx(naive(student, teacher), rel=1e-5)
    value = HardTargetLoss(sigmoid=True)(student, teacher).item()
    assert value == pytest.approx(naive_sigmoid(student, teacher), rel=1e-5)


@both_forms
@pytest.mark.parametrize("shape", SHAPES)
def test_laws(shape, sigmoid):
    loss = HardTargetLoss(sigmoid)
    student, teacher = torch.randn(2, *shape)
    testing.assert_gradient_reaches_student(loss, student, teacher)
    testing.assert_no_gradient_to_teacher(loss, student, teacher)
    testing.assert_half_precision_safe(loss, student, teacher)
    testing.assert_spatial_permutation_invariant(loss, student, teacher)
    testing.assert_finite_on_extremes(loss, student, teacher)
    testing.assert_batch_average(loss, student, teacher)
    testing.assert_finite_on_empty_mask(loss, student, teacher)
    testing.assert_masked_positions_ignored(loss, student, teacher)
    assert loss(student.double(), teacher.double()).dtype == torch.float64


@both_forms
def test_only_the_decision_counts(sigmoid):
    student, teacher = torch.randn(2, 4, 3)
    loss = HardTargetLoss(sigmoid)
    assert torch.equal(loss(student, teacher), loss(student, 100 * teacher))


@both_forms
def test_is_0_for_a_student_that_is_sure(sigmoid):
    teacher = torch.randn(4, 3)
    assert HardTargetLoss(sigmoid)(1e4 * teacher, teacher) == 0


def test_one_value_a_position():
    assert hard_target_cross_entropy(*torch.randn(2, 2, 3, 4, 5, 6)).shape == (2, 4, 5, 6)


def test_messages():
    with pytest.raises(ValueError, match="sigmoid=True"):
        HardTargetLoss()(*torch.randn(2, 2, 1))
    with pytest.raises(ValueError, match="logits differ in shape"):
        HardTargetLoss()(torch.randn(2, 3), torch.randn(2, 4))
