"""A training step of HDKD.

"student": its own step (forward, cross-entropy, backward, update); "student + teacher": that and one frozen teacher
forward, the least any online distillation can cost; "released": the same losses as the released code computes them:
each pair of stages by a pass of its own through all stages before it, in both networks, so that the student's first
stage runs four times.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.comparing import Bar, Case, Found
from benchmarks.steps import (
    BF16,
    BOUND,
    OURS,
    RELEASED,
    STUDENT,
    check_teacher_apart,
    released_bars,
    step_bars,
    updating,
)
from monai_kd import Distiller, FeatureTaps, FrozenTeacher
from monai_kd.methods import hdkd_terms
from monai_kd.networks import HDKDStudent, HDKDTeacher

CLASSES, ALPHA, FEATURE_WEIGHT = 7, 0.5, 10.0
STAGES = ["stage1", "stage2", "stage3"]


def cases(quick: bool) -> list[Case]:
    batch, size = (2, 64) if quick else (8, 224)
    forms = {form: _maker(form, batch, size) for form in (STUDENT, BOUND, OURS, RELEASED, BF16)}
    return [Case(f"{batch} x 3 x {size}^2", forms, rounds=3 if quick else 7)]


def bars(found: Found) -> list[Bar]:
    (forms,) = found.values()
    return [*step_bars("HDKD", forms), *released_bars("HDKD", forms, limit=2.4)]


def _maker(form: str, batch: int, size: int) -> Callable[[], Callable[[], float]]:
    def prepare() -> Callable[[], float]:
        torch.manual_seed(0)
        student, teacher = HDKDStudent(2, 3, CLASSES, size), HDKDTeacher(2, 3, CLASSES).eval()
        images, labels = torch.randn(batch, 3, size, size), torch.randint(CLASSES, (batch,))
        parameters = list(student.parameters())
        if form == RELEASED:
            return updating(parameters, lambda: _released(student, teacher, images, labels))
        frozen = FrozenTeacher(teacher)
        if form == STUDENT:
            return updating(parameters, lambda: F.cross_entropy(student(images), labels))
        if form == BOUND:

            def bound() -> Tensor:
                with torch.no_grad():
                    teacher(images)
                return F.cross_entropy(student(images), labels)

            return updating(parameters, bound)
        distiller = Distiller(student, frozen, hdkd_terms(CLASSES, alpha=ALPHA))

        def distilled() -> Tensor:
            autocast = torch.autocast("cpu", torch.bfloat16, enabled=form == BF16)
            with FeatureTaps(student, distiller.student_taps) as taps, autocast:
                logits = student(images)
                losses = distiller({"output": logits, **taps.outputs()}, {"image": images})
            return (1 - ALPHA) * F.cross_entropy(logits.float(), labels) + distiller.total(losses, epoch=1)

        return check_teacher_apart(teacher, updating(parameters, distilled))

    return prepare


def _released(student: HDKDStudent, teacher: HDKDTeacher, images: Tensor, labels: Tensor) -> Tensor:
    z_cls, z_distill = student.heads(images)
    with torch.no_grad():
        z_teacher = teacher(images)
    log_p, log_q = z_distill.log_softmax(1), z_teacher.log_softmax(1)
    distillation = F.kl_div(log_p, log_q, reduction="sum", log_target=True) / z_distill.numel()
    loss = (1 - ALPHA) * F.cross_entropy(z_cls, labels) + ALPHA * distillation
    for i in range(len(STAGES)):
        ours = theirs = images
        for stage in STAGES[: i + 1]:
            ours = student.get_submodule(stage)(ours)
            with torch.no_grad():
                theirs = teacher.get_submodule(stage)(theirs)
        loss = loss + FEATURE_WEIGHT * (i + 1) * F.mse_loss(ours, theirs)
    return loss
