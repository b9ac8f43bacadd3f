"""Labels of a stored volume from the network's answer on its own grid: the nearest, or exact where classes meet.

Both fill in what lies in a box of the grid, such as a slab of it; what is background costs no time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from monai_kd.runtime.grids import Grid, bounds
from monai_kd.runtime.resampling import gather

__all__ = ["nearest_labels", "sharp_labels"]

Box = Sequence[slice]
_CHUNK = 1 << 18


def nearest_labels(labels: np.ndarray, grid: Grid, box: Box, found: np.ndarray) -> None:
    """The label of the nearest voxel of the network's grid.

    Args:
        labels: in a box of the grid, uint8, (*box); 0 is background.
        grid: of the network in the stored volume.
        box: of the grid.
        found: labels of the stored volume, uint8; those in the cells of the box, so far 0, are filled in.
    """
    labels = grid.in_stored_order(labels)
    if labels.any():
        cells = grid.cells(box)
        near = bounds(labels)
        inside = _within(cells.nearest, near)
        index = [values[part] - at.start for values, part, at in zip(cells.nearest, inside, near)]
        found[cells.place][inside] = gather(np.asfortranarray(labels[near]), index)  # in the order of what is written


def sharp_labels(
    answer: np.ndarray,
    labels: np.ndarray,
    grid: Grid,
    box: Box,
    decide: Callable[[np.ndarray], np.ndarray],
    found: np.ndarray,
) -> None:
    """What deciding after interpolating the answer of every class to the stored volume gives, without doing so.

    Between eight voxels of one label every mean of their answers has that label too, so the answers are interpolated
    in cells with several labels alone. Memory beside the arguments: what holds the cells' voxels.

    Args:
        answer: of the network in a box of its grid, (classes, *box).
        labels: ``decide(answer)``, uint8, (*box); 0 is background.
        grid: of the network in the stored volume.
        box: of the grid.
        decide: answers (classes, N) to labels (N,), uint8: the largest class, or one class against a threshold.
        found: labels of the stored volume, uint8; those in the cells of the box, so far 0, are filled in.
    """
    labels = grid.in_stored_order(labels)
    if not labels.any():
        return
    # Only the cells that touch what is not background, and the answers at their corners.
    near = tuple(slice(max(part.start - 1, 0), part.stop) for part in bounds(labels))
    corners = grid.in_stored_order(answer)[(slice(None), *(slice(part.start, part.stop + 1) for part in near))]
    flat = np.ascontiguousarray(corners).reshape(len(answer), -1)
    steps = np.cumprod([1, *corners.shape[:1:-1]])[::-1].tolist()

    cells = grid.cells(box)
    inside = _within(cells.low, near)
    low = [index[part] - at.start for index, part, at in zip(cells.low, inside, near)]
    high = [index[part] - at.start for index, part, at in zip(cells.high, inside, near)]
    share = [weight[part] for weight, part in zip(cells.share, inside)]
    target = found[cells.place][inside]
    target[...] = gather(np.asfortranarray(labels[near]), low)  # in the order of what is written
    where = np.nonzero(gather(_several(labels, near), low))
    for begin in range(0, len(where[0]), _CHUNK):
        points = tuple(axis[begin : begin + _CHUNK] for axis in where)
        ends = [
            ((below[at] * step, 1 - weight[at]), (above[at] * step, weight[at]))
            for at, below, above, weight, step in zip(points, low, high, share, steps)
        ]
        values = np.zeros((len(flat), len(points[0])), dtype=np.float32)
        for (i, a), (j, b), (k, c) in product(*ends):
            index, weight = i + j + k, a * b * c
            for value, one in zip(values, flat):
                value += weight * one[index]
        target[points] = decide(values)


def _within(index: Sequence[np.ndarray], box: Box) -> tuple[slice, ...]:
    """Where indices, monotonous along each axis, lie in a box."""
    inside = [np.flatnonzero((values >= part.start) & (values < part.stop)) for values, part in zip(index, box)]
    return tuple(slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 0) for where in inside)


def _several(labels: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    """Whether the cell that begins at each voxel of a box has several labels; the last voxels have no neighbour."""
    least = most = labels[tuple(slice(part.start, part.stop + 1) for part in box)]
    for axis, part in enumerate(box):
        least = np.minimum(*_neighbours(least, axis, part.stop - part.start))
        most = np.maximum(*_neighbours(most, axis, part.stop - part.start))
    return np.asarray(least != most)


def _neighbours(values: np.ndarray, axis: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` along an axis, and the one behind each."""
    after = np.minimum(np.arange(count) + 1, values.shape[axis] - 1)
    return values[(slice(None),) * axis + (slice(count),)], np.take(values, after, axis=axis)
