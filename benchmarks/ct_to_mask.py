"""A CT to its mask on one core: MONAI's chain of the kidney bundle against ``monai_kd.runtime``, stage by stage.

Volumes of 1.5 mm, windows of 96^3 that overlap by a quarter. "MONAI" is what the bundle's ``inference.json`` does with
exact borders, in its order, with the eager networks; "no network" has in its place one that answers at once. The
student is the bundle's, the fast student that of ``fast_student.json``. Weights are random, but label regions of an
abdomen, as trained ones do: good for time, memory and the comparison of labels, not for what is segmented.

Both decide borders exactly, from scores of all classes on the stored grid, but for the form "nearest borders", which
decides on the network's grid and then resamples labels.

Stages are in seconds. Of the runtime, too, "invert" is all that brings labels back to the stored volume's voxels and
"argmax" what decides them on the network's grid; "windows" is the network and what puts its windows together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel
import numpy as np
import torch
from monai.bundle.config_parser import ConfigParser
from torch import Tensor, nn

from benchmarks.comparing import Bar, Case, Found, cpu_seconds, memory_ratio, ratio
from benchmarks.ct_volumes import SMALL, volumes
from benchmarks.students import BUNDLES, KIDNEY, precisions, scratch, volume_network, volume_overrides, volume_student

STUDENTS = ("student", "fast student")
TEACHER, NOTHING = "MONAI, eager teacher", "MONAI, no network"
LEAN_NOTHING, NEAREST = "runtime, no network", "runtime, fast student f32, nearest borders"
STAGES = ("load", "resample", "windows", "invert", "argmax", "save")


def cases(quick: bool) -> list[Case]:
    window = 64 if quick else 96
    made = []
    for name, path in volumes(quick).items():
        forms = {TEACHER: _monai(TEACHER, "teacher", path, window)}
        forms |= {_eager(role): _monai(_eager(role), role, path, window) for role in STUDENTS}
        forms[NOTHING] = _monai(NOTHING, None, path, window)
        for role in STUDENTS:
            forms |= {_served(role, p): _lean(_served(role, p), role, p, path, window) for p in precisions()}
        forms[NEAREST] = _lean(NEAREST, "fast student", "f32", path, window, exact=False)
        forms[LEAN_NOTHING] = _lean(LEAN_NOTHING, None, "f32", path, window)
        memory = not quick and not name.startswith(SMALL)
        made.append(Case(name, forms, rounds=1 if quick else 3, once=(TEACHER,), memory=memory))
    return made


def bars(found: Found) -> list[Bar]:
    result = []
    best = next(p for p in ("int8", "bf16", "f32") if p in precisions())
    for case, forms in found.items():
        short = case.split(",")[0]
        for role in reversed(STUDENTS):
            fastest, f32, eager = _served(role, best), _served(role, "f32"), _eager(role)
            note = PLAIN if role == "student" else ""
            same, labelled = _compared(case, eager, f32)
            result += [
                Bar("P9", f"{short}, {TEACHER} / {fastest}", ratio(forms, TEACHER, fastest), 40, note=note),
                Bar("P9", f"{short}, {eager} / {fastest}", ratio(forms, eager, fastest), 10, note=note or EAGER),
                Bar("P9", f"{short}, {role} f32, share of equal labels ({labelled:.2%} labelled)", same, 0.9999),
            ]
        measured = memory_ratio(forms, _served("fast student", "f32"), _eager("fast student"))
        rest = ratio(forms, NOTHING, LEAN_NOTHING)
        result += [
            Bar("P9", f"{short}, all but the network, MONAI / runtime", rest, 8, note=REST),
            Bar("P9", f"{short}, memory, runtime / MONAI", measured, 1 / 3, most=True),
        ]
    return result


PLAIN = (
    "The bundle's own student works at full resolution, so that its windows take most of the time whatever computes "
    "them; the fast student of `fast_student.json` does not. Nothing is skipped: a coarse pass is off."
)
EAGER = "A small network gains less in a runtime than what is around it, and this one is quick in torch too."
REST = "A small volume is read and written in a moment by either."


def _eager(role: str) -> str:
    return f"MONAI, eager {role}"


def _served(role: str, precision: str) -> str:
    return f"runtime, {role} {precision}"


Prepare = Callable[[], Callable[[], dict[str, float]]]


def _monai(form: str, role: str | None, path: Path, window: int) -> Prepare:
    def prepare() -> Callable[[], dict[str, float]]:
        config = ConfigParser()
        config.read_config(str(BUNDLES / KIDNEY / "configs" / "inference.json"))
        output = scratch() / "masks" / form
        changes = {"output_dir": str(output), "inferer#progress": False, "exact_borders": True}
        config.update({**volume_overrides(window), **changes})
        before, inferer = config.get_parsed_content("preprocessing"), config.get_parsed_content("inferer")
        invert, argmax, save = config.get_parsed_content("postprocessing").transforms
        network = _Nothing() if role is None else volume_network(role)
        clock = _Clock()
        load, resample, invert, argmax, save = (
            clock.timed(stage, one)
            for stage, one in {
                "load": _Compose(before.transforms[:-2]),
                "resample": _Compose(before.transforms[-2:]),
                "invert": invert,
                "argmax": argmax,
                "save": save,
            }.items()
        )

        def step() -> dict[str, float]:
            with clock.running("windows"):
                item = resample(load({"image": str(path)}))
                with torch.inference_mode():
                    item["pred"] = inferer(item["image"][None], network)[0]
                save(argmax(invert(item)))
            return clock.seconds

        return step

    return prepare


def _lean(form: str, role: str | None, precision: str, path: Path, window: int, exact: bool = True) -> Prepare:
    def prepare() -> Callable[[], dict[str, float]]:
        from monai_kd.runtime import VolumeStudent, load_exported, volumes

        folder = volume_student(window, precision, fast=role != "student")
        model: Any = load_exported(folder, precision=precision, num_threads=1)
        student = VolumeStudent(_NoModel(model) if role is None else model, exact_borders=exact)
        target = scratch() / "masks" / form / path.name.replace(".nii.gz", "_seg.nii.gz")
        target.parent.mkdir(parents=True, exist_ok=True)
        clock = _Clock()
        parts = {"read_nifti": "load", "sharp_labels": "invert", "nearest_labels": "invert", "write_labels": "save"}
        own = {"_image": "resample", "_decide": "argmax"}

        def step() -> dict[str, float]:
            timed = {name: clock.timed(stage, getattr(volumes, name)) for name, stage in parts.items()}
            timed_own = {name: clock.timed(stage, getattr(student, name)) for name, stage in own.items()}
            patched = mock.patch.multiple(volumes, **timed), mock.patch.multiple(student, **timed_own)
            with patched[0], patched[1], clock.running("windows"):
                loaded = student.load(path)
                student.save(student.infer(loaded), loaded, target)
            return clock.seconds

        return step

    return prepare


class _Compose:
    """Transforms one after the other, without what MONAI's own does around them."""

    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self, item: Any) -> Any:
        for transform in self.transforms:
            item = transform(item)
        return item


class _Nothing(nn.Module):
    """Three classes without computing: the first everywhere but in bones."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([-x, x - 1.2, x - 1.3], dim=1)


class _NoModel:
    """The same in the place of an exported model."""

    def __init__(self, model: Any) -> None:
        self.description = model.description

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.concatenate([-images, images - np.float32(1.2), images - np.float32(1.3)], axis=1)


class _Clock:
    """Seconds by stage; those of a stage within another count for the inner one alone, but for what decides borders."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.stages: list[str] = []
        self.last = 0.0

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **words: Any) -> Any:
            with self._within(stage if self.stages[-1] != "invert" else "invert"):
                return function(*arguments, **words)

        return call

    @contextmanager
    def running(self, stage: str) -> Iterator[None]:
        """All stages from 0, this one wherever there is no other."""
        self.seconds, self.last = dict.fromkeys(STAGES, 0.0), cpu_seconds()
        with self._within(stage):
            yield

    @contextmanager
    def _within(self, stage: str) -> Iterator[None]:
        self._note()
        self.stages.append(stage)
        yield
        self._note()
        self.stages.pop()

    def _note(self) -> None:
        now = cpu_seconds()
        if self.stages:
            self.seconds[self.stages[-1]] += now - self.last
        self.last = now


def _compared(case: str, first: str, second: str) -> tuple[float, float]:
    """The share of voxels with one label in the masks of two forms, and of those with any."""
    name = "ct_1p5mm_seg.nii.gz" if case.startswith(SMALL) else f"ct_{_size(case)}_seg.nii.gz"
    a, b = (np.asarray(nibabel.load(scratch() / "masks" / form / name).dataobj).squeeze() for form in (first, second))
    return float((a == b).mean()), float((a > 0).mean())


def _size(case: str) -> str:
    return case.split(", ")[1].replace(" x ", "_")
