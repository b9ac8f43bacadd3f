"""The largest resident size of a whole process that brings a CT of 512 x 512 x 400 voxels, or more, to its mask.

``python -m monai.bundle run`` with the kidney bundle's ``inference.json``, and ``monai-kd predict`` with the exported
students; libraries included, windows as the bundle has them but for the overlap, which changes the time alone. The
longer CT is the same one three times over, for the runtime alone: MONAI's memory grows with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import torch

from benchmarks.comparing import Bar, Case, Found, memory_ratio
from benchmarks.ct_volumes import QUICK, generated, repeated
from benchmarks.processes import run_watched
from benchmarks.students import BUNDLES, KIDNEY, scratch, volume_network, volume_overrides, volume_student

BUNDLE, RUNTIME, FAST = "inference.json", "monai-kd predict", "monai-kd predict, fast student"
TIMES = 3


def cases(quick: bool) -> list[Case]:
    size, spacing = QUICK if quick else ((512, 512, 400), (0.98, 0.98, 1.0))
    window = 64 if quick else 96

    def prepare_bundle() -> Callable[[], None]:
        config, folder = BUNDLES / KIDNEY / "configs", scratch() / "ct_memory"
        folder.mkdir(exist_ok=True)
        torch.save(volume_network("student").state_dict(), folder / "model.pt")
        command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--bundle_root", str(BUNDLES / KIDNEY)]
        command += ["--config_file", str(config / "inference.json"), "--meta_file", str(config / "metadata.json")]
        command += ["--logging_file", "False", "--device", "cpu", "--ckpt_dir", str(folder)]
        command += ["--output_dir", str(folder), "--dataset_dir", str(_alone(generated(size, spacing)))]
        for key, value in volume_overrides(window).items():
            command += [f"--{key}", str(value)]
        return lambda: run_watched(command)

    def runtime(times: int, fast: bool) -> Callable[[], Callable[[], None]]:
        def prepare() -> Callable[[], None]:
            folder, source = volume_student(window, fast=fast), _alone(repeated(generated(size, spacing), times))
            command = [sys.executable, "-W", "ignore", "-m", "monai_kd", "predict", str(folder), str(source)]
            command += ["--output", str(scratch() / "ct_memory_runtime")]
            return lambda: run_watched(command)

        return prepare

    once = {BUNDLE: prepare_bundle, RUNTIME: runtime(1, fast=False), FAST: runtime(1, fast=True)}
    return [
        Case(_name(size), once, timed=False),
        Case(_name((*size[:2], size[2] * TIMES)), {FAST: runtime(TIMES, fast=True)}, timed=False),
    ]


def bars(found: Found) -> list[Bar]:
    short, long = found
    result = []
    for form in (RUNTIME, FAST):
        measured = memory_ratio(found[short], form, BUNDLE)
        result.append(Bar("P9", f"whole process, {short}, memory, {form} / MONAI", measured, 1 / 3, most=True))
    sizes = [found[case][FAST].megabytes for case in (short, long)]
    needed = [prod(map(int, case.split(" x "))) * BYTES / 1e6 for case in (short, long)]
    growth: float | str = "memory not measured"
    if None not in sizes:
        growth = float(np.diff(sizes)[0] / np.diff(needed)[0])
    what = f"whole process, memory from {short} to {long} voxels, growth / that of the CT and its labels"
    return [*result, Bar("P9", what, growth, 1.5, most=True, note=COPIES)]


BYTES = 3  # int16 voxels and uint8 labels
COPIES = "Files are packed and unpacked as a whole."


def _name(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def _alone(path: Path) -> Path:
    """A folder with that volume alone."""
    folder = path.parent / path.name.removesuffix(".nii.gz")
    folder.mkdir(exist_ok=True)
    if not (folder / path.name).exists():
        (folder / path.name).hardlink_to(path)
    return folder
