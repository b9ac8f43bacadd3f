"""Windows over what a look at a coarser grid has found."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from monai_kd.runtime.grids import Grid, bounds
from monai_kd.runtime.windows import Box, window_slices

__all__ = ["windows_over"]


def windows_over(
    foreground: np.ndarray, coarse: Grid, fine: Grid, margin: float, roi_size: Sequence[int], overlap: float = 0.25
) -> list[Box]:
    """A few windows of the fine grid that hold all that was found on the coarse one, and what lies near it.

    Each voxel within ``margin`` of what was found, however small that is and wherever it lies, is in a window. A box
    around all of it is cut in two, and each part again, as long as that saves windows: what lies apart gets windows of
    its own, what lies together shares them. A window has its box in its middle; windows side by side overlap.

    Args:
        foreground: on the coarse grid, not 0 where there is some.
        coarse: that grid.
        fine: the grid of the windows, of the same stored volume.
        margin: in mm, along each axis; what the coarse pass may have missed at the rim.
        roi_size: of a window, voxels of the fine grid.
        overlap: the least share of a window that windows side by side have in common.

    Returns:
        The windows, in order; those of the whole volume where nothing was found, or where as many are needed.

    Raises:
        ValueError: a negative margin.
    """
    if not margin >= 0:
        raise ValueError(f"margin must be 0 or more mm, got {margin}.")
    whole = window_slices(fine.shape, roi_size, overlap)
    if not foreground.any():
        return whole
    cover = _Cover(coarse, fine, margin, roi_size, overlap)
    boxes = cover.best(foreground != 0, np.zeros(3, dtype=int))
    corners = sorted({corner for box in boxes for corner in cover.windows(box)})
    if len(corners) >= len(whole):
        return whole
    return [tuple(slice(start, start + size) for start, size in zip(corner, roi_size)) for corner in corners]


_Boxes = tuple[np.ndarray, np.ndarray]  # their first and last voxels, (..., 3)


class _Cover:
    """Boxes of the coarse grid, and windows of the fine one that hold them with the margin."""

    def __init__(self, coarse: Grid, fine: Grid, margin: float, roi: Sequence[int], overlap: float) -> None:
        self.full, self.roi = np.asarray(fine.shape), np.asarray(roi)
        self.step = np.maximum((self.roi * (1 - overlap)).astype(int), 1)
        self.ratio = np.divide(coarse.spacing, fine.spacing)
        self.first = coarse.first_voxel_on(fine)
        self.reach = np.divide(margin, fine.spacing) + self.ratio / 2  # a coarse voxel reaches to half way to the next

    def best(self, mask: np.ndarray, corner: np.ndarray) -> list[_Boxes]:
        """The boxes around what is in a mask, which begins at that voxel of the grid, that take fewest windows."""
        tight = bounds(mask)
        mask, corner = mask[tight], corner + [part.start for part in tight]
        box = corner, corner + mask.shape - 1
        count = int(self.count(box))
        if count == 1 or mask.size == 1:
            return [box]
        fewest, axis, cut = min(self.cut(mask, corner, axis) for axis in range(3) if mask.shape[axis] > 1)
        if fewest[0] > count:
            return [box]
        after = np.where(np.arange(3) == axis, cut, 0)
        before, behind = np.split(mask, [cut], axis=axis)
        parts = self.best(before, corner) + self.best(behind, corner + after)
        return parts if sum(int(self.count(part)) for part in parts) < count else [box]

    def cut(self, mask: np.ndarray, corner: np.ndarray, axis: int) -> tuple[tuple[int, int], int, int]:
        """The best cut of a mask across an axis: the windows and the size of both parts' boxes, the axis, and where."""
        ends = [_ends(mask, axis, other) for other in range(3)]
        first, last = (np.stack(one, axis=-1) for one in zip(*ends))
        counts, sizes = np.zeros((2, len(first) - 1), dtype=int)
        for low, high in (
            (np.minimum.accumulate(first)[:-1], np.maximum.accumulate(last)[:-1]),
            (np.minimum.accumulate(first[::-1])[-2::-1], np.maximum.accumulate(last[::-1])[-2::-1]),
        ):
            counts += self.count((low + corner, high + corner))
            sizes += (high + 1 - low).prod(axis=-1)
        at = int(np.lexsort((sizes, counts))[0])
        return (int(counts[at]), int(sizes[at])), axis, at + 1

    def count(self, boxes: _Boxes) -> np.ndarray:
        """Windows over each box."""
        low, high = self.extent(boxes)
        more = np.maximum(high + 1 - low - self.roi, 0)
        return np.asarray((-(-more // self.step) + 1).prod(axis=-1))

    def extent(self, boxes: _Boxes) -> _Boxes:
        """The boxes of the fine grid within the margin."""
        low = np.ceil(self.first + self.ratio * boxes[0] - self.reach).astype(int)
        high = np.floor(self.first + self.ratio * boxes[1] + self.reach).astype(int)
        return np.clip(low, 0, self.full - 1), np.clip(high, 0, self.full - 1)

    def windows(self, box: _Boxes) -> list[tuple[int, ...]]:
        """Where the windows over a box begin."""
        starts = []
        for low, high, size, step, full in zip(*self.extent(box), self.roi, self.step, self.full):
            more = max(high + 1 - low - size, 0)
            if full <= size:
                starts.append([-int((size - full) // 2)])
            elif more == 0:
                middle = (low + high + 1 - size) // 2
                starts.append([int(np.clip(middle, 0, full - size))])
            else:
                starts.append(np.linspace(low, high + 1 - size, -(-more // step) + 1).round().astype(int).tolist())
        return list(product(*starts))


def _ends(mask: np.ndarray, axis: int, other: int) -> tuple[np.ndarray, np.ndarray]:
    """In each slice of a mask across an axis, the first and last place along ``other`` with something in it.

    Where a slice is empty, the first lies behind the last.
    """
    if other == axis:
        full = np.asarray(mask.any(axis=tuple(one for one in range(3) if one != axis)))
        places = np.arange(len(full))
        return np.where(full, places, len(full)), np.where(full, places, -1)
    plane = np.asarray(mask.any(axis=3 - axis - other))
    plane = plane if axis < other else plane.T
    full, length = np.asarray(plane.any(axis=1)), plane.shape[1]
    return np.where(full, plane.argmax(axis=1), length), np.where(full, length - 1 - plane[:, ::-1].argmax(axis=1), -1)
