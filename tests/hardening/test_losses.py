"""Every public loss on shapes, types and values drawn at random: finite with finite gradients, or a clear refusal."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from monai_kd import losses
from monai_kd.losses import SoftTargetLoss

EXAMPLES = settings(deadline=None, derandomize=True, max_examples=10)
MANY = settings(deadline=None, derandomize=True, max_examples=300)
TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Drawn(NamedTuple):
    """What an example is made of; ``make`` draws a tensor of a shape, of this type and these sizes of values."""

    batch: int
    channels: int
    sizes: tuple[int, ...]
    make: Callable[..., Tensor]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels, *self.sizes)

    def classes(self, *shape: int) -> Tensor:
        return torch.randint(self.channels, shape or (self.batch, *self.sizes))


class Case(NamedTuple):
    """How a loss is called: with a tensor of the student, and what goes with it."""

    loss: Callable[[Drawn], Any]
    student: Callable[[Drawn], Tensor]
    rest: Callable[[Drawn], dict[str, Any]]
    axes: tuple[int, ...] = (0, 2, 3)
    channels: tuple[int, int] = (1, 4)
    square: bool = False
    zero_at_teacher: bool = False
    masked: bool = False


def alike(loss, **more):
    """A loss of student and teacher of one shape."""
    return Case(
        lambda drawn: loss,
        lambda drawn: drawn.make(*drawn.shape),
        lambda drawn: {"teacher": drawn.make(*drawn.shape)},
        masked="mask" in inspect.signature(loss.forward).parameters,
        **more,
    )


def with_label(loss, **more):
    return alike(loss, **more)._replace(
        rest=lambda drawn: {"teacher": drawn.make(*drawn.shape), "label": drawn.classes()}
    )


def memory(drawn):
    torch.manual_seed(0)
    return losses.ContrastMemory([0, 0, 1, 2, 1, -1], drawn.channels, dimension=8)


def contrast(loss, **more):
    """A loss around a bank of six images."""

    def rest(drawn):
        return {"teacher": drawn.make(*drawn.shape), **more} | {"index": torch.arange(drawn.batch)}

    return Case(lambda drawn: loss(memory(drawn)), lambda drawn: drawn.make(*drawn.shape), rest)


def fusion(drawn):
    torch.manual_seed(0)
    return losses.MultiTeacherAttentionFusion((3, 5), 4, dimension=8, num_heads=2, positions=drawn.sizes)


def maps(drawn):
    return [drawn.make(drawn.batch, 3, *drawn.sizes), drawn.make(drawn.batch, 5, *(2 * size for size in drawn.sizes))]


def student_map(drawn):
    return drawn.make(drawn.batch, 8, *drawn.sizes)


def target(drawn, loss, **more):
    """A loss of logits and a label, by MONAI's names."""
    return Case(lambda d: loss, lambda d: d.make(*d.shape), drawn, **more)


SOFTMAX = {"channels": (2, 4), "zero_at_teacher": True}
SIGMOID = {"zero_at_teacher": True}
CASES = {
    "AttentionSupervisionLoss": alike(losses.AttentionSupervisionLoss(), axes=(2, 3)),
    "AttentionSupervisionLoss, softmax": alike(losses.AttentionSupervisionLoss(sigmoid=False), axes=(2, 3)),
    "AttentionSupervisionLoss, both sides": alike(
        losses.AttentionSupervisionLoss(both_sides=True), axes=(2, 3), zero_at_teacher=True
    ),
    "AttentionTransferLoss": alike(losses.AttentionTransferLoss(), axes=(2, 3), zero_at_teacher=True),
    "CRDLoss": contrast(lambda bank: losses.CRDLoss(bank, negatives=4)),
    "CRDLoss, sampled": contrast(lambda bank: losses.CRDLoss(bank, negatives=4, sampled=True)),
    "CategoricalRelationLoss": contrast(losses.CategoricalRelationLoss),
    "ChannelWiseLoss": alike(losses.ChannelWiseLoss(), axes=(2, 3), zero_at_teacher=True),
    "ClassContrastiveLoss": contrast(lambda bank: losses.ClassContrastiveLoss(bank, 2, 4))._replace(
        rest=lambda drawn: {
            "teacher": drawn.make(*drawn.shape),
            "index": torch.arange(drawn.batch),
            "label": torch.tensor([0, 0, 1, 2])[: drawn.batch],
        }
    ),
    "DISTLoss": alike(losses.DISTLoss(), **SOFTMAX),
    "DISTLoss, sigmoid": alike(losses.DISTLoss(sigmoid=True), **SIGMOID),
    "DKDLoss": with_label(losses.DKDLoss(), **SOFTMAX),
    "DKDLoss, sigmoid": with_label(losses.DKDLoss(sigmoid=True), **SIGMOID),
    "DeepSupervisionDistillationLoss": Case(
        lambda drawn: losses.DeepSupervisionDistillationLoss(SoftTargetLoss()),
        lambda drawn: drawn.make(*drawn.shape),
        lambda drawn: {"teacher": [drawn.make(*drawn.shape), drawn.make(*drawn.shape[:2], *[1] * len(drawn.sizes))]},
        axes=(2, 3), channels=(2, 4),
    ),
    "EnsembleSoftTargetLoss": alike(losses.EnsembleSoftTargetLoss(), **SOFTMAX)._replace(
        rest=lambda drawn: {"teacher": [drawn.make(*drawn.shape), drawn.make(*drawn.shape)]}, zero_at_teacher=False
    ),
    "FocalDiceLoss": target(
        lambda drawn: {"target": drawn.classes(drawn.batch, 1, *drawn.sizes)},
        losses.FocalDiceLoss(), axes=(2, 3), channels=(2, 4),
    ),
    "FusionHintLoss": Case(
        lambda drawn: losses.FusionHintLoss(fusion(drawn)), student_map, lambda drawn: {"teacher": maps(drawn)},
        axes=(2, 3),
    ),
    "FusionSoftTargetLoss": Case(
        lambda drawn: lambda student, teacher: losses.FusionSoftTargetLoss(fusion(drawn))(
            [student_map(drawn), student], teacher
        ),
        lambda drawn: drawn.make(drawn.batch, 4), lambda drawn: {"teacher": maps(drawn)}, axes=(2, 3),
    ),
    "FusionTaskLoss": Case(
        lambda drawn: losses.FusionTaskLoss(fusion(drawn)), student_map,
        lambda drawn: {"teacher": maps(drawn), "label": torch.randint(4, (drawn.batch,))}, axes=(2, 3),
    ),
    "HardTargetLoss": alike(losses.HardTargetLoss(), channels=(2, 4)),
    "HardTargetLoss, sigmoid": alike(losses.HardTargetLoss(sigmoid=True)),
    "HintLoss": alike(losses.HintLoss(), zero_at_teacher=True),
    "ImportanceMapLoss": alike(losses.ImportanceMapLoss(), axes=(2, 3), zero_at_teacher=True),
    "NormalizedHintLoss": alike(losses.NormalizedHintLoss(), zero_at_teacher=True),
    "PredictionMapLoss": alike(losses.PredictionMapLoss(), **SOFTMAX),
    "RKDLoss": alike(losses.RKDLoss(), zero_at_teacher=True),
    "SimilarityPreservingLoss": alike(losses.SimilarityPreservingLoss(), zero_at_teacher=True),
    "SoftTargetLoss": alike(losses.SoftTargetLoss(), **SOFTMAX),
    "SoftTargetLoss, sigmoid": alike(losses.SoftTargetLoss(sigmoid=True), **SIGMOID),
    "StackedDeepSupervisionLoss": Case(
        lambda drawn: losses.StackedDeepSupervisionLoss(losses.FocalDiceLoss()),
        lambda drawn: drawn.make(drawn.batch, 2, drawn.channels, *drawn.sizes),
        lambda drawn: {"target": drawn.classes(drawn.batch, 1, *drawn.sizes)}, axes=(2, 3), channels=(2, 4),
    ),
    "StructureLoss": target(
        lambda drawn: {"target": (drawn.make(*drawn.shape) > 0).float()}, losses.StructureLoss(), axes=(2, 3)
    ),
    "SymmetricalGuidingLoss": alike(losses.SymmetricalGuidingLoss(), axes=(2, 3), square=True, zero_at_teacher=True),
    "SymmetricalGuidingLoss, sigmoid": alike(
        losses.SymmetricalGuidingLoss(sigmoid=True), axes=(2, 3), square=True, zero_at_teacher=True
    ),
    "TeacherDiceLoss": alike(losses.TeacherDiceLoss(), channels=(2, 4)),
    "TeacherDiceLoss, sigmoid": alike(losses.TeacherDiceLoss(sigmoid=True)),
    "WeightedCrossEntropyLoss": target(
        lambda drawn: {"target": drawn.classes()}, losses.WeightedCrossEntropyLoss(), channels=(2, 4)
    ),
}  # fmt: skip
# No losses of student and teacher: what some of them hold.
PARTS = {"ContrastMemory", "MultiTeacherAttentionFusion"}


@st.composite
def examples(draw, case):
    """An example's shape, type and values, from all 0 to logits of 10,000."""
    axes = draw(st.sampled_from(case.axes))
    sizes = tuple(draw(st.integers(1, 6)) for _ in range(axes))
    sizes = (*sizes[:-1], sizes[-2]) if case.square and axes else sizes
    dtype, scale = draw(st.sampled_from(TYPES)), draw(st.sampled_from((0.0, 1e-4, 1.0, 30.0, 1e4)))
    kind, seed = draw(st.sampled_from(("normal", "ends", "constant"))), draw(st.integers(0, 2**16))
    channels_last = draw(st.booleans())
    torch.manual_seed(seed)

    def make(*shape):
        values = torch.randn(shape)
        values = values.sign() if kind == "ends" else torch.ones(shape) if kind == "constant" else values
        values = (values * scale).clamp(-1e4, 1e4).to(dtype)
        return values.transpose(0, -1).contiguous().transpose(0, -1) if channels_last else values

    return Drawn(draw(st.integers(1, 4)), draw(st.integers(*case.channels)), sizes, make)


def value_and_gradient(case, drawn, student=None):
    student = (case.student(drawn) if student is None else student).requires_grad_()
    value = case.loss(drawn)(student, **case.rest(drawn))
    if value.requires_grad:
        value.backward()
    return value, student.grad


def every(names):
    return pytest.mark.parametrize("name", names)


def check_finite(name, data):
    case = CASES[name]
    drawn = data.draw(examples(case))
    try:
        value, gradient = value_and_gradient(case, drawn)
    except (ValueError, TypeError) as error:
        # Only what has a single item, channel or position may be refused, by a shape.
        if min(drawn.shape) > 1 or not re.search(r"\d", str(error)):
            raise
        return
    assert value.ndim == 0
    assert value.isfinite(), value
    # Of what is next to nothing, a unit vector's gradient is more than half precision holds; scalers skip such steps.
    assert gradient is None or gradient.dtype == torch.float16 or gradient.isfinite().all()


@every(CASES)
@EXAMPLES
@given(data=st.data())
def test_values_and_gradients_are_finite(name, data):
    check_finite(name, data)


@pytest.mark.fuzz
@every(CASES)
@MANY
@given(data=st.data())
def test_values_and_gradients_are_finite_again(name, data):
    check_finite(name, data)


@every(name for name, case in CASES.items() if case.zero_at_teacher)
@EXAMPLES
@given(data=st.data())
def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(name, data):
    case = CASES[name]
    drawn = data.draw(examples(case))
    rest = case.rest(drawn)
    student = rest["teacher"].clone().requires_grad_()
    try:
        value = case.loss(drawn)(student, **rest)
    except (ValueError, TypeError):
        assume(False)
    assert abs(value.item()) <= 1e-4


@every(name for name, case in CASES.items() if case.masked)
@EXAMPLES
@given(data=st.data())
def test_nothing_to_compare_is_a_loss_of_0(name, data):
    case = CASES[name]
    drawn = data.draw(examples(case._replace(axes=tuple(axes for axes in case.axes if axes))))
    student = case.student(drawn).requires_grad_()
    mask = torch.zeros(drawn.batch, 1, *drawn.sizes)
    try:
        value = case.loss(drawn)(student, **case.rest(drawn), mask=mask)
    except (ValueError, TypeError):
        assume(False)
    value.backward()
    assert value.item() == 0
    assert not student.grad.any()


@every(CASES)
@EXAMPLES
@given(data=st.data())
def test_the_order_of_memory_changes_nothing(name, data):
    case = CASES[name]
    drawn = data.draw(examples(case))
    student, rest = case.student(drawn), case.rest(drawn)

    def call(ours, others):
        loss = case.loss(drawn)  # anew, for a bank remembers
        torch.manual_seed(3)
        return loss(ours, **others)

    plain = {key: _plain(value) for key, value in rest.items()}
    try:
        expected = call(student.contiguous(), plain)
    except (ValueError, TypeError):
        assume(False)
    torch.testing.assert_close(call(student, rest), expected, rtol=1e-4, atol=1e-6)


def _plain(value):
    return [one.contiguous() for one in value] if isinstance(value, list) else value.contiguous()


@every(name for name, case in CASES.items() if "Fusion" not in name and "CrossEntropy" not in name)
@EXAMPLES
@given(data=st.data())
def test_other_shapes_are_refused_by_name(name, data):
    """One of the tensors that go with the student's has another number of items, or of channels or positions."""
    case = CASES[name]
    drawn = data.draw(examples(case))
    student, rest, loss = case.student(drawn), case.rest(drawn), case.loss(drawn)
    unused = {"index", "label"} if name == "DKDLoss, sigmoid" else {"index"}
    key = data.draw(st.sampled_from([key for key in rest if key not in unused]))
    values = rest[key]
    several = isinstance(values, list)
    one = values[0] if several else values
    axis = data.draw(st.integers(0, one.ndim - 1))
    # Features of other widths or resolutions are what some losses are for.
    free = {"AttentionTransferLoss": (1,), "ImportanceMapLoss": range(1, 9), "RKDLoss": range(1, 9)}
    free |= {
        "SimilarityPreservingLoss": range(1, 9),
        "PredictionMapLoss": range(2, 9),
        "CategoricalRelationLoss": range(2, 9),
    }
    free |= dict.fromkeys(("CRDLoss", "CRDLoss, sampled", "ClassContrastiveLoss"), range(2, 9))
    free |= {"StackedDeepSupervisionLoss": range(1, 9)}  # labels of other sizes, or one-hot
    assume(axis not in free.get(name, ()))
    other = one.repeat_interleave(3, dim=axis)
    with pytest.raises((ValueError, TypeError)) as caught:
        loss(student, **{**rest, key: [other, *values[1:]] if several else other})
    assert re.search(r"\d", str(caught.value)), caught.value


def test_every_loss_is_tried():
    assert {name.partition(",")[0] for name in CASES} | PARTS == set(losses.__all__)
