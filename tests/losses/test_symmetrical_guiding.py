from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_kd.losses.symmetrical_guiding import SymmetricalGuidingLoss, symmetrical_guiding


def sine(shape: tuple[int, ...], frequency: float, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(frequency * torch.arange(math.prod(shape), dtype=torch.float64) + phase).reshape(shape)


def naive(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Pixel by pixel of every map."""
    errors = []
    for s, t in zip(student.reshape(-1, *student.shape[-2:]), teacher.reshape(-1, *teacher.shape[-2:])):
        for i in range(len(s)):
            errors += [((s[i, j] + s[j, i]) - (t[i, j] + t[j, i])) ** 2 for j in range(len(s))]
    return torch.stack(errors).mean()


def test_value_of_the_released_function():
    student, teacher = 3 * sine((2, 1, 32, 32), 0.37), 3 * sine((2, 1, 32, 32), 0.23, 0.5)
    assert SymmetricalGuidingLoss()(student, teacher).item() == pytest.approx(18.04927057737427, rel=1e-6)


def test_golden_file():
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("the golden files lie next to $MONAI_KD_DATA, which is not set")
    path = Path(os.environ["MONAI_KD_DATA"]).parent / "golden" / "kdas.npz"
    if not path.is_file():
        pytest.skip(f"no golden file {path}")
    golden = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    student, teacher = golden["student_p1"], golden["teacher_p1"]
    torch.testing.assert_close(SymmetricalGuidingLoss()(student, teacher), golden["sgm_mse"], rtol=1e-5, atol=0)
    embedded = golden["symmetric_embedding_student"] - golden["symmetric_embedding_teacher"]
    torch.testing.assert_close(symmetrical_guiding(student, teacher)[:, 0], embedded.square(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 3, 5, 5), (2, 1, 3, 4, 4)])
def test_matches_the_formula(shape, sigmoid):
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    expected = naive(student.sigmoid(), teacher.sigmoid()) if sigmoid else naive(student, teacher)
    torch.testing.assert_close(SymmetricalGuidingLoss(sigmoid)(student, teacher), expected)


@pytest.mark.parametrize("sigmoid", [True, False])
def test_gradient(sigmoid):
    student = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(SymmetricalGuidingLoss(sigmoid), (student, teacher))


@pytest.mark.parametrize("dims", [2, 3])
def test_leaves_the_teacher_alone(dims):
    student, teacher = (torch.randn(1, 1, *[6] * dims, requires_grad=True) for _ in range(2))
    SymmetricalGuidingLoss()(student, teacher).backward()
    assert student.grad.any()
    assert teacher.grad is None


def test_only_the_symmetric_part_counts():
    teacher, noise = torch.randn(2, 1, 1, 8, 8, dtype=torch.float64)
    antisymmetric = noise - noise.transpose(-1, -2)
    loss = SymmetricalGuidingLoss()
    assert loss(teacher + antisymmetric, teacher).item() == pytest.approx(0, abs=1e-20)
    symmetric = (noise + noise.transpose(-1, -2)) / 2
    torch.testing.assert_close(loss(teacher + symmetric, teacher), 4 * symmetric.square().mean())


def test_probabilities_bound_it():
    student, teacher = torch.full((2, 1, 1, 4, 4), 1e4) * torch.tensor([1, -1]).view(2, 1, 1, 1, 1)
    assert SymmetricalGuidingLoss(sigmoid=True)(student, teacher).item() == pytest.approx(4)


def test_float32_under_autocast():
    student, teacher = torch.randn(2, 2, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = SymmetricalGuidingLoss()(student, teacher)
        half = SymmetricalGuidingLoss()(student.bfloat16(), teacher.bfloat16())
    torch.testing.assert_close(actual, SymmetricalGuidingLoss()(student, teacher))
    assert half.dtype == torch.float32


def test_messages():
    with pytest.raises(ValueError, match=r"P \+ P\^T needs square maps, got height 4 and width 6"):
        SymmetricalGuidingLoss()(torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 4, 6))
    with pytest.raises(ValueError, match="logits differ in shape"):
        SymmetricalGuidingLoss()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="expected logits of shape"):
        SymmetricalGuidingLoss()(torch.zeros(4, 4), torch.zeros(4, 4))
