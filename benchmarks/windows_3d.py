"""One window of a volume: the eager networks of the kidney bundle against its exported student.

Weights are random, and int8 is calibrated on noise: good for time alone. Limits on the Dice of bf16 and int8 belong to
trained students; ``monai-kd export`` checks them. "freed memory kept": the same with glibc told not to return what
torch frees, which makes eager networks faster on some machines.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.allocator import keeping_freed_memory
from benchmarks.comparing import Bar, Case, Found, ratio
from benchmarks.students import precisions, volume_network, volume_student

TEACHER, STUDENT, KEPT = "eager teacher", "eager student", ", freed memory kept"


def cases(quick: bool) -> list[Case]:
    size = 32 if quick else 96
    forms = {name + kept: _eager(name, bool(kept), size) for name in (TEACHER, STUDENT) for kept in ("", KEPT)}
    forms |= {f"OpenVINO {precision}": _runtime(precision, size) for precision in precisions()}
    return [Case(f"1 x 1 x {size}^3", forms, rounds=3 if quick else 7)]


def bars(found: Found) -> list[Bar]:
    (forms,) = found.values()
    limits = {"bf16": (15.0, 2.5), "int8": (25.0, 3.8)}
    result = []
    for precision, (teacher, student) in limits.items():
        form = f"OpenVINO {precision}"
        if form not in forms:
            note = "This processor does not compute in bf16."
            result.append(Bar("P8", f"student {precision}", "not measured", teacher, note=note))
            continue
        for kept in ("", KEPT):
            result += [
                Bar(
                    "P8",
                    f"{TEACHER}{kept} / student {precision}",
                    ratio(forms, TEACHER + kept, form),
                    teacher,
                    note=NOTE,
                ),
                Bar(
                    "P8",
                    f"{STUDENT}{kept} / student {precision}",
                    ratio(forms, STUDENT + kept, form),
                    student,
                    note=NOTE,
                ),
            ]
    return result


NOTE = (
    "The bundle's student is a plain DynUNet with instance normalisation and 8 channels at full resolution, which is "
    "what takes its time; keeping freed memory helps the eager opponent."
)


def _eager(name: str, kept: bool, size: int) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        network = volume_network(name.split()[1])
        window = torch.randn(1, 1, size, size, size)

        def step() -> None:
            with torch.inference_mode():
                network(window)

        return keeping_freed_memory(step) if kept else step

    return prepare


def _runtime(precision: str, size: int) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        from monai_kd.runtime import load_exported

        student = load_exported(volume_student(size, precision), precision=precision, num_threads=1)
        window = np.random.default_rng(0).standard_normal((1, 1, size, size, size), dtype=np.float32)

        def step() -> None:
            student(window)

        return step

    return prepare
