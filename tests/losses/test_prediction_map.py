from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from monai_kd.adapters import ChannelAdapter
from monai_kd.losses.prediction_map import PredictionMapLoss

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def sine(shape, frequency, phase=0.0):
    return torch.sin(frequency * torch.arange(math.prod(shape), dtype=torch.float64) + phase).reshape(shape)


def resized(x, size):
    return F.interpolate(x, size=tuple(size), mode=MODES[x.ndim - 2], align_corners=False)


def joined(features):
    smallest = min((x.shape[2:] for x in features), key=lambda size: size.numel())
    return torch.cat([resized(x, smallest) for x in features], dim=1)


def naive(student, teacher, temperature):
    """KL(teacher || student) position by position."""
    total, count = 0.0, 0
    for s, t in zip(student, teacher):
        for a, b in zip(s.flatten(1).T / temperature, t.flatten(1).T / temperature):
            p, q = [v / a.exp().sum() for v in a.exp()], [v / b.exp().sum() for v in b.exp()]
            total += sum(float(y * (y / x).log()) for x, y in zip(p, q))
            count += 1
    return total / count * temperature**2


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_individual_matches_the_formula(dims):
    student, teacher = torch.randn(2, 3, *[2] * dims).double(), torch.randn(2, 3, *[4] * dims).double()
    for temperature in (1.0, 4.0):
        value = PredictionMapLoss(temperature)(student, teacher).item()
        assert value == pytest.approx(naive(resized(student, teacher.shape[2:]), teacher, temperature))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_unified_matches_the_formula(dims):
    student = torch.randn(2, 5, *[4] * dims).double()
    teachers = [torch.randn(2, 3, *[6] * dims).double(), torch.randn(2, 2, *[2] * dims).double()]
    expected = naive(student, resized(joined(teachers), student.shape[2:]), 4.0)
    assert PredictionMapLoss()(student, teachers).item() == pytest.approx(expected)


# --- the released form: fixed projections, and a divisor of C / 2 ----------------------------------------------------


def released(student, teacher):
    """``view(-1, 2)`` and "batchmean" divide by twice less, or C / 2 times more, positions than there are."""
    return PredictionMapLoss()(student, teacher) * 2 / student.shape[1]


def with_weights(adapter, weight, bias):
    with torch.no_grad():
        adapter.projection.weight.copy_(weight)
        adapter.projection.bias.copy_(bias)
    return adapter.double()


def sine_adapter(student, out):
    """Weights sin(1..n) / sqrt(fan), no bias."""
    channels = sum(x.shape[1] for x in student) if isinstance(student, list) else student.shape[1]
    weight = torch.sin(torch.arange(1, out * channels + 1).double()).reshape(out, channels, 1, 1) / channels**0.5
    shapes = [tuple(x.shape) for x in student] if isinstance(student, list) else tuple(student.shape)
    return with_weights(ChannelAdapter(shapes, (2, out, 4, 4)).double(), weight, torch.zeros(out))


LOGITS, TEACHER = 2 * sine((2, 2, 16, 16), 0.37), 2 * sine((2, 2, 16, 16), 0.23, 0.5)


def test_values_of_the_released_function():
    assert PredictionMapLoss()(LOGITS, TEACHER).item() == pytest.approx(0.8442073810823287, rel=1e-12)
    same = sine_adapter(LOGITS, 2)(LOGITS)
    assert released(same, TEACHER).item() == pytest.approx(1.4600052039651366, rel=1e-12)
    small = sine((2, 5, 8, 8), 0.31)
    assert released(sine_adapter(small, 2)(small), TEACHER).item() == pytest.approx(0.8098245121087916, rel=1e-12)


def test_value_of_the_released_unified_function():
    """There the projection is on the teacher's side; the loss is the same function of both sides."""
    student = sine((2, 6, 12, 12), 0.37)
    teachers = [sine((2, 4, 8, 8), 0.31), sine((2, 6, 12, 12), 0.17, 0.2), sine((2, 8, 4, 4), 0.41, 0.7)]
    target = [sine_adapter(teachers, 6)(teachers)]
    assert released(student, target).item() == pytest.approx(0.11075998659886278, rel=1e-12)
    assert PredictionMapLoss()(student, target).item() == pytest.approx(3 * 0.11075998659886278, rel=1e-12)


def test_golden_file():
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("the golden files lie next to $MONAI_KD_DATA, which is not set")
    path = Path(os.environ["MONAI_KD_DATA"]).parent / "golden" / "hlfd.npz"
    if not path.is_file():
        pytest.skip(f"no golden file {path}")
    golden = {name: torch.from_numpy(value).double() for name, value in np.load(path).items()}
    student, teacher = golden["pmd_student"], golden["pmd_teacher"]
    adapter = ChannelAdapter(student.shape, teacher.shape)
    projected = with_weights(adapter, golden["pmd_weight"], golden["pmd_bias"])(student)
    assert released(projected, teacher).item() == pytest.approx(golden["pmd_released"].item(), rel=1e-6)

    student, teachers = golden["pmd_cat_student"], [golden[f"pmd_cat_t{i}"] for i in (5, 4, 3)]
    adapter = ChannelAdapter([tuple(x.shape) for x in teachers], student.shape)
    target = with_weights(adapter, golden["pmd_cat_weight"], golden["pmd_cat_bias"])(teachers)
    assert released(student, [target]).item() == pytest.approx(golden["pmd_cat_released"].item(), rel=1e-6)


# --- at the coarsest size ---------------------------------------------------------------------------------------------


NATIVE = PredictionMapLoss(native_resolution=True)


def pooled(x, size):
    return {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}[x.ndim](x, size)


@pytest.mark.parametrize("sizes", [(2, 5), (5, 2), (4, 4)], ids=["coarse student", "fine student", "equal"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_native_resolution_averages_the_logits(dims, sizes):
    """5 is not divisible by 2."""
    student, teacher = (torch.randn(2, 3, *[side] * dims).double() for side in sizes)
    size = [min(sizes)] * dims
    expected = naive(pooled(student, size), pooled(teacher, size), 4.0)
    assert NATIVE(student, teacher).item() == pytest.approx(expected)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_native_resolution_joins_at_the_coarsest(dims):
    student = torch.randn(2, 5, *[3] * dims).double()
    teachers = [torch.randn(2, 3, *[6] * dims).double(), torch.randn(2, 2, *[2] * dims).double()]
    size = [2] * dims
    expected = naive(pooled(student, size), torch.cat([pooled(x, size) for x in teachers], dim=1), 4.0)
    assert NATIVE(student, teachers).item() == pytest.approx(expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_native_resolution_is_the_papers_loss_where_all_sizes_are_equal(dims):
    student, *teachers = (torch.randn(2, c, *[4] * dims).double() for c in (5, 3, 2))
    torch.testing.assert_close(NATIVE(student, teachers), PredictionMapLoss()(student, teachers))
    torch.testing.assert_close(NATIVE(student[:, :3], teachers[0]), PredictionMapLoss()(student[:, :3], teachers[0]))


@pytest.mark.parametrize("dims", [2, 3])
def test_native_resolution_reaches_the_student_alone(dims):
    student = torch.randn(2, 5, *[3] * dims).double().requires_grad_()
    teachers = [torch.randn(2, 3, *[4] * dims).double(), torch.randn(2, 2, *[2] * dims).double()]
    assert torch.autograd.gradcheck(lambda x: NATIVE(x, teachers), student)
    leaves = [x.requires_grad_() for x in teachers]
    NATIVE(student, leaves).backward()
    assert student.grad.any()
    assert all(x.grad is None for x in leaves)


@pytest.mark.parametrize("native", [False, True])
def test_float32_under_autocast(native):
    student, teacher = torch.randn(2, 3, 2, 2, 2), torch.randn(2, 3, 8, 8, 8)
    loss = PredictionMapLoss(native_resolution=native)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, half = loss(student, teacher), loss(student.bfloat16(), teacher.bfloat16())
    assert value.dtype == half.dtype == torch.float32
    torch.testing.assert_close(value, loss(student, teacher))


class Largest(TorchDispatchMode):
    """The most values that any operation wrote."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and func not in (torch.ops.aten.detach.default,):
            self.values = max(self.values, result.numel())
        return result


@pytest.mark.parametrize("dims", [2, 3])
def test_native_resolution_never_enlarges(dims):
    student, teacher = torch.randn(2, 3, *[4] * dims, requires_grad=True), torch.randn(2, 3, *[16] * dims)
    with Largest() as largest:
        NATIVE(student, teacher).backward()
    assert largest.values <= student.numel()


# --- behaviour --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
def test_projecting_before_or_after_the_resize_is_the_same(dims):
    student, teacher = torch.randn(2, 5, *[4] * dims).double(), torch.randn(2, 3, *[8] * dims).double()
    adapter = ChannelAdapter(student.shape, teacher.shape).double()
    after = PredictionMapLoss()(adapter(resized(student, teacher.shape[2:])), teacher)
    torch.testing.assert_close(PredictionMapLoss()(adapter(student), teacher), after)


@pytest.mark.parametrize("dims", [2, 3])
def test_gradient(dims):
    student = torch.randn(2, 5, *[2] * dims).double().requires_grad_()
    teachers = [torch.randn(2, 3, *[4] * dims).double(), torch.randn(2, 2, *[3] * dims).double()]
    loss = PredictionMapLoss()
    assert torch.autograd.gradcheck(lambda x: loss(x, teachers), student)
    assert torch.autograd.gradcheck(lambda x: loss(x[:, :3], teachers[0]), student)


def test_teachers_take_no_gradient():
    student, *teachers = (torch.randn(2, c, 4, 4, requires_grad=True) for c in (5, 3, 2))
    PredictionMapLoss()(student, teachers).backward()
    assert student.grad.any()
    assert all(x.grad is None for x in teachers)


@pytest.mark.parametrize("unified", [False, True])
def test_the_target_says_what_the_teacher_says(unified):
    """Another teacher pulls the same student elsewhere: with projections drawn anew it would not, on average."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 8, 8), 4 * torch.randn(2, 3, 8, 8)
    gradients = []
    for sign in (1, -1):
        total = torch.zeros_like(student)
        for seed in range(5):
            torch.manual_seed(seed)
            leaf, adapter = student.clone().requires_grad_(), ChannelAdapter(student.shape, teacher.shape)
            target = [sign * teacher] if unified else sign * teacher
            PredictionMapLoss()(adapter(leaf), target).backward()
            total += leaf.grad
        gradients.append(total.flatten())
    assert F.cosine_similarity(*gradients, dim=0) < 0.5


def test_the_adapter_cannot_make_the_target_vanish():
    """It stands on the student's side: a constant student stays wrong whatever the adapter learns."""
    torch.manual_seed(0)
    student, teachers = torch.ones(2, 4, 4, 4), [3 * torch.randn(2, 3, 4, 4), 3 * torch.randn(2, 2, 2, 2)]
    adapter = ChannelAdapter(student.shape, [tuple(x.shape) for x in teachers])
    optimizer, loss = torch.optim.Adam(adapter.parameters(), 0.1), PredictionMapLoss(1.0)
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(adapter(student), teachers)
        value.backward()
        optimizer.step()
    assert value > 0.5


def test_extremes_are_finite():
    student, teachers = (
        (1e4 * torch.randn(2, 5, 4, 4)).requires_grad_(),
        [torch.zeros(2, 2, 2, 2), torch.ones(2, 3, 8, 8)],
    )
    value = PredictionMapLoss()(student, teachers)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_errors():
    loss, x = PredictionMapLoss(), torch.randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match="temperature must be positive"):
        PredictionMapLoss(0)
    with pytest.raises(ValueError, match="native_resolution must be True or False, got 'false'"):
        PredictionMapLoss(native_resolution="false")
    with pytest.raises(ValueError, match=r"3 channels, the teacher 8 in 2 map\(s\).*ChannelAdapter"):
        loss(x, [x, torch.randn(2, 5, 2, 2)])
    with pytest.raises(ValueError, match=r"1 channel is constant.*out_channels=2"):
        loss(x[:, :1], x[:, :1])
    with pytest.raises(ValueError, match="as many axes"):
        loss(x, torch.randn(2, 3, 4, 4, 4))


def test_holds_no_parameters():
    assert not list(PredictionMapLoss().parameters())
    assert isinstance(PredictionMapLoss(), nn.Module)
