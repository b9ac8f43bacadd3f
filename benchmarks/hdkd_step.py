"""What one HDKD training step costs, side by side in one run.

    python benchmarks/hdkd_step.py --help

Four steps are timed in turn, round after round, and their medians compared:

* student:   the student's own step (forward, cross-entropy, backward, optimiser);
* bound:     that step and one frozen teacher forward, the least any online distillation can cost;
* ours:      that step with the distiller's four terms, all features taken from the one forward pass;
* released:  the same losses as the released code computes them: each pair of stages by a pass of its own through all
             stages before it, in both networks, so that the student's first stage runs four times.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from _steps import compare, options_of
from torch import Tensor

from monai_kd import Distiller, FeatureTaps, FrozenTeacher
from monai_kd.methods import hdkd_terms
from monai_kd.networks import HDKDStudent, HDKDTeacher

CLASSES, ALPHA, FEATURE_WEIGHT = 7, 0.5, 10.0
STAGES = ["stage1", "stage2", "stage3"]


def main() -> None:
    options = options_of(__doc__, size=224, batch=8, sizes="a multiple of 16")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    student, teacher = HDKDStudent(2, 3, CLASSES, options.size), HDKDTeacher(2, 3, CLASSES)
    optimizer = torch.optim.AdamW(student.parameters(), 5e-5)
    distiller = Distiller(student, FrozenTeacher(teacher), hdkd_terms(CLASSES, alpha=ALPHA))
    images = torch.randn(options.batch, 3, options.size, options.size)
    labels = torch.randint(CLASSES, (options.batch,))

    def update(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def student_step() -> None:
        update(F.cross_entropy(student(images), labels))

    def bound_step() -> None:
        with torch.no_grad():
            teacher(images)
        student_step()

    def our_step() -> None:
        with FeatureTaps(student, distiller.student_taps) as taps:
            z_cls = student(images)
            losses = distiller({"output": z_cls, **taps.outputs()}, {"image": images})
        update((1 - ALPHA) * F.cross_entropy(z_cls, labels) + distiller.total(losses, epoch=1))

    def released_step() -> None:
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
        update(loss)

    compare({"student": student_step, "bound": bound_step, "ours": our_step, "released": released_step}, options)


if __name__ == "__main__":
    main()
