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


# --- fourth powers of what is enlarged, and the coarsest size ---------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 5, 3), (13,)),
        ((2, 5, 2, 3), (8, 3)),
        ((2, 5, 1, 3), (9, 11)),
        ((2, 5, 2, 4, 4), (16, 2, 9)),
        ((2, 5, 4, 4, 4), (15, 16, 16)),  # not four times as long
    ],
)
def test_fourth_powers_are_those_of_the_enlarged_features(shape, size):
    for channels in (1, 3, 100):
        x = torch.randn(shape, dtype=torch.float64).requires_grad_()
        peak = module.largest(x.detach())
        expected = (resized(x, size) / peak).pow(4).sum(dim=1, keepdim=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_CHUNK_BYTES", channels * 2 * math.prod(size) * 8)
            actual = module.power_sum(x, peak, size, 4.0)
        torch.testing.assert_close(actual, expected)
        gradient = torch.randn_like(expected)
        torch.testing.assert_close(*(torch.autograd.grad(y, x, gradient)[0] for y in (actual, expected)))


def test_enlarged_fourth_powers_are_no_less_than_0():
    """Neighbours that nearly cancel: what is between them is summed of terms that cancel too."""
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1, 4, 2, generator=generator)
        x[:, :, 1] = -2 * torch.rand((), generator=generator) * x[:, :, 0]
        powers = module.power_sum(x, torch.ones(1, 1, 1), (80,), 4.0)
        assert powers.min() >= 0
        torch.testing.assert_close(powers, resized(x, (80,)).pow(4).sum(dim=1, keepdim=True), rtol=1e-5, atol=1e-4)


NATIVE = ImportanceMapLoss(native_resolution=True)


def at_the_coarsest(student, teacher, p=4.0):
    """Powers first, averages then, each axis as short as it is anywhere."""
    sides = [x if isinstance(x, list) else [x] for x in (student, teacher)]
    size = [min(lengths) for lengths in zip(*(x.shape[2:] for side in sides for x in side))]
    pool = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[len(size)]
    maps = [sum(pool(x.abs().pow(p).sum(dim=1, keepdim=True), size) for x in side).flatten(1) for side in sides]
    maps = [x / x.norm(dim=1, keepdim=True) for x in maps]
    return (maps[0] - maps[1]).square().sum(dim=1).mean()


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_native_resolution_matches_its_formula(dims, p):
    """Sizes that do not divide each other are among them."""
    one, several = features(dims, (3, 7)), features(dims, (2, 8), (5, 4), (3, 3))
    loss = ImportanceMapLoss(p, native_resolution=True)
    for student, teacher in [(one[0], several[1]), (several[2], one[0]), (one[0], several), (several, one[0])]:
        torch.testing.assert_close(loss(student, teacher), at_the_coarsest(student, teacher, p))


def test_native_resolution_takes_the_least_of_every_axis():
    student, teacher = torch.randn(2, 3, 8, 4).double(), torch.randn(2, 5, 6, 9).double()
    torch.testing.assert_close(NATIVE(student, teacher), at_the_coarsest(student, teacher))
    with pytest.raises(ValueError, match=r"1 position.*\(2, 3, 8, 1\), \(2, 3, 1, 8\)"):
        NATIVE(torch.randn(2, 3, 8, 1), torch.randn(2, 3, 1, 8))


@pytest.mark.parametrize("dims", [2, 3])
def test_native_resolution_is_the_papers_loss_where_all_sizes_are_equal(dims):
    student, *teachers = features(dims, (3, 6), (2, 6), (5, 6))
    for teacher in (teachers[0], teachers):
        torch.testing.assert_close(NATIVE(student, teacher), ImportanceMapLoss()(student, teacher))


@pytest.mark.parametrize("dims", [2, 3])
def test_native_resolution_still_sees_a_peak(dims):
    """One strong voxel counts where it is, though a linear resize without antialiasing would step over it."""
    student, teacher = torch.zeros(1, 1, *[16] * dims), torch.zeros(1, 1, *[4] * dims)
    student[(..., *[0] * dims)] = 1.0
    teacher[(..., *[0] * dims)] = 1.0
    assert NATIVE(student, teacher) == 0
    assert ImportanceMapLoss()(student, teacher) == 1  # the student's map is 0


@pytest.mark.parametrize("dims", [2, 3])
def test_native_resolution_reaches_the_student_alone(dims):
    student, *teachers = (x.requires_grad_() for x in features(dims, (2, 5), (3, 3), (2, 2)))
    assert torch.autograd.gradcheck(lambda x: NATIVE(x, [y.detach() for y in teachers]), student)
    NATIVE(student, teachers).backward()
    assert student.grad.any()
    assert all(x.grad is None for x in teachers)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_native_resolution_does_not_depend_on_scale(scale):
    student, *teachers = (x.float() for x in features(2, (3, 8), (2, 8), (4, 4)))
    torch.testing.assert_close(NATIVE(scale * student, teachers), NATIVE(student, teachers))
    torch.testing.assert_close(NATIVE(student, [scale * x for x in teachers]), NATIVE(student, teachers))


@pytest.mark.parametrize("native", [False, True])
def test_float32_under_autocast(native):
    student, *teachers = (x.float() for x in features(3, (3, 16), (8, 4), (16, 2)))
    loss = ImportanceMapLoss(native_resolution=native)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, half = loss(student, teachers), loss(student.bfloat16(), [x.bfloat16() for x in teachers])
    assert value.dtype == half.dtype == torch.float32
    torch.testing.assert_close(value, loss(student, teachers))


def test_native_resolution_never_enlarges(monkeypatch):
    student, teachers = torch.randn(1, 2, 32, 32, 32), [torch.randn(1, 64 * 2**i, *[4 // 2**i] * 3) for i in range(2)]
    student.requires_grad_()
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1)
    with Largest() as largest:
        value = NATIVE(student, teachers)
    assert largest.values <= 32**3  # one channel of the student
    with Largest() as largest:
        value.backward()
    assert largest.values <= student.numel()
    with Largest() as largest:
        NATIVE(teachers[0], student.detach())
    assert largest.values <= 32**3


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
    with pytest.raises(ValueError, match="native_resolution must be True or False, got 'false'"):
        ImportanceMapLoss(native_resolution="false")
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
