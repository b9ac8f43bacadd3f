"""Labels of a stored volume from the network's answer on its own grid, exact where classes meet."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from monai_kd.runtime.grids import Grid, bounds
from monai_kd.runtime.resampling import between, gather

__all__ = ["sharp_labels"]

_CHUNK = 1 << 18


def sharp_labels(
    answer: np.ndarray, labels: np.ndarray, grid: Grid, decide: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """What deciding after interpolating the answer of every class to the stored volume gives, without doing so.

    Between eight voxels of one label every mean of their answers has that label too, so the answers are interpolated
    in cells with several labels alone. Memory beside the arguments and the result: what holds the cells' voxels.

    Args:
        answer: of the network, on its grid, (classes, *grid.shape).
        labels: ``decide(answer)``, uint8, grid.shape; 0 is background.
        grid: of the network in the stored volume.
        decide: answers (classes, N) to labels (N,), uint8: the largest class, or one class against a threshold.

    Returns:
        Labels of the stored volume, uint8.
    """
    labels = grid.in_stored_order(labels)
    found = np.zeros(grid.stored_shape, dtype=np.uint8, order="F")
    if not labels.any():
        return found
    # Only the cells that touch what is not background.
    near = tuple(slice(max(part.start - 1, 0), part.stop) for part in bounds(labels))
    cells = [between(position, size) for position, size in zip(grid.back, labels.shape)]
    box = grid.stored_box([low for low, _, _ in cells], near)
    low = [cell[0][part] - around.start for cell, part, around in zip(cells, box, near)]
    found[box] = gather(labels[near], low)
    several = _several(labels, near)

    flat = np.ascontiguousarray(answer).reshape(len(answer), -1)
    strides = np.cumprod([1, *answer.shape[:1:-1]])[::-1]
    steps = strides[np.argsort(grid.order)].tolist()
    inside = found[box]
    where = np.nonzero(gather(several, low))
    for begin in range(0, len(where[0]), _CHUNK):
        points = tuple(axis[begin : begin + _CHUNK] for axis in where)
        corners = []
        for point, (below, above, share), part, step in zip(points, cells, box, steps):
            at = point + part.start
            corners.append(((below[at] * step, 1 - share[at]), (above[at] * step, share[at])))
        values = np.zeros((len(flat), len(points[0])), dtype=np.float32)
        for (i, a), (j, b), (k, c) in product(*corners):
            index, weight = i + j + k, a * b * c
            for value, one in zip(values, flat):
                value += weight * one[index]
        inside[points] = decide(values)
    return found


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
