"""A volume from its file to the network's grid, and a random patch of it from a cache.

"MONAI": the chain of the kidney bundle (load, orient, resample to 1.5 mm, scale); "runtime": ``VolumeStudent.load``.
Patches are 96^3. "patch": of a volume that is already preprocessed. "patch by class": image and label through the whole
training chain of the kidney bundle, the crop and what comes after it on each access. MONAI's ``PersistentDataset``
against ``VolumeCacheDataset``, and "looking", ``PersistentDataset`` with the chain as usually written: the volume is
turned before it is cropped, and its label searched for the classes on each access. Cases that end in "read" are the
same after the system was told to forget the files, with the megabytes that came from the disk and the seconds of a
clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.bundle.config_parser import ConfigParser
from monai.data.dataset import PersistentDataset
from monai.transforms import Compose, RandCropByLabelClassesd, RandSpatialCropd

from benchmarks.comparing import Bar, Case, Form, Found, Ratio, quartiles, ratio
from benchmarks.ct_volumes import FULL, QUICK, generated
from benchmarks.students import BUNDLES, KIDNEY, scratch, volume_overrides, volume_student
from monai_kd.data import VolumeCacheDataset
from monai_kd.data.ct_phantoms import abdomen_labels

MONAI, RUNTIME = "MONAI", "runtime"
PERSISTENT, CACHE, LOOKING = "PersistentDataset", "VolumeCacheDataset", "looking"
PATCHES = {"patch": (PERSISTENT, CACHE), "patch by class": (PERSISTENT, CACHE, LOOKING)}


def cases(quick: bool) -> list[Case]:
    path, window = generated(*(QUICK if quick else FULL)), 48 if quick else 96
    found = [Case("volume", {MONAI: _monai(path, window), RUNTIME: _runtime(path, window)}, 3 if quick else 5)]
    for case, names in PATCHES.items():
        warm = {name: _patch(case, name, path, window) for name in names}
        cold = {name: _patch(case, name, path, window, cold=True) for name in names}
        found += [Case(case, warm, 3 if quick else 15), Case(f"{case}, read", cold, 3 if quick else 7, memory=False)]
    return found


def bars(found: Found) -> list[Bar]:
    difference = float(np.abs(np.load(_written(MONAI)) - np.load(_written(RUNTIME))).max())
    measured = [
        Bar("P12", "file to the network's grid, MONAI / runtime", ratio(found["volume"], MONAI, RUNTIME), 4),
        Bar("P12", "largest difference (intensities from -1 to 1)", difference, 1e-4, most=True),
    ]
    for case in PATCHES:
        cold = found[f"{case}, read"]
        measured.append(Bar("P12", f"{case}, bytes read, ours / PersistentDataset", _read(cold, "MB"), 0.25, True))
        if case == "patch":
            seconds = _read(cold, "seconds")
            measured.append(Bar("P12", "patch from the disk, time, ours / PersistentDataset", seconds, 0.25, True))
    change = ratio(found["patch by class"], CACHE, LOOKING)
    return [*measured, Bar("P12", "patch by class, time, ours / as usually written", change, 0.25, most=True)]


def _config(name: str, window: int) -> ConfigParser:
    config = ConfigParser()
    config.read_config(str(BUNDLES / KIDNEY / "configs" / name))
    config.update(volume_overrides(window))
    return config


def _chain(window: int) -> Compose:
    chain: Compose = _config("inference.json", window).get_parsed_content("preprocessing")
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


def _patch(case: str, name: str, path: Path, window: int, cold: bool = False) -> Callable[[], Callable[[], Any]]:
    def prepare() -> Callable[[], Any]:
        folder = scratch() / f"{case} {name}"
        item = {"image": str(path)}
        if case == "patch":
            crop: Any = RandSpatialCropd("image", [window] * 3, random_size=False)
            transform = Compose([*_chain(window).transforms, crop])
        else:
            item["label"] = str(_label(path))
            transform = _config("train.json", window).get_parsed_content("train#preprocessing")
            if name == LOOKING:
                transform = _usual(transform)
        kind = VolumeCacheDataset if name == CACHE else PersistentDataset
        dataset = kind([item], transform, folder)
        transform.set_random_state(0)

        def step() -> None:
            patch = dataset[0]
            torch.as_tensor((patch if case == "patch" else patch[0])["image"]).sum()

        def read() -> dict[str, float | None]:
            _forget(folder)
            before, start = _read_so_far(), time.perf_counter()
            step()
            seconds, after = time.perf_counter() - start, _read_so_far()
            return {"MB": None if before is None or after is None else (after - before) / 1e6, "seconds": seconds}

        step()
        return read if cold else step

    return prepare


def _usual(chain: Compose) -> Compose:
    """The chain of the bundle with its turn before the crop, which looks for the classes itself."""
    parts = {type(one).__name__: one for one in chain.transforms}
    crop = parts["RandCropByLabelClassesd"]
    looking: Any = RandCropByLabelClassesd(
        crop.keys,
        crop.label_key,
        crop.cropper.spatial_size,
        crop.cropper.ratios,
        parts["ClassesToIndicesd"].converter.num_classes,
        max_samples_per_class=parts["ClassesToIndicesd"].converter.max_samples_per_class,
        allow_smaller=True,
        warn=False,
    )
    kept = [one for one in chain.transforms if type(one).__name__ not in ("ClassesToIndicesd", "RandRotate90d")]
    where = kept.index(crop)
    return Compose([*kept[:where], parts["RandRotate90d"], looking, *kept[where + 1 :]])


def _label(path: Path) -> Path:
    """The organs that the generated CT shows; made on first use."""
    label = path.with_name(f"label_{path.name}")
    if not label.is_file():
        image = nibabel.load(path)
        half = tuple(length // 2 for length in image.shape)
        voxels = abdomen_labels(0, half, tuple(2 * float(step) for step in image.header.get_zooms()))
        for axis in range(3):
            voxels = voxels.repeat(2, axis)
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine), label)
    return label


def _forget(folder: Path) -> None:
    """Tell the system to drop the files of a folder from memory, where it can be told."""
    if hasattr(os, "posix_fadvise"):
        for path in folder.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_so_far() -> int | None:
    """Bytes that this process had from disks; ``None`` where the system does not tell."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def _read(forms: dict[str, Form], what: str) -> Ratio | str:
    """Of ours and ``PersistentDataset``, round by round, if bytes came from the disk at all."""
    pairs = list(zip(forms[CACHE].values, forms[PERSISTENT].values))
    if not all(ours["MB"] is not None and theirs["MB"] for ours, theirs in pairs):
        return "the system does not tell what it reads"
    low, middle, high = quartiles([ours[what] / theirs[what] for ours, theirs in pairs])
    return Ratio(middle, low, high)


def _written(name: str) -> Path:
    return scratch() / f"preprocessed_{name}.npy"
