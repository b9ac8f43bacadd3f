"""Generated abdominal CT with an organ and its tumours, for demos and tests without a data set.

Nothing learnt here says anything about clinical CT.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform
from scipy.ndimage import binary_erosion

from monai_kd.data._generated import generate_folder, mark_generated
from monai_kd.data.ct_intensities import GENERATION, check_geometry, simulate_ct, smooth_noise

# Raise it whenever the same seed no longer gives the same labels.
_GENERATION = 1
_SMALLEST = (100.0, 150.0, 150.0)
_CASES = {"kidney": 210, "liver": 131}


def abdomen_labels(
    seed: int | Sequence[int],
    size: Sequence[int] = (64, 64, 48),
    spacing: Sequence[float] = (5.0, 5.0, 5.0),
    organ: str = "kidney",
    axcodes: str = "RAS",
) -> np.ndarray:
    """Label map of two kidneys or a liver with up to two tumours, the same for the same arguments.

    Kidneys are bean-shaped, about 11 cm long, the liver is about 20 cm wide. Tumours grow from the surface of a kidney
    or within the liver, 9 of 10 cases have one. Organs are made smaller if the volume has no room for them.

    Args:
        seed: of shape and position; a sequence of integers is a seed too.
        size: voxels along each axis.
        spacing: voxel size in mm along each axis.
        organ: "kidney" or "liver".
        axcodes: to where the axes lead, as in ``monai.transforms.Orientation``.

    Returns:
        0 background, 1 organ, 2 tumour, uint8, shape ``size``.

    Raises:
        ValueError: an unknown organ, or size, spacing or axcodes that make no volume of at least 15 x 15 x 10 cm.

    Example:
        >>> label = abdomen_labels(1, size=(48, 48, 40), spacing=(5, 5, 4))
        >>> label.shape, np.unique(label).tolist()
        ((48, 48, 40), [0, 1, 2])
    """
    check_geometry(size, spacing, organ, axcodes)
    there = ornt_transform(axcodes2ornt(axcodes), axcodes2ornt("IPL"))
    shape, steps = [0, 0, 0], [0.0, 0.0, 0.0]
    for length, step, axis in zip(size, spacing, there[:, 0].astype(int)):
        shape[axis], steps[axis] = int(length), float(step)
    extent = [length * step for length, step in zip(shape, steps)]
    if any(side < smallest for side, smallest in zip(extent, _SMALLEST)):
        raise ValueError(
            "an abdomen needs 150 mm within and 100 mm across slices, size times spacing is "
            f"{extent[2]:g} x {extent[1]:g} x {extent[0]:g} mm; give more or larger voxels."
        )
    rng = np.random.default_rng(seed)
    # (z, y, x) in mm from the middle: downwards, backwards, to the patient's left
    axes = [(np.arange(length) - (length - 1) / 2) * step for length, step in zip(shape, steps)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    rough = 0.06 * smooth_noise(rng, shape, steps, 25.0)
    inside = (_kidneys if organ == "kidney" else _liver)(rng, z, y, x, extent, rough)
    label = inside.astype(np.uint8)
    _grow_tumours(rng, label, (z, y, x), steps, organ)
    back = ornt_transform(axcodes2ornt("IPL"), axcodes2ornt(axcodes))
    return np.ascontiguousarray(apply_orientation(label, back))


def make_ct_cases(
    root: str | os.PathLike[str],
    count: int,
    organ: str = "kidney",
    seed: int = 0,
    size: Sequence[int] = (64, 64, 48),
    spacing: Sequence[float] = (5.0, 5.0, 5.0),
    ids: Sequence[int] | None = None,
) -> str:
    """Write generated cases in the layout of KiTS19 (kidney) or LiTS (liver).

    KiTS19: ``case_00000/imaging.nii.gz`` and ``segmentation.nii.gz``, arrays (slices, rows, columns) from top to
    bottom. LiTS: ``volume-0.nii.gz`` and ``segmentation-0.nii.gz``, arrays (columns, rows, slices) from bottom to top.
    A case depends on ``seed`` and its number alone. The folder is written whole or not at all; one that holds the same
    cases already is left as it is.

    Args:
        root: folder to write; it may not exist yet, or be empty.
        count: how many cases.
        organ: "kidney" or "liver".
        seed: of the whole set.
        size: columns, rows and slices of each volume.
        spacing: in mm along columns, rows and slices.
        ids: the cases' numbers, below 210 (KiTS19) or 131 (LiTS) as the published ones; 0 to ``count - 1`` if not
            given.

    Returns:
        ``root``, ready for :func:`kits_datalist` or :func:`lits_datalist`.

    Raises:
        FileExistsError: ``root`` holds anything else.
        ValueError: ``count``, ``ids``, ``organ``, ``size`` or ``spacing`` cannot be used.

    Example:
        >>> import tempfile
        >>> root = make_ct_cases(tempfile.mkdtemp() + "/kits", count=2, size=(40, 40, 24), spacing=(6, 6, 6))
        >>> sorted(os.listdir(root)), sorted(os.listdir(root + "/case_00001"))
        (['case_00000', 'case_00001', 'phantoms.json'], ['imaging.nii.gz', 'segmentation.nii.gz'])
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}.")
    check_geometry(size, spacing, organ, "LPS")
    numbers = list(range(count)) if ids is None else sorted(int(number) for number in ids)
    if len(set(numbers)) != count:
        raise ValueError(f"ids must be {count} different numbers, as many as count, got {list(ids or [])}.")
    if numbers[0] < 0 or numbers[-1] >= _CASES[organ]:
        raise ValueError(f"published {organ} cases have the numbers 0 to {_CASES[organ] - 1}, got {numbers}.")
    made: dict[str, Any] = {
        "generation": [_GENERATION, GENERATION],
        "organ": organ,
        "seed": int(seed),
        "size": [int(length) for length in size],
        "spacing": [float(step) for step in spacing],
        "ids": numbers,
    }
    return generate_folder(root, made, "cases", _write, _damage)


def _files(folder: Path, organ: str, number: int) -> tuple[Path, Path]:
    if organ == "kidney":
        case = folder / f"case_{number:05d}"
        return case / "imaging.nii.gz", case / "segmentation.nii.gz"
    return folder / f"volume-{number}.nii.gz", folder / f"segmentation-{number}.nii.gz"


def _damage(folder: Path, made: dict[str, Any]) -> str:
    paths = (path for number in made["ids"] for path in _files(folder, made["organ"], number))
    return "" if all(path.is_file() for path in paths) else "lost files"


def _write(folder: Path, made: dict[str, Any]) -> None:
    organ, size, spacing, axcodes = made["organ"], made["size"], made["spacing"], "LPS"
    if organ == "kidney":
        size, spacing, axcodes = size[::-1], spacing[::-1], "IPL"
    affine = np.zeros((4, 4))
    for axis, (step, code) in enumerate(zip(spacing, axcodes)):
        affine["LRPAIS".index(code) // 2, axis] = step if code in "RAS" else -step
    affine[3, 3] = 1
    for number in made["ids"]:
        label = abdomen_labels([made["seed"], number, 0], size, spacing, organ, axcodes)
        image = simulate_ct(label, spacing, [made["seed"], number, 1], organ, axcodes)
        for path, values in zip(_files(folder, organ, number), (image, label)):
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, affine), path)
    mark_generated(folder, made)


def _kidneys(
    rng: np.random.Generator, z: np.ndarray, y: np.ndarray, x: np.ndarray, extent: Sequence[float], rough: np.ndarray
) -> np.ndarray:
    """Two beans beside the spine with the hollow towards it, upper poles tilted to it, the right one lower."""
    inside = np.zeros(rough.shape, dtype=bool)
    scale = min(1.0, extent[0] / 135)
    depth = 0.12 * extent[1] + rng.uniform(-6, 6)
    for side in (-1, 1):
        half = scale * rng.uniform(48, 60), scale * rng.uniform(23, 29), scale * rng.uniform(23, 30)
        away = min(rng.uniform(60, 72), extent[2] / 2 - half[2] - 8)
        down = z - scale * (rng.uniform(-8, 6) - 8 * side)
        back = y - depth - rng.uniform(-5, 5) + 0.15 * down
        out = side * x - away - rng.uniform(0.15, 0.35) * down
        body = np.sqrt((down / half[0]) ** 2 + (back / half[1]) ** 2 + (out / half[2]) ** 2) + rough < 1
        hollow = (down / 22) ** 2 + (back / 14) ** 2 + ((out + half[2]) / rng.uniform(16, 22)) ** 2 < scale**2
        inside |= body & ~hollow
    return inside


def _liver(
    rng: np.random.Generator, z: np.ndarray, y: np.ndarray, x: np.ndarray, extent: Sequence[float], rough: np.ndarray
) -> np.ndarray:
    """A large right and a flat left lobe under the diaphragm, cut obliquely below and hollow around the spine."""
    scale = min(1.0, extent[0] / 190, extent[1] / 200, extent[2] / 250) * rng.uniform(0.92, 1.08)
    down, back, left = z / scale, y / scale, (x - rng.uniform(-6, 6)) / scale
    right = ((down - 5) / 82) ** 2 + ((back - 5) / 76) ** 2 + ((left + 48) / 70) ** 2
    small = (
        ((down + 25) / 45) ** 2 + ((back + 35) / rng.uniform(34, 44)) ** 2 + ((left - 20) / rng.uniform(62, 85)) ** 2
    )
    below = down - rng.uniform(35, 55) + rng.uniform(0.5, 0.8) * (left + 40)
    spine = (left / 34) ** 2 + ((back - 62) / 38) ** 2
    lobes = np.sqrt(np.minimum(right, small)) + rough < 1
    return np.asarray(lobes & (below < 0) & (spine > 1))


def _grow_tumours(
    rng: np.random.Generator, label: np.ndarray, axes: Sequence[np.ndarray], steps: Sequence[float], organ: str
) -> None:
    """Mark up to two irregular tumours in place."""
    organ_voxels = label > 0
    start = organ_voxels
    if organ == "kidney":
        start = organ_voxels & ~binary_erosion(organ_voxels, iterations=max(1, round(6 / max(steps))))
    seeds = np.argwhere(start)
    z, y, x = axes
    for _ in range(rng.choice(3, p=[0.1, 0.65, 0.25])):
        place = seeds[int(rng.uniform() * len(seeds))]
        centre = z[place[0], 0, 0], y[0, place[1], 0], x[0, 0, place[2]]
        radius = max(float(np.exp(rng.uniform(np.log(9), np.log(30)))), 1.3 * max(steps))
        away = [(axis - middle) / rng.uniform(0.85, 1.15) for axis, middle in zip(axes, centre)]
        bumps = 0.12 * radius * smooth_noise(rng, label.shape, steps, max(6.0, 0.6 * radius))
        grown = np.sqrt(away[0] ** 2 + away[1] ** 2 + away[2] ** 2) + bumps < radius
        # Not across the midline, where the spine and the great vessels are.
        grown &= np.sign(x) * np.sign(centre[2]) * np.abs(x) > 26 if organ == "kidney" else organ_voxels
        label[grown] = 2
