"""Which windows of a volume are worth a look, from a look at a coarser grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from monai_kd.runtime.grids import Grid
from monai_kd.runtime.windows import Box

__all__ = ["windows_near"]


def windows_near(foreground: np.ndarray, coarse: Grid, fine: Grid, margin: float) -> Callable[[Box], bool] | None:
    """Which windows of the fine grid to keep: all that come within ``margin`` of what was found on the coarse one.

    Everything that was found, however small and wherever it lies, is kept: each voxel within the margin is seen by
    every window that a pass over the whole volume would show it to, so its answer is the same.

    Args:
        foreground: on the coarse grid, not 0 where there is some.
        coarse: that grid.
        fine: the grid of the windows, of the same stored volume.
        margin: in mm, along each axis; what the coarse pass may have missed at the rim.

    Returns:
        A function of a window, or ``None`` if there is no foreground: then the whole volume is to be looked at.

    Raises:
        ValueError: a negative margin.
    """
    if not margin >= 0:
        raise ValueError(f"margin must be 0 or more mm, got {margin}.")
    if not foreground.any():
        return None
    near = foreground != 0
    for axis, mm in enumerate(coarse.spacing):
        near = _spread(near, int(np.ceil(margin / mm)) + 1, axis)  # one more: half a voxel of each grid, rounded up
    # Where the fine voxels lie on the coarse grid; the axes of both are in one order.
    places = []
    for stored, size in zip(fine.order, coarse.shape):
        place = np.interp(fine.positions[stored], np.arange(fine.stored_shape[stored]), coarse.back[stored])
        places.append(np.clip(place, 0, size - 1))

    def keep(box: Box) -> bool:
        part = []
        for place, window in zip(places, box):
            seen = place[max(window.start, 0) : window.stop]
            part.append(slice(int(np.floor(seen.min())), int(np.ceil(seen.max())) + 1))
        return bool(near[tuple(part)].any())

    return keep


def _spread(mask: np.ndarray, reach: int, axis: int) -> np.ndarray:
    """``mask`` and its neighbours up to ``reach`` voxels away along an axis."""
    mask = np.moveaxis(mask, axis, 0)
    found = mask.copy()
    for step in range(1, min(reach, len(mask) - 1) + 1):
        found[step:] |= mask[:-step]
        found[:-step] |= mask[step:]
    return np.moveaxis(found, 0, axis)
