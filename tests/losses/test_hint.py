from __future__ import annotations

import pytest
import torch

from monai_kd.losses.hint import HintLoss

SHAPES = [(4, 3), (2, 3, 5, 4), (2, 3, 4, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_formula(shape):
    student, teacher = torch.randn(2, *shape)
    pairs = list(zip(student.flatten().tolist(), teacher.flatten().tolist()))
    assert HintLoss()(student, teacher).item() == pytest.approx(sum((a - b) ** 2 for a, b in pairs) / len(pairs))


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(shape):
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: HintLoss()(x, teacher), student.requires_grad_())


def test_mask_selects_positions():
    student, teacher = torch.randn(2, 2, 3, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, :2] = 1
    torch.testing.assert_close(HintLoss()(student, teacher, mask), HintLoss()(student[:1, :, :2], teacher[:1, :, :2]))


def test_differing_shapes_ask_for_an_adapter():
    with pytest.raises(ValueError, match=r"student \(2, 3, 4\), teacher \(2, 5, 4\).*adapter"):
        HintLoss()(torch.randn(2, 3, 4), torch.randn(2, 5, 4))
