"""A training step of CRCKD, DenseNet-121 with its mean teacher, all three terms, banks of APTOS' size.

"student": its own step; "student + teacher": that and one pass of the mean teacher without gradients, the least it can
cost; "distilled": all terms, the banks' update and the teacher's included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from monai.networks.nets.densenet import DenseNet121
from torch import Tensor

from benchmarks.comparing import Bar, Case, Found
from benchmarks.steps import BOUND, OURS, STUDENT, step_bars, updating
from monai_kd import Distiller, FeatureTaps
from monai_kd.methods import crckd_terms
from monai_kd.teachers import EMATeacher

CLASSES, IMAGES, LATE = 5, 2930, 60


def cases(quick: bool) -> list[Case]:
    batch, size = (4, 64) if quick else (8, 224)
    forms = {form: _maker(form, batch, size) for form in (STUDENT, BOUND, OURS)}
    return [Case(f"{batch} x 3 x {size}^2", forms, rounds=3 if quick else 7)]


def bars(found: Found) -> list[Bar]:
    (forms,) = found.values()
    return step_bars("CRCKD", forms, "The mean teacher's own update is in it.")


def _maker(form: str, batch: int, size: int) -> Callable[[], Callable[[], float]]:
    def prepare() -> Callable[[], float]:
        torch.manual_seed(0)
        student = DenseNet121(2, 3, CLASSES)
        teacher = EMATeacher(student)
        images, other = torch.randn(2, batch, 3, size, size)
        memory_labels = torch.arange(IMAGES) % CLASSES
        index = torch.randperm(IMAGES)[:batch]
        labels = memory_labels[index]
        parameters = list(student.parameters())
        if form == STUDENT:
            return updating(parameters, lambda: F.cross_entropy(student(images), labels))
        if form == BOUND:

            def bound() -> Tensor:
                with torch.no_grad():
                    teacher.network(other)
                return F.cross_entropy(student(images), labels)

            return updating(parameters, bound)
        teacher = EMATeacher(student, input_key="teacher_image")
        terms = crckd_terms(memory_labels, "class_layers.flatten", channels=1024)
        distiller = Distiller(student, teacher, terms)
        batch_of = {"image": images, "teacher_image": other, "label": labels, "index": index}

        def distilled() -> Tensor:
            with FeatureTaps(student, distiller.student_taps) as taps:
                logits = student(images)
                losses = distiller({"output": logits, **taps.outputs()}, batch_of)
            return F.cross_entropy(logits, labels) + distiller.total(losses, epoch=LATE)

        update = updating([*parameters, *distiller.parameters()], distilled)

        def step() -> float:
            value = update()
            teacher.update(student)
            return value

        return step

    return prepare
