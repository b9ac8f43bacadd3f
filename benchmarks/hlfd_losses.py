"""The losses of HLFD, forward and backward, as their formulas say them and as they are computed here.

The features are random, with the channels and sizes of the bundles' networks. "literal": teacher maps joined, resized
to the student's size and then raised to the fourth power; the student resized and then projected by a 1x1 convolution.
"native": maps compared at the coarsest of their sizes, ``native_resolution=True``, which is another loss than the
paper's.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.comparing import Bar, Case, Found, memory_ratio, ratio, values_agree
from monai_kd.adapters import ChannelAdapter
from monai_kd.losses import ImportanceMapLoss, PredictionMapLoss

TEACHER = (64, 128, 256)  # channels at 1/2, 1/4 and 1/8 of the patch
STUDENT = 8  # at its full size
FORMS = ("literal", "ours", "native")


def cases(quick: bool) -> list[Case]:
    # All channels of the literal forms at full size: 0.9 GB a copy at 80^3.
    size = 32 if quick else 80
    rounds = 3 if quick else 5
    made = {"unified importance map": _importance, "unified prediction map": _prediction, "prediction map": _single}
    return [
        Case(f"{name}, {size}^3", {form: make(form, size) for form in FORMS}, rounds) for name, make in made.items()
    ]


def bars(found: Found) -> list[Bar]:
    total = {form: sum(statistics.median(forms[form].seconds) for forms in found.values()) for form in FORMS}
    result = [Bar("P7", "all three maps, literal / ours", total["literal"] / total["ours"], 5)]
    for case, forms in found.items():
        result.append(
            Bar("P7", f"{case}, relative difference", values_agree(forms, "literal", "ours"), 1e-5, most=True)
        )
    unified = next(iter(found))
    result.append(Bar("P7", f"{unified}, literal / ours", ratio(found[unified], "literal", "ours"), 5))
    result.append(Bar("P7", f"{unified}, temporaries", memory_ratio(found[unified], "literal", "ours"), 8))
    native = total["literal"] / total["native"]
    return [*result, Bar("P7", "all three maps, literal / native-resolution mode", native, 20)]


def _importance(form: str, size: int) -> Callable[[], Callable[[], float]]:
    ours = ImportanceMapLoss(native_resolution=form == "native")
    loss: Callable[[Tensor, list[Tensor]], Tensor] = _literal_importance if form == "literal" else ours

    def prepare() -> Callable[[], float]:
        student, teachers = _features(size)
        return _stepping([student], lambda: loss(student, teachers))

    return prepare


def _prediction(form: str, size: int) -> Callable[[], Callable[[], float]]:
    """The student's deepest decoder level learns from all of the teacher's, joined."""

    def prepare() -> Callable[[], float]:
        _, teachers = _features(size)
        student = torch.randn(1, 64, *[size // 8] * 3, requires_grad=True)
        adapter = _adapter(student, teachers)
        loss = PredictionMapLoss(native_resolution=form == "native")

        def literal() -> Tensor:
            smallest = min((x.shape[2:] for x in teachers), key=lambda shape: shape.numel())
            joined = _resize(torch.cat([_resize(x, smallest) for x in teachers], dim=1), student.shape[2:])
            return _divergence(adapter(student), joined)

        return _stepping([student], literal if form == "literal" else lambda: loss(adapter(student), teachers))

    return prepare


def _single(form: str, size: int) -> Callable[[], Callable[[], float]]:
    """A decoder level of the student learns from the teacher's logits."""

    def prepare() -> Callable[[], float]:
        torch.manual_seed(0)
        student = torch.randn(1, 64, *[size // 8] * 3, requires_grad=True)
        logits = torch.randn(1, 3, size, size, size)
        adapter = _adapter(student, logits)
        loss = PredictionMapLoss(native_resolution=form == "native")

        def literal() -> Tensor:
            return _divergence(adapter(_resize(student, logits.shape[2:])), logits)

        return _stepping([student], literal if form == "literal" else lambda: loss(adapter(student), logits))

    return prepare


def _literal_importance(student: Tensor, teachers: list[Tensor]) -> Tensor:
    smallest = min((x.shape[2:] for x in teachers), key=lambda shape: shape.numel())
    joined = torch.cat([_resize(x, smallest) for x in teachers], dim=1)
    joined = _resize(joined, student.shape[2:])
    return (_map(student) - _map(joined)).square().sum(dim=1).mean()


def _features(size: int) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    student = torch.randn(1, STUDENT, size, size, size, requires_grad=True)
    return student, [torch.randn(1, c, *[size // 2 ** (i + 1)] * 3) for i, c in enumerate(TEACHER)]


def _adapter(student: Tensor, teacher: Tensor | list[Tensor]) -> nn.Module:
    shape = tuple(teacher.shape) if isinstance(teacher, Tensor) else [tuple(x.shape) for x in teacher]
    return ChannelAdapter(tuple(student.shape), shape)


def _stepping(students: list[Tensor], loss: Callable[[], Tensor]) -> Callable[[], float]:
    def step() -> float:
        for student in students:
            student.grad = None
        value = loss()
        value.backward()
        return value.item()

    return step


def _divergence(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    log_p, q = (student / temperature).log_softmax(1), (teacher / temperature).softmax(1)
    return (q * (q.log() - log_p)).sum(1).mean() * temperature**2


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="trilinear", align_corners=False)


def _map(x: Tensor) -> Tensor:
    return F.normalize(x.pow(4).mean(dim=1).flatten(1), dim=1)
