from __future__ import annotations

import math

import pytest
import torch

from monai_kd import testing
from monai_kd.losses import NormalizedHintLoss
from monai_kd.losses.normalized_hint import normalized_hint_error

SHAPES = [(4, 3), (4, 3, 5, 4), (4, 3, 4, 3, 2)]
every_shape = pytest.mark.parametrize("shape", SHAPES)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rows(x):
    return x.movedim(1, -1).reshape(-1, x.shape[1]).tolist()


@every_shape
def test_is_twice_one_minus_the_cosine(shape):
    student, teacher = torch.randn(2, *shape)
    cosines = [
        sum(a * b for a, b in zip(s, t)) / math.hypot(*s) / math.hypot(*t) for s, t in zip(rows(student), rows(teacher))
    ]
    expected = sum(2 - 2 * cosine for cosine in cosines) / len(cosines)
    assert NormalizedHintLoss()(student, teacher).item() == pytest.approx(expected, rel=1e-5)


@every_shape
def test_laws(shape):
    student, teacher = torch.randn(2, *shape)
    testing.check_loss(NormalizedHintLoss(), student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        testing.check_loss(NormalizedHintLoss(), student, teacher)
    assert NormalizedHintLoss()(student.double(), teacher.double()).dtype == torch.float64


@every_shape
def test_gradient(shape):
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: NormalizedHintLoss()(x, teacher), student.requires_grad_())


def test_the_scale_of_a_position_does_not_count():
    student, teacher = torch.randn(2, 2, 3, 4, 4)
    scale = 0.1 + 10 * torch.rand(2, 1, 4, 4)
    expected = normalized_hint_error(student, teacher)
    torch.testing.assert_close(normalized_hint_error(student * scale, teacher), expected)
    torch.testing.assert_close(normalized_hint_error(student, teacher * scale), expected)
    torch.testing.assert_close(normalized_hint_error(-3 * teacher, teacher), torch.full((2, 4, 4), 4.0))


def test_one_weight_fits_any_number_of_channels():
    student, teacher = torch.randn(2, 2, 3, 4, 4)
    wider = [x.repeat(1, 7, 1, 1) for x in (student, teacher)]
    torch.testing.assert_close(NormalizedHintLoss()(*wider), NormalizedHintLoss()(student, teacher))


def test_features_of_0_are_finite():
    student = torch.zeros(2, 3, 4, requires_grad=True)
    value = NormalizedHintLoss()(student, torch.randn(2, 3, 4))
    value.backward()
    assert value.item() == pytest.approx(1.0)
    assert student.grad.isfinite().all()
    assert NormalizedHintLoss()(torch.randn(2, 3, 4), torch.zeros(2, 3, 4)).item() == pytest.approx(1.0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"features differ in shape: student \(2, 3, 4\), teacher \(2, 5, 4\)"):
        NormalizedHintLoss()(torch.randn(2, 3, 4), torch.randn(2, 5, 4))
