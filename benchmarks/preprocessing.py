"""A volume from its file to the network's grid, and a random patch of it from a cache.

"MONAI": the chain of the kidney bundle (load, orient, resample to 1.5 mm, scale); "runtime": ``VolumeStudent.load``.
The patches are 96^3 from a volume that is already preprocessed: MONAI's ``PersistentDataset`` against
``VolumeCacheDataset``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle.config_parser import ConfigParser
from monai.data.dataset import PersistentDataset
from monai.transforms import Compose, RandSpatialCropd

from benchmarks.comparing import Bar, Case, Found, ratio
from benchmarks.ct_volumes import FULL, QUICK, generated
from benchmarks.students import BUNDLES, KIDNEY, scratch, volume_overrides, volume_student
from monai_kd.data import VolumeCacheDataset

MONAI, RUNTIME = "MONAI", "runtime"
PERSISTENT, CACHE = "PersistentDataset", "VolumeCacheDataset"


def cases(quick: bool) -> list[Case]:
    path, window = generated(*(QUICK if quick else FULL)), 48 if quick else 96
    chain = {MONAI: _monai(path, window), RUNTIME: _runtime(path, window)}
    patches = {name: _patch(name, path, window) for name in (PERSISTENT, CACHE)}
    return [Case("volume", chain, 3 if quick else 5), Case("patch", patches, 3 if quick else 9)]


def bars(found: Found) -> list[Bar]:
    difference = float(np.abs(np.load(_written(MONAI)) - np.load(_written(RUNTIME))).max())
    return [
        Bar("P12", "file to the network's grid, MONAI / runtime", ratio(found["volume"], MONAI, RUNTIME), 4),
        Bar("P12", "largest difference (intensities from -1 to 1)", difference, 1e-4, most=True),
        Bar(
            "P12",
            "random patch, ours / PersistentDataset",
            ratio(found["patch"], CACHE, PERSISTENT),
            0.25,
            True,
            PATCHES,
        ),
    ]


PATCHES = (
    "`VolumeCacheDataset` reads a whole case, as `PersistentDataset` does, and keeps its geometry, which that loses. "
    "There is no storage of single patches yet."
)


def _chain(window: int) -> Compose:
    config = ConfigParser()
    config.read_config(str(BUNDLES / KIDNEY / "configs" / "inference.json"))
    config.update(volume_overrides(window))
    chain: Compose = config.get_parsed_content("preprocessing")
    return chain


def _monai(path: Path, window: int) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        chain = _chain(window)
        np.save(_written(MONAI), np.asarray(chain({"image": str(path)})["image"]))
        return lambda: chain({"image": str(path)}) and None

    return prepare


def _runtime(path: Path, window: int) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        from monai_kd.runtime import VolumeStudent, load_exported

        student = VolumeStudent(load_exported(volume_student(window), num_threads=1))
        np.save(_written(RUNTIME), student.load(path).image)

        def step() -> None:
            student.load(path)

        return step

    return prepare


def _patch(name: str, path: Path, window: int) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        crop: Any = RandSpatialCropd("image", [window] * 3, random_size=False)
        transform = Compose([*_chain(window).transforms, crop])
        folder = scratch() / name
        kind = {PERSISTENT: PersistentDataset, CACHE: VolumeCacheDataset}[name]
        dataset = kind([{"image": str(path)}], transform, folder)
        dataset[0]

        def step() -> None:
            torch.as_tensor(dataset[0]["image"]).sum()

        return step

    return prepare


def _written(name: str) -> Path:
    return scratch() / f"preprocessed_{name}.npy"
