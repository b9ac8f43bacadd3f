"""A distillation step in 3D: soft targets of the logits and attention transfer at four layers.

Two patches, the networks of the HLFD bundles without deep supervision. "student": its own step; "student + teacher":
that and one frozen teacher forward, the least any online distillation can cost; "teacher's graph kept": the same
losses in a loop that neither freezes the teacher nor leaves its graph out. "OpenVINO": the teacher, 16 times larger
than the student, served by ``RuntimeTeacher``; "cached": answered by a ``CachedTeacher`` that has seen the patches;
both with the soft targets alone too. Weights are random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.losses.dice import DiceCELoss
from monai.networks.nets.dynunet import DynUNet
from torch import Tensor

from benchmarks.comparing import Bar, Case, Found, ratio, values_agree
from benchmarks.steps import BOUND, KEPT, OURS, STUDENT, check_teacher_apart, served_teacher, step_bars, updating
from benchmarks.students import precisions, scratch
from monai_kd import DistillationTerm, Distiller, FeatureTaps, FrozenTeacher
from monai_kd.losses import AttentionTransferLoss, SoftTargetLoss
from monai_kd.networks import encoder_decoder_taps
from monai_kd.teachers import CachedTeacher, Teacher

WIDTHS = {"teacher": (32, 64, 128, 256, 320), "student": (8, 16, 32, 64, 80)}
WEIGHT = 10.0
SERVED, CACHED, LOGITS = "distilled, OpenVINO ", "distilled, cached", "logits alone"


def network(role: str) -> DynUNet:
    """A network of the bundles with random weights."""
    strides = (1, 2, 2, 2, 2)
    return DynUNet(3, 1, 3, [3] * 5, strides, strides[1:], filters=WIDTHS[role])


def cases(quick: bool) -> list[Case]:
    size = 32 if quick else 64
    served = [SERVED + precision for precision in precisions() if precision != "int8"]
    rounds = 3 if quick else 9
    forms = {form: _maker(form, size) for form in (STUDENT, BOUND, OURS, *served, CACHED, KEPT)}
    alone = {form: _maker(form, size, taps=0) for form in (STUDENT, BOUND, OURS, *served, CACHED)}
    return [
        Case(f"2 x 1 x {size}^3", forms, rounds),
        Case(f"2 x 1 x {size}^3, {LOGITS}", alone, rounds, memory=False),
    ]


def bars(found: Found) -> list[Bar]:
    taps, logits = found.values()
    result = [
        *step_bars("3D, logits and four taps", taps, TERMS),
        Bar("P1", "3D, relative difference of the losses", values_agree(taps, OURS, KEPT), 1e-5, most=True),
        *step_bars("3D, logits", logits),
    ]
    bf16 = SERVED + "bf16"
    note = "This processor does not compute in bf16." if bf16 not in taps else PEAK
    for what, forms in (("logits", logits), ("logits and four taps", taps)):
        served = ratio(forms, bf16, STUDENT) if bf16 in forms else "not measured"
        result.append(Bar("P3", f"3D, {what}, teacher in OpenVINO bf16, step / student's", served, 1.5, True, note))
        cached = ratio(forms, CACHED, STUDENT)
        result.append(Bar("P4", f"3D, {what}, cached teacher, step / student's", cached, 1.05, True, TERMS))
    return result


TERMS = (
    "The student is small beside its terms: the attention maps of four layers, one of them at full resolution, and the "
    "distributions of the logits cost what a part of its own step does."
)


PEAK = (
    "The teacher's convolutions take nearly all of its time and run at what the processor can do in bf16; a student's "
    "step that is quick in float32 leaves less to hide them behind."
)


def _maker(form: str, size: int, taps: int = 4) -> Callable[[], Callable[[], float]]:
    def prepare() -> Callable[[], float]:
        torch.manual_seed(0)
        student, teacher = network("student"), network("teacher")
        layers = encoder_decoder_taps(student).encoder[:taps]
        soft, attention, task = SoftTargetLoss(), AttentionTransferLoss(), DiceCELoss(to_onehot_y=True, softmax=True)
        images = torch.randn(2, 1, size, size, size)
        labels = torch.randint(3, images.shape)

        def own() -> Tensor:
            return task(student(images), labels)

        if form == STUDENT:
            return updating(list(student.parameters()), own)
        if form == KEPT:

            def kept() -> Tensor:
                with FeatureTaps(student, layers) as ours, FeatureTaps(teacher, layers) as theirs:
                    output, target = student(images), teacher(images)
                    loss = task(output, labels) + _usual_soft_targets(output, target)
                    for a, b in zip(ours.outputs().values(), theirs.outputs().values()):
                        loss = loss + WEIGHT * (_usual_map(a) - _usual_map(b)).square().sum(dim=1).mean()
                return loss

            teacher.eval()
            return updating(list(student.parameters()), kept)

        frozen = FrozenTeacher(teacher)
        if form == BOUND:

            def bound() -> Tensor:
                with torch.no_grad():
                    teacher(images)
                return own()

            return updating(list(student.parameters()), bound)
        terms = [DistillationTerm("soft_target", soft)]
        terms += [DistillationTerm(f"attention_{i}", attention, x, x, WEIGHT) for i, x in enumerate(layers)]
        distiller = Distiller(student, _teacher(form, frozen, layers, size), terms)

        def distilled() -> Tensor:
            with FeatureTaps(student, distiller.student_taps) as tapped:
                output = student(images)
                losses = distiller({"output": output, **tapped.outputs()}, {"image": images})
            return task(output, labels) + distiller.total(losses, epoch=1)

        return check_teacher_apart(teacher, updating(list(student.parameters()), distilled))

    return prepare


def _teacher(form: str, frozen: FrozenTeacher, layers: Sequence[str], size: int) -> Teacher:
    if form == CACHED:
        return CachedTeacher(frozen, scratch() / f"cache_{len(layers)}")
    if not form.startswith(SERVED):
        return frozen
    precision = form.removeprefix(SERVED)
    return served_teacher(frozen.network, f"teacher_{len(layers)}", (1, size, size, size), layers, precision)


def _usual_soft_targets(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    log_p, q = (student / temperature).log_softmax(1), (teacher / temperature).softmax(1)
    return (q * (q.log() - log_p)).sum(1).mean() * temperature**2


def _usual_map(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x.pow(2).sum(dim=1).flatten(1), dim=1)
