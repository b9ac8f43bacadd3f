"""A CT to its mask on one core: MONAI's chain of the kidney bundle against ``monai_kd.runtime``, stage by stage.

Volumes of 1.5 mm, windows of 96^3 that overlap by a quarter. "MONAI" is what the bundle's ``inference.json`` does, in
its order, with the eager networks; "no network" has in its place one that answers at once. Weights are random, with a
bias under which about 2 % of the voxels are no background: good for time, memory and the comparison of labels, not for
what is segmented. The value is the seconds of the stages; of the runtime loading has resampling in it, and what
surrounds the windows (their weights, labels, and these back to the stored volume) is "argmax".
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.bundle.config_parser import ConfigParser
from torch import Tensor, nn

from benchmarks.comparing import Bar, Case, Form, Found, cpu_seconds, memory_ratio, ratio
from benchmarks.ct_volumes import SMALL, volumes
from benchmarks.students import BUNDLES, KIDNEY, precisions, scratch, volume_network, volume_overrides, volume_student

TEACHER, STUDENT, NOTHING = "MONAI, eager teacher", "MONAI, eager student", "MONAI, no network"
LEAN_NOTHING, EXACT = "runtime, no network", "runtime f32, exact borders"


def cases(quick: bool) -> list[Case]:
    window = 48 if quick else 96
    made = []
    for name, path in volumes(quick).items():
        forms = {form: _monai(form, path, window) for form in (TEACHER, STUDENT, NOTHING)}
        forms |= {f"runtime {p}": _lean(f"runtime {p}", p, path, window) for p in precisions()}
        forms[LEAN_NOTHING] = _lean(LEAN_NOTHING, "f32", path, window)
        forms[EXACT] = _lean(EXACT, "f32", path, window)
        made.append(
            Case(
                name, forms, rounds=1 if quick else 3, once=(TEACHER,), memory=not quick and not name.startswith(SMALL)
            )
        )
    return made


def bars(found: Found) -> list[Bar]:
    result = []
    for case, forms in found.items():
        short = case.split(",")[0]
        best = next(f"runtime {p}" for p in ("int8", "bf16", "f32") if f"runtime {p}" in forms)
        rest = _rest(forms[NOTHING]) / _rest(forms[LEAN_NOTHING])
        result += [
            Bar("P9", f"{short}, {TEACHER} / {best}", ratio(forms, TEACHER, best), 40, note=NOTE),
            Bar("P9", f"{short}, {STUDENT} / {best}", ratio(forms, STUDENT, best), 10, note=NOTE),
            Bar("P9", f"{short}, {TEACHER} / runtime f32", ratio(forms, TEACHER, "runtime f32"), 40, note=NOTE),
            Bar("P9", f"{short}, {STUDENT} / runtime f32", ratio(forms, STUDENT, "runtime f32"), 10, note=NOTE),
            Bar("P9", f"{short}, all but the network, MONAI / runtime", rest, 8, note=REST),
            Bar("P9", f"{short}, share of equal labels, exact borders", _equal(case, STUDENT, EXACT), 0.9999),
            Bar(
                "P9", f"{short}, memory, runtime / MONAI", memory_ratio(forms, "runtime f32", STUDENT), 1 / 3, most=True
            ),
        ]
    return result


NOTE = (
    "The bundle's student is a plain DynUNet whose windows take most of the time; a student with a space-to-depth stem "
    "is several times cheaper. Nothing is skipped: a coarse pass (`coarse_spacing`) is off."
)
REST = "A small volume is read and written in a moment by either."


def _monai(form: str, path: Path, window: int) -> Callable[[], Callable[[], dict[str, float]]]:
    def prepare() -> Callable[[], dict[str, float]]:
        config = ConfigParser()
        config.read_config(str(BUNDLES / KIDNEY / "configs" / "inference.json"))
        output = scratch() / "masks" / form
        config.update({**volume_overrides(window), "output_dir": str(output), "inferer#progress": False})
        before, inferer = config.get_parsed_content("preprocessing"), config.get_parsed_content("inferer")
        invert, argmax, save = config.get_parsed_content("postprocessing").transforms
        network = _Nothing() if form == NOTHING else volume_network(form.split()[-1])

        def step() -> dict[str, float]:
            clock = _Clock()
            item = {"image": str(path)}
            for transform in before.transforms[:-2]:
                item = transform(item)
            clock("load")
            for transform in before.transforms[-2:]:
                item = transform(item)
            clock("resample")
            with torch.inference_mode():
                item["pred"] = inferer(item["image"][None], network)[0]
            clock("windows")
            item = invert(item)
            clock("invert")
            item = argmax(item)
            clock("argmax")
            save(item)
            clock("save")
            return clock.seconds

        return step

    return prepare


def _lean(form: str, precision: str, path: Path, window: int) -> Callable[[], Callable[[], dict[str, float]]]:
    def prepare() -> Callable[[], dict[str, float]]:
        from monai_kd.runtime import VolumeStudent, load_exported

        exported = load_exported(volume_student(window, precision), precision=precision, num_threads=1)
        model: Any = _Timed(exported, answers=form != LEAN_NOTHING)
        student = VolumeStudent(model, exact_borders=form == EXACT)
        target = scratch() / "masks" / form / path.name.replace(".nii.gz", "_seg.nii.gz")

        def step() -> dict[str, float]:
            clock = _Clock()
            model.seconds = 0.0
            loaded = student.load(path)
            clock("load")
            labels = student.infer(loaded)
            clock("windows")
            if form != LEAN_NOTHING:
                clock.move("windows", "argmax", clock.seconds["windows"] - model.seconds)
            target.parent.mkdir(parents=True, exist_ok=True)
            student.save(labels, loaded, target)
            clock("save")
            return clock.seconds

        return step

    return prepare


class _Nothing(nn.Module):
    """Three classes without computing: the first everywhere but in soft tissue."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x, x - 1], dim=1)


class _Timed:
    """An exported model that counts the seconds of its calls, or answers at once."""

    def __init__(self, model: Any, answers: bool) -> None:
        self.model = model
        self.description = model.description
        self.answers = answers
        self.seconds = 0.0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        start = cpu_seconds()
        answer = self.model(images) if self.answers else np.concatenate([images, -images, images - 1], axis=1)
        self.seconds += cpu_seconds() - start
        return np.asarray(answer)


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = cpu_seconds()

    def __call__(self, stage: str) -> None:
        now = cpu_seconds()
        self.seconds[stage] = now - self.last
        self.last = now

    def move(self, source: str, target: str, seconds: float) -> None:
        self.seconds[source] -= seconds
        self.seconds[target] = seconds


def _rest(form: Form) -> float:
    """Median seconds of everything around a network that takes no time."""
    return statistics.median(form.seconds)


def _equal(case: str, first: str, second: str) -> float:
    name = "ct_1p5mm_seg.nii.gz" if case.startswith(SMALL) else _generated_name(case)
    masks = (np.asarray(nibabel.load(scratch() / "masks" / form / name).dataobj).squeeze() for form in (first, second))
    return float(np.mean(np.equal(*masks)))


def _generated_name(case: str) -> str:
    return f"ct_{case.split(', ')[1].replace(' x ', '_')}_seg.nii.gz"
