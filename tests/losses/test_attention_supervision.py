from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_kd.losses.attention_supervision import AttentionSupervisionLoss, row_attention

MODES = [{}, {"sigmoid": False}, {"both_sides": True}, {"sigmoid": False, "both_sides": True}]


def sine(shape: tuple[int, ...], frequency: float, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(frequency * torch.arange(math.prod(shape), dtype=torch.float64) + phase).reshape(shape)


def naive_attention(z: torch.Tensor) -> torch.Tensor:
    """Row by row of every map."""
    attended = []
    for image in z.reshape(-1, *z.shape[-2:]):
        for row in image:
            weight = torch.stack([(row * other).sum() / math.sqrt(len(row)) for other in image]).exp()
            attended.append((weight[:, None] * image).sum(0) / weight.sum())
    return torch.stack(attended).reshape(z.shape)


def naive(student, teacher, temperature, sigmoid=True, both_sides=False):
    a = naive_attention(teacher) / temperature
    s = (naive_attention(student) if both_sides else student) / temperature
    if sigmoid:
        q, p = a.sigmoid(), s.sigmoid()
        return temperature**2 * (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).mean()
    total = 0
    for one, other in zip(a.flatten(0, 1), s.flatten(0, 1)):
        q, p = one.exp() / one.exp().sum(), other.exp() / other.exp().sum()
        total = total + (q * (q / p).log()).sum()
    return temperature**2 * total / (a.shape[0] * a.shape[1])


@pytest.fixture
def maps():
    return 3 * sine((2, 1, 32, 32), 0.37), 3 * sine((2, 1, 32, 32), 0.23, 0.5)


def test_attention_of_the_released_function(maps):
    attended = row_attention(maps[1]) / 2
    assert attended.flatten()[:3].tolist() == pytest.approx(
        [0.8486603229343749, 1.1003561176909034, 1.2940992257340487], rel=1e-6
    )
    assert attended.sum().item() == pytest.approx(-0.5693614392580003, rel=1e-6)
    assert attended.min().item() == pytest.approx(-1.479043247467832, rel=1e-6)


@pytest.mark.parametrize(
    ("mode", "value", "norm"),
    [
        ({}, 0.9820216831425344, 0.014550498282653482),
        ({"sigmoid": False}, 3.533729067057201, 0.055449946338901525),
        ({"sigmoid": False, "both_sides": True}, 3.4719219545573683, None),
    ],
)
def test_reference_values(maps, mode, value, norm):
    student = maps[0].requires_grad_()
    loss = AttentionSupervisionLoss(**mode)(student, maps[1])
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-6)
    assert norm is None or student.grad.norm().item() == pytest.approx(norm, rel=1e-6)


def test_golden_file():
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("the golden files lie next to $MONAI_KD_DATA, which is not set")
    path = Path(os.environ["MONAI_KD_DATA"]).parent / "golden" / "kdas.npz"
    if not path.is_file():
        pytest.skip(f"no golden file {path}")
    golden = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    torch.testing.assert_close(row_attention(golden["teacher_p1"]), golden["attention_p1"], rtol=1e-5, atol=1e-6)
    # The released term: the student's "log-probability" is the constant 0.5, the target raw attended logits.
    for head in ("p1", "p2"):
        target = row_attention(golden[f"teacher_{head}"]) / 2
        released = (target * target.log() - 0.5 * target).mean()
        torch.testing.assert_close(released, golden[f"kd_released_{head}"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 3, 5, 4), (2, 1, 3, 4, 5)])
def test_matches_the_formula(shape, mode):
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    actual = AttentionSupervisionLoss(temperature=3.0, **mode)(student, teacher)
    torch.testing.assert_close(actual, naive(student, teacher, 3.0, **mode))


@pytest.mark.parametrize("mode", MODES)
def test_gradient(mode):
    student = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(AttentionSupervisionLoss(**mode), (student, teacher))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dims", [2, 3])
def test_leaves_the_teacher_alone(mode, dims):
    student, teacher = (torch.randn(2, 1, *[6] * dims, requires_grad=True) for _ in range(2))
    AttentionSupervisionLoss(**mode)(student, teacher).backward()
    assert student.grad.any()
    assert teacher.grad is None


@pytest.mark.parametrize("sigmoid", [True, False])
def test_zero_where_the_student_has_learnt_it(sigmoid):
    teacher = 5 * torch.randn(2, 1, 8, 8)
    loss = AttentionSupervisionLoss(sigmoid=sigmoid)
    assert loss(row_attention(teacher), teacher).item() == pytest.approx(0, abs=1e-6)
    assert AttentionSupervisionLoss(sigmoid=sigmoid, both_sides=True)(teacher, teacher).item() == 0
    assert loss(torch.randn(2, 1, 8, 8), teacher) > 0


@pytest.mark.parametrize("mode", MODES)
def test_slices_of_a_volume_attend_alone(mode):
    student, teacher = torch.randn(2, 2, 1, 3, 4, 5)
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (student, teacher)]
    torch.testing.assert_close(row_attention(teacher).transpose(1, 2).flatten(0, 1), row_attention(flat[1]))
    if mode.get("sigmoid", True):
        loss = AttentionSupervisionLoss(**mode)
        torch.testing.assert_close(loss(student, teacher), loss(*flat))


@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize("channel", [True, False])
def test_the_mask_selects_positions(sigmoid, channel):
    student, teacher = torch.randn(2, 2, 1, 6, 5)
    mask = torch.zeros(2, 6, 5)
    mask[:, :4] = 1
    loss = AttentionSupervisionLoss(sigmoid=sigmoid)
    other = student.clone()
    other[:, :, 4:] = 100
    actual = loss(student, teacher, mask[:, None] if channel else mask)
    torch.testing.assert_close(actual, loss(other, teacher, mask[:, None] if channel else mask))
    assert actual != loss(student, teacher)
    torch.testing.assert_close(loss(student, teacher, torch.ones(2, 6, 5)), loss(student, teacher))


@pytest.mark.parametrize("sigmoid", [True, False])
def test_an_empty_mask_gives_zero(sigmoid):
    student = torch.randn(1, 1, 6, 5, requires_grad=True)
    loss = AttentionSupervisionLoss(sigmoid=sigmoid)(student, torch.randn(1, 1, 6, 5), torch.zeros(1, 6, 5))
    loss.backward()
    assert loss == 0
    assert not student.grad.any()


@pytest.mark.parametrize("mode", MODES)
def test_confident_logits_are_finite(mode):
    student = (1e4 * torch.randn(1, 1, 8, 8)).requires_grad_()
    loss = AttentionSupervisionLoss(**mode)(student, 1e4 * torch.randn(1, 1, 8, 8))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_same_value_on_any_batch_size():
    student, teacher = torch.randn(2, 1, 1, 8, 8)
    for sigmoid in (True, False):
        loss = AttentionSupervisionLoss(sigmoid=sigmoid)
        repeated = loss(student.expand(4, -1, -1, -1), teacher.expand(4, -1, -1, -1))
        torch.testing.assert_close(repeated, loss(student, teacher))


@pytest.mark.parametrize("mode", MODES)
def test_float32_under_autocast(mode):
    student, teacher = 3 * torch.randn(2, 2, 1, 16, 16)
    loss = AttentionSupervisionLoss(**mode)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = loss(student, teacher)
        half = loss(student.bfloat16(), teacher.bfloat16())
    torch.testing.assert_close(actual, loss(student, teacher), rtol=1e-6, atol=0)
    assert half.dtype == torch.float32


def test_messages():
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        AttentionSupervisionLoss(temperature=0)
    with pytest.raises(ValueError, match="logits differ in shape"):
        AttentionSupervisionLoss()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="expected logits of shape"):
        AttentionSupervisionLoss()(torch.zeros(4, 4), torch.zeros(4, 4))
    for sigmoid in (True, False):
        with pytest.raises(ValueError, match=r"expected \(1, 1, 4, 4\) \(the channel axis may be left out\)"):
            AttentionSupervisionLoss(sigmoid=sigmoid)(*torch.zeros(2, 1, 1, 4, 4), torch.zeros(1, 2, 4))
