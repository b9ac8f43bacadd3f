"""A check of a list of 3D volumes that reports every bad case at once, before training meets the first."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from tqdm import tqdm

from monai_kd._nifti import NiftiError, NiftiVoxels, opened_nifti
from monai_kd.data.checks import Case, CheckReport, duplicates, why_unreadable

__all__ = ["check_volumes"]

_ENDINGS = (".nii", ".nii.gz")
# Voxels read at a time; what a thread holds, whatever the size of the volume.
_CHUNK = 4_000_000
# Above the air around and inside of a patient, below every tissue.
_AIR = -200


@dataclass
class _Findings:
    errors: list[Case] = field(default_factory=list)
    warnings: list[Case] = field(default_factory=list)
    tumour_free: bool = False


class _Unfit(ValueError):
    """What is wrong with a file that can be read."""


def check_volumes(
    items: Sequence[Mapping[str, Any]],
    label_values: Sequence[int] = (0, 1, 2),
    tumour_value: int | None = 2,
    hounsfield: bool = True,
    tolerance: float = 0.1,
    image_key: str = "image",
    label_key: str = "label",
    progress: bool = False,
) -> CheckReport:
    """Read every NIfTI image and label of a data list once and report all that is wrong.

    Errors: an item without image; a file that is missing, unreadable, truncated or smaller than its header says; one
    that is listed twice; a volume that is not 3D or has colours; an affine that is not finite or singular, a spacing
    that is not positive; voxels that are not finite; label values that are not expected; a label of another shape than
    its image, or that lies elsewhere. Warnings: an empty label; a label without tumour, which is right for some cases
    (the warning says how many there are); an image without air.

    Files are read a few slices at a time, so memory does not grow with the volumes.

    Args:
        items: items with paths, such as ``kits_datalist(root)["training"]``. An item without ``label_key`` is
            unlabelled, which is fine.
        label_values: the values a label may have; 0 is the background.
        tumour_value: the label value whose absence is worth a warning, ``None`` for no such value.
        hounsfield: images are CT: warn of images without any voxel below -200 HU, which are likely not in HU.
        tolerance: by how many mm a label may lie elsewhere than its image, at the corner where it is worst.
        image_key: key of the image's path.
        label_key: key of the label's path.
        progress: show a progress bar.

    Returns:
        The report. ``check_volumes(items).raise_if_bad()`` stops on errors.

    Raises:
        ValueError: ``label_values`` without ``tumour_value``, or a negative tolerance.

    Example:
        >>> print(check_volumes([{"image": "nowhere.nii.gz"}]))
        1 items checked, 0 with a label: 1 errors, 0 warnings
        error: item 0: nowhere.nii.gz: no such file
    """
    if tumour_value is not None and tumour_value not in label_values:
        raise ValueError(
            f"tumour_value {tumour_value} is none of label_values {tuple(label_values)}; None for no check."
        )
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more mm, got {tolerance}.")
    check = partial(
        _check_item,
        label_values=label_values,
        tumour_value=tumour_value,
        hounsfield=hounsfield,
        tolerance=tolerance,
        image_key=image_key,
        label_key=label_key,
    )
    report = CheckReport(items=len(items), labelled=sum(item.get(label_key) is not None for item in items))
    report.errors += duplicates(items, image_key) + duplicates(items, label_key)
    tumour_free = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        results = pool.map(check, range(len(items)), items)
        for index, found in enumerate(tqdm(results, total=len(items), desc="checking", disable=not progress)):
            report.errors += found.errors
            report.warnings += found.warnings
            tumour_free += [index] if found.tumour_free else []
    share = f"{len(tumour_free)} of {report.labelled} labels"
    problem = f"no tumour: value {tumour_value} does not occur, as in {share}"
    report.warnings += [Case(index, str(items[index][label_key]), problem) for index in tumour_free]
    report.errors.sort(key=lambda case: case.index)
    report.warnings.sort(key=lambda case: case.index)
    return report


def _check_item(
    index: int,
    item: Mapping[str, Any],
    label_values: Sequence[int],
    tumour_value: int | None,
    hounsfield: bool,
    tolerance: float,
    image_key: str,
    label_key: str,
) -> _Findings:
    found = _Findings()
    places = {}
    if item.get(image_key) is None:
        found.errors.append(Case(index, str(item.get(label_key, "")), f"no {image_key!r} in the item"))
    for key in (image_key, label_key):
        path = item.get(key)
        if path is None:
            continue
        try:
            if not os.fspath(path).lower().endswith(_ENDINGS):
                raise _Unfit(f"expected a .nii or .nii.gz file, got '{os.path.basename(path)}'")
            with opened_nifti(path) as voxels:
                head = voxels.head
                if len(head.shape) != 3:
                    raise _Unfit(f"not 3D: its shape is {'x'.join(map(str, head.shape))}")
                places[key] = head.shape, head.affine
                if key == image_key:
                    lowest = _lowest(voxels)
                    if hounsfield and lowest >= _AIR:
                        problem = f"no air: the lowest value is {lowest:g}; is the image in HU?"
                        found.warnings.append(Case(index, str(path), problem))
                else:
                    present = _values(voxels, label_values)
                    if not present - {0}:
                        found.warnings.append(Case(index, str(path), "empty label"))
                    elif tumour_value is not None:
                        found.tumour_free = tumour_value not in present
        except (_Unfit, NiftiError) as error:
            found.errors.append(Case(index, str(path), str(error)))
        except Exception as error:
            found.errors.append(Case(index, str(path), why_unreadable(path, error)))
    if len(places) == 2 and (apart := _elsewhere(*places[image_key], *places[label_key], tolerance)):
        found.errors.append(Case(index, str(item[label_key]), apart))
    return found


def _chunks(voxels: NiftiVoxels) -> Iterator[np.ndarray]:
    """The values, a few slices at a time."""
    head = voxels.head
    area, depth = math.prod(head.shape[:2]), head.shape[2]
    slices = max(1, _CHUNK // area)
    for start in range(0, depth, slices):
        stored = voxels.read(area * min(slices, depth - start))
        yield stored if (head.slope, head.intercept) == (1.0, 0.0) else stored * head.slope + head.intercept
    voxels.end()


def _lowest(voxels: NiftiVoxels) -> float:
    lowest = np.inf
    bad = 0
    for chunk in _chunks(voxels):
        with np.errstate(over="ignore"):  # networks compute in float32, where larger numbers are none
            values = chunk.astype(np.float32, copy=False) if chunk.dtype.kind == "f" else chunk
        bad += values.size - int(np.isfinite(values).sum())
        lowest = min(lowest, values.min())
    if bad:
        raise _Unfit(f"{bad} voxels are not finite")
    return float(lowest)


def _values(voxels: NiftiVoxels, expected: Sequence[int]) -> set[int]:
    present: set[int] = set()
    others: set[float] = set()
    for chunk in _chunks(voxels):
        known = np.zeros(chunk.shape, dtype=bool)
        for value in expected:
            where = chunk == value
            if where.any():
                present.add(value)
                known |= where
        if len(others) < 5:
            others.update(np.unique(chunk[~known]).tolist())
    if others:
        shown = ", ".join(f"{value:g}" for value in sorted(others)[:5])
        raise _Unfit(f"label values that are not expected: {shown} (expected {', '.join(map(str, expected))})")
    return present


def _elsewhere(
    shape: tuple[int, ...],
    affine: np.ndarray,
    label_shape: tuple[int, ...],
    label_affine: np.ndarray,
    tolerance: float,
) -> str | None:
    if label_shape != shape:
        return f"label is {'x'.join(map(str, label_shape))}, its image is {'x'.join(map(str, shape))}"
    corners = np.array([*itertools.product(*((0, size - 1) for size in shape))])
    apart = apply_affine(affine, corners) - apply_affine(label_affine, corners)
    distance = np.linalg.norm(apart, axis=1).max()
    return f"label lies up to {distance:.3g} mm from its image" if distance > tolerance else None
