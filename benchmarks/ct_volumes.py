"""The CT volumes that chains are measured on."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import zoom

from benchmarks.students import scratch
from monai_kd.data.ct_intensities import simulate_ct
from monai_kd.data.ct_phantoms import abdomen_labels

SMALL = "ct_small"
FULL = ((512, 512, 200), (0.8, 0.8, 1.5))  # voxels, mm
QUICK = ((80, 80, 32), (2.0, 2.0, 3.5))


def volumes(quick: bool) -> dict[str, Path]:
    """Names and files: a generated CT, and the one in ``MONAI_KD_DATA`` where that is set, if not ``quick``."""
    size, spacing = QUICK if quick else FULL
    found = {f"generated, {' x '.join(map(str, size))}": generated(size, spacing)}
    root = os.environ.get("MONAI_KD_DATA")
    if root and not quick and (path := Path(root, SMALL, "ct_1p5mm.nii.gz")).is_file():
        found[f"{SMALL}, 120 x 126 x 164"] = path
    return found


def generated(size: tuple[int, int, int], spacing: tuple[float, float, float]) -> Path:
    """A generated abdomen, enlarged twofold, with the noise of a scanner; made on first use."""
    path = scratch() / "ct" / f"ct_{'_'.join(map(str, size))}.nii.gz"
    if path.is_file():
        return path
    path.parent.mkdir(exist_ok=True)
    half, wide = tuple(length // 2 for length in size), tuple(2 * step for step in spacing)
    values = simulate_ct(abdomen_labels(0, half, wide), wide, 0, "kidney", "RAS").astype(np.float32)
    values = zoom(values, [a / b for a, b in zip(size, half)], order=1)
    values += 10 * np.random.default_rng(0).standard_normal(values.shape, dtype=np.float32)
    return _written(path, values.round().astype(np.int16), np.diag([*spacing, 1.0]))


def repeated(path: Path, times: int) -> Path:
    """A volume several times over, along its last axis."""
    longer = path.with_name(f"{path.name.removesuffix('.nii.gz')}_times_{times}.nii.gz")
    if times == 1 or longer.is_file():
        return path if times == 1 else longer
    volume = nibabel.load(path)
    values = np.asarray(volume.dataobj, dtype=np.int16)
    return _written(longer, np.concatenate([values] * times, axis=-1), volume.affine)


def _written(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    draft = path.with_name(f"draft_{path.name}")
    nibabel.save(nibabel.Nifti1Image(values, affine), draft)
    return draft.rename(path)
