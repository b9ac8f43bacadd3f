"""The largest resident size of a whole process that brings a CT of 512 x 512 x 400 voxels to its mask.

``python -m monai.bundle run`` with the kidney bundle's ``inference.json``, and ``monai-kd predict`` with the exported
student; libraries included, windows as the bundle has them but for the overlap, which changes the time alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.comparing import Bar, Case, Found, memory_ratio
from benchmarks.ct_volumes import QUICK, generated
from benchmarks.processes import run_watched
from benchmarks.students import BUNDLES, KIDNEY, scratch, volume_network, volume_overrides, volume_student

BUNDLE, RUNTIME = "inference.json", "monai-kd predict"


def cases(quick: bool) -> list[Case]:
    size, spacing = QUICK if quick else ((512, 512, 400), (0.98, 0.98, 1.0))
    window = 48 if quick else 96

    def prepare_bundle() -> Callable[[], None]:
        config, changes = BUNDLES / KIDNEY / "configs", volume_overrides(window)
        folder = scratch() / "ct_memory"
        folder.mkdir(exist_ok=True)
        torch.save(volume_network("student").state_dict(), folder / "model.pt")
        command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--bundle_root", str(BUNDLES / KIDNEY)]
        command += ["--config_file", str(config / "inference.json"), "--meta_file", str(config / "metadata.json")]
        command += [
            "--logging_file",
            "False",
            "--device",
            "cpu",
            "--ckpt_dir",
            str(folder),
            "--output_dir",
            str(folder),
        ]
        command += ["--dataset_dir", str(_alone(generated(size, spacing)))]
        for key, value in changes.items():
            command += [f"--{key}", str(value)]
        return lambda: run_watched(command)

    def prepare_runtime() -> Callable[[], None]:
        folder, source = volume_student(window), _alone(generated(size, spacing))
        command = [sys.executable, "-W", "ignore", "-m", "monai_kd", "predict", str(folder), str(source)]
        command += ["--output", str(scratch() / "ct_memory_runtime")]
        return lambda: run_watched(command)

    forms = {BUNDLE: prepare_bundle, RUNTIME: prepare_runtime}
    return [Case(" x ".join(map(str, size)), forms, timed=False)]


def bars(found: Found) -> list[Bar]:
    (forms,) = found.values()
    measured = memory_ratio(forms, RUNTIME, BUNDLE)
    return [Bar("P9", "whole process, memory, runtime / MONAI", measured, 1 / 3, most=True)]


def _alone(path: Path) -> Path:
    """A folder with that volume alone."""
    folder = path.parent / path.name.removesuffix(".nii.gz")
    folder.mkdir(exist_ok=True)
    if not (folder / path.name).exists():
        (folder / path.name).hardlink_to(path)
    return folder
