"""A training step of HLFD in 3D, all its terms, on the networks of its bundles.

"student": its own step; "student + teacher": that and one frozen teacher forward, the least any online distillation
can cost; "distilled": the terms of ``hlfd_terms`` with their learned projections; "native resolution": the same with
maps compared at the coarsest of their sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.losses.dice import DiceCELoss
from torch import Tensor

from benchmarks.comparing import Bar, Case, Found, ratio
from benchmarks.steps import BOUND, OURS, STUDENT, check_teacher_apart, updating
from benchmarks.volume_step import network
from monai_kd import Distiller, FeatureTaps, FrozenTeacher
from monai_kd.methods import hlfd_terms
from monai_kd.networks import encoder_decoder_taps

NATIVE = OURS + ", native resolution"


def cases(quick: bool) -> list[Case]:
    size = 32 if quick else 64
    forms = {form: _maker(form, size) for form in (STUDENT, BOUND, OURS, NATIVE)}
    return [Case(f"2 x 1 x {size}^3", forms, 3 if quick else 9)]


def bars(found: Found) -> list[Bar]:
    (forms,) = found.values()
    return [
        Bar("P7", "HLFD, step / bound", ratio(forms, OURS, BOUND), 1.10, most=True),
        Bar("P7", "HLFD at native resolution, step / bound", ratio(forms, NATIVE, BOUND), 1.10, most=True),
    ]


def _maker(form: str, size: int) -> Callable[[], Callable[[], float]]:
    def prepare() -> Callable[[], float]:
        torch.manual_seed(0)
        student, teacher = network("student"), network("teacher")
        task = DiceCELoss(to_onehot_y=True, softmax=True)
        images = torch.randn(2, 1, size, size, size)
        labels = torch.randint(3, images.shape)
        parameters = list(student.parameters())
        if form == STUDENT:
            return updating(parameters, lambda: task(student(images), labels))
        frozen = FrozenTeacher(teacher)
        if form == BOUND:

            def bound() -> Tensor:
                with torch.no_grad():
                    teacher(images)
                return task(student(images), labels)

            return updating(parameters, bound)
        taps_of = encoder_decoder_taps
        terms = hlfd_terms(taps_of(student), taps_of(teacher), native_resolution=form == NATIVE)
        distiller = Distiller(student, frozen, terms, input_shape=(2, 1, 32, 32, 32))

        def distilled() -> Tensor:
            with FeatureTaps(student, distiller.student_taps) as taps:
                output = student(images)
                losses = distiller({"output": output, **taps.outputs()}, {"image": images})
            return task(output, labels) + distiller.total(losses, epoch=1)

        return check_teacher_apart(teacher, updating([*parameters, *distiller.parameters()], distilled))

    return prepare
