"""Planes of a volume, as they are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_kd.report.picture_files import Mask, Picture

__all__ = ["box_of", "largest_error", "plane_of", "square", "window"]


def largest_error(shape: Sequence[int], truth: Mask | None, masks: Sequence[Mask]) -> tuple[int, ...]:
    """A voxel in the middle of the largest connected error of all networks; of the truth where there is none."""
    wrong = np.zeros(shape, bool)
    for mask in masks:
        wrong |= mask != (truth if truth is not None else masks[0])
    if not wrong.any():
        wrong = next((mask > 0 for mask in (truth, *masks) if mask is not None and mask.any()), wrong)
    parts, count = ndimage.label(wrong)
    if count == 0:
        return tuple(length // 2 for length in shape)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    voxels = np.argwhere(parts == largest)
    nearest = voxels[np.argmin(np.square(voxels - voxels.mean(axis=0)).sum(axis=1))]
    return tuple(int(place) for place in nearest)


def box_of(masks: Sequence[Mask], axis: int, shape: Sequence[int], spacing: Sequence[float]) -> tuple[slice, slice]:
    """Where the masks are, seen along an axis, with some of what is around; all of it without masks."""
    kept = [a for a in range(3) if a != axis]
    seen = np.zeros([shape[a] for a in kept], bool)
    for mask in masks:
        seen |= (mask > 0).any(axis=axis)
    if not seen.any():
        return slice(None), slice(None)
    sides = []
    for place, a in enumerate(kept):
        used = np.flatnonzero(seen.any(axis=1 - place))
        margin = max(round(0.35 * (used[-1] - used[0] + 1)), round(20 / spacing[a]))
        sides.append(slice(max(0, int(used[0]) - margin), int(used[-1]) + 1 + margin))
    return sides[0], sides[1]


def plane_of(values: NDArray[Any], axis: int, place: int, box: tuple[slice, slice]) -> NDArray[Any]:
    """A plane as it is looked at: the patient's right on the left, top or front upwards."""
    return np.take(values, place, axis=axis)[box].T[::-1, ::-1]


def square(plane: NDArray[Any], axis: int, spacing: Sequence[float]) -> NDArray[Any]:
    """Square pixels of the smallest step, the same in all planes."""
    across, up = (spacing[a] for a in range(3) if a != axis)
    step = min(spacing)
    rows = np.floor(np.arange(round(plane.shape[0] * up / step)) * step / up).astype(int)
    columns = np.floor(np.arange(round(plane.shape[1] * across / step)) * step / across).astype(int)
    return plane[rows.clip(0, plane.shape[0] - 1)][:, columns.clip(0, plane.shape[1] - 1)]


def window(volume: NDArray[np.float32]) -> Picture:
    """Grey levels, brightest and darkest percent cut off; the most frequent darkest value, air, does not count."""
    inside = volume[np.isfinite(volume) & (volume > volume.min())]
    if inside.size == 0:
        return np.zeros(volume.shape, np.uint8)
    low, high = np.percentile(inside, [1, 99.5])
    scaled = (np.nan_to_num(volume) - low) / max(float(high - low), 1e-6)
    return np.round(255 * scaled.clip(0, 1)).astype(np.uint8)
