"""What the benchmarks of training steps share: the forms of a step, and their bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.comparing import Bar, Form, memory_ratio, ratio, values_agree
from benchmarks.students import scratch
from monai_kd.teachers import RuntimeTeacher, Teacher

STUDENT, BOUND, OURS, KEPT, RELEASED, BF16, SERVED = (
    "student",
    "student + teacher",
    "distilled",
    "teacher's graph kept",
    "released",
    "distilled, bf16",
    "distilled, bf16, teacher in OpenVINO",
)


def updating(parameters: Sequence[nn.Parameter], loss: Callable[[], Tensor]) -> Callable[[], float]:
    """A step: the loss, its gradients, an update whose learning rate is 0, so that each step computes the same."""
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)

    def step() -> float:
        torch.manual_seed(0)  # the same layers are dropped in each form
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    return step


def check_teacher_apart(teacher: nn.Module, step: Callable[[], float]) -> Callable[[], float]:
    """``step``, and an error where it left a gradient at the teacher."""

    def checked() -> float:
        value = step()
        if any(parameter.grad is not None or parameter.requires_grad for parameter in teacher.parameters()):
            raise AssertionError("the teacher takes part in the backward pass.")
        return value

    return checked


def step_bars(what: str, forms: dict[str, Form], note: str = "") -> list[Bar]:
    """P1 of a method: time against the bound, memory against the loop that keeps the teacher's graph."""
    bars = [Bar("P1", f"{what}, time", ratio(forms, OURS, BOUND), 1.03, most=True, note=note)]
    other = KEPT if KEPT in forms else RELEASED
    if other in forms:
        note = (
            "The student's own graph, which both keep, is most of it: a teacher larger beside its student saves more."
        )
        bars.append(Bar("P1", f"{what}, memory / {other}", memory_ratio(forms, OURS, other), 0.5, most=True, note=note))
    return bars


def released_bars(what: str, forms: dict[str, Form], limit: float) -> list[Bar]:
    """P2 of a method: released / ours, with the same loss, and in reduced precision."""
    same = values_agree(forms, OURS, RELEASED)
    bars = [
        Bar("P2", f"{what}, released / distilled", ratio(forms, RELEASED, OURS), limit),
        Bar("P2", f"{what}, relative difference of the losses", same, 1e-5, most=True),
    ]
    notes = {BF16: AUTOCAST, SERVED: "Only the teacher is faster than under autocast; what is left is the student's."}
    for form in [form for form in notes if form in forms]:
        bars.append(Bar("P2", f"{what}, released / {form}", ratio(forms, RELEASED, form), 4.5, note=notes[form]))
    return bars


AUTOCAST = "Both networks under autocast in torch; how much that gains depends on the processor."


def served_teacher(network: nn.Module, name: str, shape: Sequence[int], taps: Sequence[str], precision: str) -> Teacher:
    """A teacher in OpenVINO on one thread, exported on first use under a name that all processes of a run share."""
    from monai_kd.export import export_teacher

    folder = scratch() / f"{name}_{precision}"
    if not folder.is_dir():
        export_teacher(network, folder, [shape], taps, precision)
    return RuntimeTeacher(folder, precision, num_threads=1)
