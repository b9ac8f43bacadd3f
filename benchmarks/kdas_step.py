"""What one KDAS training step costs, side by side in one run.

    python benchmarks/kdas_step.py --help

Four steps are timed in turn, round after round, and their medians compared:

* student:   the student's own step (forward, structure loss of both heads, backward, optimiser);
* bound:     that step and one frozen teacher forward, the least any online distillation can cost;
* ours:      that step with the distiller's three terms;
* released:  the same losses as the released code computes them: the teacher's graph is built and
             followed back, the weight map is a direct 31x31 average, once a head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from _steps import compare, options_of
from torch import Tensor

from monai_kd import DistillationTerm, Distiller, FeatureTaps, FrozenTeacher
from monai_kd.losses import AttentionSupervisionLoss, StructureLoss, SymmetricalGuidingLoss
from monai_kd.networks import PolypPVT

TAPS = ["logits_cfm", "logits_sam"]


def direct_structure_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The structure loss with a direct two-dimensional average."""
    weight = 1 + 5 * (F.avg_pool2d(target, 31, stride=1, padding=15) - target).abs()
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    bce = (weight * bce).sum((2, 3)) / weight.sum((2, 3))
    p = logits.sigmoid()
    inter, union = (p * target * weight).sum((2, 3)), ((p + target) * weight).sum((2, 3))
    return (bce + 1 - (inter + 1) / (union - inter + 1)).mean()


def attended_kl(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """The attention term with a gradient to both sides: the released loop never detaches the teacher."""
    target = F.scaled_dot_product_attention(teacher, teacher, teacher) / temperature
    target, student = target.sigmoid(), student / temperature
    cross = F.binary_cross_entropy_with_logits(student, target)
    return temperature**2 * (cross - F.binary_cross_entropy(target, target))


def main() -> None:
    options = options_of(__doc__, size=352, batch=2)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    student, teacher = PolypPVT("b0"), PolypPVT("b2")
    optimizer = torch.optim.AdamW(student.parameters(), 1e-4)
    attention, guiding, structure = AttentionSupervisionLoss(), SymmetricalGuidingLoss(), StructureLoss()
    terms = [
        DistillationTerm("attention_cfm", attention, TAPS[0], TAPS[0], weight=0.3),
        DistillationTerm("attention_sam", attention, TAPS[1], TAPS[1], weight=0.3),
        DistillationTerm("symmetrical_guiding", guiding, TAPS[0], TAPS[0], weight=0.3),
    ]
    distiller = Distiller(student, FrozenTeacher(teacher), terms)
    images = torch.randn(options.batch, 3, options.size, options.size)
    labels = (torch.rand(options.batch, 1, options.size, options.size) > 0.7).float()

    def task(heads: list[Tensor]) -> Tensor:
        return sum((structure(head, labels) for head in heads), torch.zeros(()))

    def update(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def student_step() -> None:
        update(task(student(images)))

    def bound_step() -> None:
        with torch.no_grad():
            teacher(images)
        student_step()

    def our_step() -> None:
        with FeatureTaps(student, TAPS) as taps:
            heads = student(images)
            losses = distiller({"output": heads, **taps.outputs()}, {"image": images})
        update(0.7 * task(heads) + distiller.total(losses, epoch=1))

    def released_step() -> None:
        theirs, ours = teacher.heads(images), student(images)
        loss = 0.7 * sum(direct_structure_loss(head, labels) for head in ours)
        kl = sum(attended_kl(mine, other) for mine, other in zip(ours, theirs))
        difference = ours[0] - theirs[0]
        update(loss + 0.3 * (kl + (difference + difference.transpose(2, 3)).square().mean()))

    steps = {"student": student_step, "bound": bound_step, "ours": our_step}
    compare({**steps, "released": _with_graph(teacher, released_step)}, options)


def _with_graph(teacher: PolypPVT, step: Callable[[], None]) -> Callable[[], None]:
    """``step`` with a teacher whose parameters ask for gradients, as in the released loop."""

    def run() -> None:
        teacher.requires_grad_(True)
        step()
        teacher.requires_grad_(False)

    return run


if __name__ == "__main__":
    main()
