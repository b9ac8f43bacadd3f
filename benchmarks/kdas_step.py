"""A training step of KDAS, PVTv2-B2 to B0.

"student": its own step (forward, structure loss of both heads, backward, update); "student + teacher": that and one
frozen teacher forward, the least any online distillation can cost; "released": the same losses as the released code
computes them: the teacher's graph is built and followed back, the weight map is a direct 31x31 average, once a head.
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
    SERVED,
    STUDENT,
    check_teacher_apart,
    released_bars,
    served_teacher,
    step_bars,
    updating,
)
from benchmarks.structure_loss import direct_structure_loss
from benchmarks.students import precisions
from monai_kd import DistillationTerm, Distiller, FeatureTaps, FrozenTeacher
from monai_kd.losses import AttentionSupervisionLoss, StructureLoss, SymmetricalGuidingLoss
from monai_kd.networks import PolypPVT

TAPS = ["logits_cfm", "logits_sam"]


def cases(quick: bool) -> list[Case]:
    batch, size = (1, 160) if quick else (2, 352)
    served = (SERVED,) if "bf16" in precisions() else ()
    forms = {form: _maker(form, batch, size) for form in (STUDENT, BOUND, OURS, RELEASED, BF16, *served)}
    return [Case(f"{batch} x 3 x {size}^2", forms, rounds=3 if quick else 9)]


def bars(found: Found) -> list[Bar]:
    (forms,) = found.values()
    return [*step_bars("KDAS", forms), *released_bars("KDAS", forms, limit=2.3)]


def _maker(form: str, batch: int, size: int) -> Callable[[], Callable[[], float]]:
    def prepare() -> Callable[[], float]:
        torch.manual_seed(0)
        student, teacher = PolypPVT("b0"), PolypPVT("b2").eval()
        attention, guiding, structure = AttentionSupervisionLoss(), SymmetricalGuidingLoss(), StructureLoss()
        images = torch.randn(batch, 3, size, size)
        labels = (torch.rand(batch, 1, size, size) > 0.7).float()
        parameters = list(student.parameters())

        def task(heads: list[Tensor]) -> Tensor:
            return sum((structure(head, labels) for head in heads), torch.zeros(()))

        if form == STUDENT:
            return updating(parameters, lambda: task(student(images)))
        if form == RELEASED:

            def released() -> Tensor:
                theirs, ours = teacher.heads(images), student(images)
                loss = 0.7 * sum(direct_structure_loss(head, labels) for head in ours)
                kl = sum(_attended_kl(mine, other) for mine, other in zip(ours, theirs))
                difference = ours[0] - theirs[0]
                return loss + 0.3 * (kl + (difference + difference.transpose(2, 3)).square().mean())

            return updating(parameters, released)
        frozen = FrozenTeacher(teacher)
        if form == BOUND:

            def bound() -> Tensor:
                with torch.no_grad():
                    teacher(images)
                return task(student(images))

            return updating(parameters, bound)
        terms = [
            DistillationTerm("attention_cfm", attention, TAPS[0], TAPS[0], weight=0.3),
            DistillationTerm("attention_sam", attention, TAPS[1], TAPS[1], weight=0.3),
            DistillationTerm("symmetrical_guiding", guiding, TAPS[0], TAPS[0], weight=0.3),
        ]
        if form == SERVED:
            distiller = Distiller(student, served_teacher(teacher, "kdas", (3, size, size), TAPS, "bf16"), terms)
        else:
            distiller = Distiller(student, frozen, terms)

        def distilled() -> Tensor:
            autocast = torch.autocast("cpu", torch.bfloat16, enabled=form in (BF16, SERVED))
            with FeatureTaps(student, TAPS) as taps, autocast:
                heads = student(images)
                losses = distiller({"output": heads, **taps.outputs()}, {"image": images})
            return 0.7 * task(heads) + distiller.total(losses, epoch=1)

        return check_teacher_apart(teacher, updating(parameters, distilled))

    return prepare


def _attended_kl(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """The attention term with a gradient to both sides: the released loop never detaches the teacher."""
    target = F.scaled_dot_product_attention(teacher, teacher, teacher) / temperature
    target, student = target.sigmoid(), student / temperature
    cross = F.binary_cross_entropy_with_logits(student, target)
    return temperature**2 * (cross - F.binary_cross_entropy(target, target))
