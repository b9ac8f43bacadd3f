from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from monai_kd.losses import _power_sum as module
from monai_kd.losses.attention_transfer import attention_map
from monai_kd.losses.importance_map import ImportanceMapLoss, importance_map

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def sine(shape, frequency, phase=0.0):
    return torch.sin(frequency * torch.arange(math.prod(shape), dtype=torch.float64) + phase).reshape(shape)


def resized(x, size):
    return F.interpolate(x, size=tuple(size), mode=MODES[x.ndim - 2], align_corners=False)


def joined(features):
    smallest = min((x.shape[2:] for x in features), key=lambda size: size.numel())
    return torch.cat([resized(x, smallest) for x in features], dim=1)


def literal(student, teacher, p=4.0):
    """The paper's way: the joined features at full size, then their map."""
    student = joined(student) if isinstance(student, list) else student
    if isinstance(teacher, list):
        teacher = resized(joined(teacher), student.shape[2:])
    else:
        student = resized(student, teacher.shape[2:])
    maps = [x.abs().pow(p).mean(dim=1).flatten(1) for x in (student, teacher)]
    maps = [x / x.norm(dim=1, keepdim=True) for x in maps]
    return (maps[0] - maps[1]).square().sum(dim=1).mean()


def features(dims, *shapes, batch=2):
    return [torch.randn(batch, channels, *[side] * dims, dtype=torch.float64) for channels, side in shapes]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# --- values -----------------------------------------------------------------------------------------------------------

S2, S3 = sine((2, 6, 12, 12), 0.37), sine((2, 3, 8, 8, 8), 0.37)
LIST2 = [sine((2, 4, 8, 8), 0.31), sine((2, 6, 12, 12), 0.17, 0.2), sine((2, 8, 4, 4), 0.41, 0.7)]
LIST3 = [sine((2, 2, 4, 4, 4), 0.31), sine((2, 4, 8, 8, 8), 0.17, 0.2), sine((2, 6, 2, 2, 2), 0.41, 0.7)]


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (S2, sine((2, 10, 6, 6), 0.29, 0.3), 0.4915973639244472),
        (S2, LIST2, 0.5688031149733366),
        (LIST2[:2], sine((2, 10, 6, 6), 0.29, 0.3), 0.35819693027461397),
        (S3, sine((2, 5, 4, 4, 4), 0.29, 0.3), 0.34436855953928336),
        (S3, LIST3, 0.6325432553746693),
    ],
    ids=["individual_2d", "unified_2d", "joined_student_2d", "individual_3d", "unified_3d"],
)
def test_values_of_the_released_function(student, teacher, expected):
    assert ImportanceMapLoss()(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_golden_file():
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("the golden files lie next to $MONAI_KD_DATA, which is not set")
    path = Path(os.environ["MONAI_KD_DATA"]).parent / "golden" / "hlfd.npz"
    if not path.is_file():
        pytest.skip(f"no golden file {path}")
    golden = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    features = {name: value.double() for name, value in golden.items()}
    # The file is in float32; its scalars are good to about 1e-7.
    torch.testing.assert_close(
        importance_map(features["attn_in"], (16, 16)).float(), golden["attn_out"], rtol=1e-5, atol=1e-8
    )
    loss = ImportanceMapLoss()
    for name, student, teacher in [
        ("imd", features["imd_student"], features["imd_teacher"]),
        ("imd_small", features["imd_small_student"], features["imd_teacher"]),
        ("imd_cat", features["imd_cat_student"], [features[f"imd_cat_t{i}"] for i in (2, 3, 4)]),
    ]:
        assert loss(student, teacher).item() == pytest.approx(golden[name].item(), rel=1e-6), name


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_equals_the_literal_form(dims, p):
    one, several = features(dims, (3, 6)), features(dims, (2, 8), (5, 4), (3, 12))
    loss = ImportanceMapLoss(p)
    pairs = [(one[0], several[1]), (one[0], several), (several, one[0]), (several[:2], several)]
    for student, teacher in pairs:
        torch.testing.assert_close(loss(student, teacher), literal(student, teacher, p))


def test_equal_sizes_give_the_attention_map():
    x = torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(importance_map(x, (5, 4)), attention_map(x, 4.0))


def test_any_axis_that_differs_is_resized():
    """Also if the first one agrees."""
    student, teacher = torch.randn(2, 3, 8, 8, 4), torch.randn(2, 5, 8, 4, 4)
    torch.testing.assert_close(ImportanceMapLoss()(student, teacher), literal(student, teacher))


def test_joins_at_the_fewest_positions():
    """Not at the size that is the least in lexicographic order."""
    student, flat, small = (torch.randn(2, 3, *size).double() for size in [(16, 16), (2, 32), (4, 4)])
    torch.testing.assert_close(ImportanceMapLoss()(student, [flat, small]), literal(student, [flat, small]))


@pytest.mark.parametrize("sizes", [[(8, 8), (4, 4), (6, 6)], [(4, 8), (8, 4)]])
def test_the_order_of_what_is_joined_does_not_matter(sizes):
    student, several = torch.randn(2, 3, 8, 8), [torch.randn(2, 2, *size) for size in sizes]
    loss = ImportanceMapLoss()
    torch.testing.assert_close(loss(student, several), loss(student, several[::-1]))
    torch.testing.assert_close(loss(several, student), loss(several[::-1], student))


def test_unified_and_individual_are_not_the_same():
    student, teacher = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    loss = ImportanceMapLoss()
    assert (loss(student, teacher) - loss(student, [teacher])).abs() > 1e-3  # compared at 4 x 4, and at 8 x 8


# --- memory -----------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The most values that any operation wrote to memory of its own."""

    def __init__(self):
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tensors(args)}
        fresh = (x for x in tensors(result) if x.untyped_storage().data_ptr() not in given)
        self.values = max([self.values, *(x.numel() for x in fresh)])
        return result


def tensors(value):
    if isinstance(value, list | tuple):
        return [x for item in value for x in tensors(item)]
    return [value] if isinstance(value, torch.Tensor) else []


@pytest.mark.parametrize("channels", [1, 3])
def test_the_joined_features_are_never_there(monkeypatch, channels):
    positions = 16**3
    student, teachers = torch.randn(1, 4, 16, 16, 16), [torch.randn(1, 8 * 2**i, *[8 // 2**i] * 3) for i in range(3)]
    student.requires_grad_()
    expected = ImportanceMapLoss()(student, teachers)
    monkeypatch.setattr(module, "_CHUNK_BYTES", channels * positions * 4)
    with Largest() as largest:
        value = ImportanceMapLoss()(student, teachers)
    assert largest.values <= channels * positions
    torch.testing.assert_close(value, expected)
    with Largest() as largest:
        value.backward()
    assert largest.values <= student.numel()  # its gradient


@pytest.mark.parametrize("several", [False, True], ids=["one", "list"])
def test_the_gradient_of_parts_is_the_gradient_of_the_whole(monkeypatch, several):
    students = features(2, (5, 8), (3, 4))
    students = students if several else students[0]
    teacher = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    gradients = []
    for size in (1, 2**20):
        monkeypatch.setattr(module, "_CHUNK_BYTES", size)
        leaves = [x.clone().requires_grad_() for x in (students if several else [students])]
        ImportanceMapLoss()(leaves if several else leaves[0], teacher).backward()
        gradients.append([x.grad for x in leaves])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert all(x.any() for x in gradients[0])


# --- gradient and numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dims", "p"), [(2, 1.0), (2, 3.0), (2, 4.0), (3, 4.0)])
def test_gradient(dims, p):
    student, teachers = features(dims, (1, 4))[0].requires_grad_(), features(dims, (3, 3), (2, 2))
    loss = ImportanceMapLoss(p)
    assert torch.autograd.gradcheck(lambda x: loss(x, teachers[0]), student)
    assert torch.autograd.gradcheck(lambda x: loss(x, teachers), student)
    students = [x.requires_grad_() for x in features(dims, (1, 3), (2, 2))]
    assert torch.autograd.gradcheck(lambda *x: loss(list(x), teachers[0]), students)


def test_teachers_take_no_gradient():
    student, *teachers = (x.requires_grad_() for x in features(2, (3, 8), (2, 8), (4, 4)))
    ImportanceMapLoss()(student, teachers).backward()
    assert student.grad.any()
    assert all(x.grad is None for x in teachers)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_does_not_depend_on_the_scale_of_what_is_joined(scale):
    student, *several = (x.float() for x in features(2, (3, 8), (2, 8), (4, 4)))
    loss, scaled = ImportanceMapLoss(), [scale * x for x in several]
    torch.testing.assert_close(loss(student, scaled), loss(student, several))
    torch.testing.assert_close(loss(scaled, student), loss(several, student))
    # One scale for the whole: the share of each layer counts.
    assert (loss(student, [several[0], 10 * several[1]]) - loss(student, several)).abs() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    student, *several = (100 * x.to(dtype) for x in features(2, (3, 8), (2, 8), (4, 4)))
    student.requires_grad_()
    value = ImportanceMapLoss()(student, several)
    value.backward()
    torch.testing.assert_close(value, ImportanceMapLoss()(student.float(), [x.float() for x in several]))
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("p", [1.0, 4.0])
@pytest.mark.parametrize("zero", ["student", "teacher", "both", "one item"])
def test_zero_features_are_finite(zero, p):
    student, *several = (x.float() for x in features(2, (3, 8), (2, 8), (4, 4)))
    if zero in ("student", "both"):
        student.zero_()
    if zero in ("teacher", "both"):
        several = [torch.zeros_like(x) for x in several]
    if zero == "one item":
        student[0], several[1][0] = 0, 0
    leaves = [student.clone().requires_grad_(), *(x.clone().requires_grad_() for x in several)]
    for value in (ImportanceMapLoss(p)(leaves[0], several), ImportanceMapLoss(p)(leaves[1:], student)):
        value.backward()
        assert value.isfinite()
    assert all(x.grad.isfinite().all() for x in leaves)


def test_from_0_to_2():
    student, teacher = torch.zeros(2, 1, 1, 2, 2)
    student[..., 0, 0], teacher[..., 1, 1] = 1.0, 3.0
    assert ImportanceMapLoss()(student, teacher) == 2
    assert ImportanceMapLoss()(student, 5 * student) == 0


def test_errors():
    loss, x = ImportanceMapLoss(), torch.randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match="p must be at least 1"):
        ImportanceMapLoss(0.5)
    with pytest.raises(ValueError, match=r"one batch with as many axes.*\(2, 3, 4, 4\), \(2, 3, 4, 4, 4\)"):
        loss(x, torch.randn(2, 3, 4, 4, 4))
    with pytest.raises(ValueError, match="one batch"):
        loss(x, [x, torch.randn(1, 3, 4, 4)])
    with pytest.raises(ValueError, match=r"1 position.*\(2, 3, 1, 1\)"):
        loss(x, [x, torch.randn(2, 3, 1, 1)])
    with pytest.raises(ValueError, match="1 position"):
        loss(torch.randn(2, 3), torch.randn(2, 3))
    with pytest.raises(ValueError, match="empty"):
        loss([], [])
