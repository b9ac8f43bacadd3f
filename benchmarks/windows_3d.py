"""One window of a volume: the eager networks of the kidney bundle against its exported students.

The bundle's student is a DynUNet; the fast student, of ``fast_student.json``, works on blocks of 2 x 2 x 2 voxels.

Weights are random, and int8 is calibrated on noise: good for time alone. What bf16 and int8 do to the Dice of trained
students is measured by ``exported_scores``. "freed memory kept": the same with glibc told not to return what
torch frees, which makes eager networks faster on some machines.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.allocator import keeping_freed_memory
from benchmarks.comparing import Bar, Case, Found, ratio
from benchmarks.students import precisions, volume_network, volume_student

TEACHER, STUDENT, FAST, KEPT = "eager teacher", "eager student", "eager fast student", ", freed memory kept"
STUDENTS = {"student": STUDENT, "fast student": FAST}


def cases(quick: bool) -> list[Case]:
    size = 32 if quick else 96
    forms = {
        name + kept: _eager(name, bool(kept), size) for name in (TEACHER, *STUDENTS.values()) for kept in ("", KEPT)
    }
    for role in STUDENTS:
        forms |= {f"OpenVINO {role} {precision}": _runtime(role, precision, size) for precision in precisions()}
    return [Case(f"1 x 1 x {size}^3", forms, rounds=3 if quick else 7)]


def bars(found: Found) -> list[Bar]:
    (forms,) = found.values()
    result = []
    for role, own in STUDENTS.items():
        for precision, (teacher, student) in {"bf16": (15.0, 2.5), "int8": (25.0, 3.8)}.items():
            form, what = f"OpenVINO {role} {precision}", f"{role} {precision}"
            if form not in forms:
                note = "This processor does not compute in bf16."
                result.append(Bar("P8", what, "not measured", teacher, note=note))
                continue
            result += [
                Bar("P8", f"{eager}{kept} / {what}", ratio(forms, eager + kept, form), limit, note=NOTES[role])
                for kept in ("", KEPT)
                for eager, limit in ((TEACHER, teacher), (own, student))
            ]
    return result


NOTES = {
    "student": (
        "The bundle's student is a plain DynUNet with instance normalisation and 8 channels at full resolution, which "
        "is what takes its time; keeping freed memory helps the eager opponent."
    ),
    "fast student": "Each student against its own eager form; keeping freed memory helps the eager opponent.",
}


def _eager(name: str, kept: bool, size: int) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        network = volume_network(name.removeprefix("eager "))
        window = torch.randn(1, 1, size, size, size)

        def step() -> None:
            with torch.inference_mode():
                network(window)

        return keeping_freed_memory(step) if kept else step

    return prepare


def _runtime(role: str, precision: str, size: int) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        from monai_kd.runtime import load_exported

        folder = volume_student(size, precision, fast=role == "fast student")
        student = load_exported(folder, precision=precision, num_threads=1)
        window = np.random.default_rng(0).standard_normal((1, 1, size, size, size), dtype=np.float32)

        def step() -> None:
            student(window)

        return step

    return prepare
