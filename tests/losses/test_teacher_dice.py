from __future__ import annotations

import pytest
import torch

from monai_kd.losses.teacher_dice import TeacherDiceLoss, teacher_dice, valid_positions

SHAPES = [(4, 3), (2, 3, 5, 4), (2, 3, 4, 3, 2)]


def naive(p, q):
    """Mean of 1 - 2pq / (p^2 + q^2) over items and channels."""
    total = 0.0
    for i in range(p.shape[0]):
        for c in range(p.shape[1]):
            pairs = list(zip(p[i, c].flatten().tolist(), q[i, c].flatten().tolist()))
            total += 1 - 2 * sum(a * b for a, b in pairs) / sum(a * a + b * b for a, b in pairs)
    return total / (p.shape[0] * p.shape[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_formula(shape):
    student, teacher = torch.randn(2, *shape)
    p, q = student.softmax(1), teacher.softmax(1)
    assert TeacherDiceLoss(smooth=1e-9)(student, teacher).item() == pytest.approx(naive(p, q), rel=1e-4)
    p, q = (student / 2).softmax(1)[:, 1:], (teacher / 2).softmax(1)[:, 1:]
    loss = TeacherDiceLoss(include_background=False, temperature=2.0, smooth=1e-9)
    assert loss(student, teacher).item() == pytest.approx(naive(p, q), rel=1e-4)
    p, q = student.sigmoid(), teacher.sigmoid()
    assert TeacherDiceLoss(sigmoid=True, smooth=1e-9)(student, teacher).item() == pytest.approx(naive(p, q), rel=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(shape):
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: TeacherDiceLoss()(x, teacher), student.requires_grad_())


def test_empty_in_both_is_no_error():
    empty = torch.zeros(2, 1, 8, 8)
    assert teacher_dice(empty, empty).eq(0).all()
    assert teacher_dice(empty, torch.ones_like(empty)).sub(1).abs().max() < 1e-4


def test_small_structures_weigh_as_much_as_large_ones():
    teacher = torch.full((1, 2, 16, 16), -20.0, requires_grad=False)
    teacher[:, 0], teacher[:, 1, 3, 3] = 20.0, 60.0
    teacher[:, 0, 3, 3] = -20.0
    all_background = torch.zeros_like(teacher)
    all_background[:, 0] = 40.0
    # One of 256 positions is wrong, and the foreground class is lost.
    assert TeacherDiceLoss(include_background=False)(all_background, teacher) > 0.99


def test_mask_selects_positions_and_items():
    student, teacher = torch.randn(2, 2, 3, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, :2] = 1
    expected = TeacherDiceLoss()(student[:1, :, :2], teacher[:1, :, :2])
    torch.testing.assert_close(TeacherDiceLoss()(student, teacher, mask), expected)


def test_errors():
    with pytest.raises(ValueError, match="sigmoid=True"):
        TeacherDiceLoss()(*torch.randn(2, 2, 1, 4, 4))
    with pytest.raises(ValueError, match="include_background=True"):
        TeacherDiceLoss(sigmoid=True, include_background=False)(*torch.randn(2, 2, 1, 4, 4))
    with pytest.raises(ValueError, match="temperature must be positive"):
        TeacherDiceLoss(temperature=0)
    with pytest.raises(ValueError, match="smooth must be positive"):
        TeacherDiceLoss(smooth=0)
    with pytest.raises(ValueError, match=r"expected \(2, 1, 4, 4\).*got \(2, 1, 4, 5\)"):
        valid_positions(torch.ones(2, 1, 4, 5), torch.ones(2, 3, 4, 4))
