"""Linear interpolation of a volume, axis by axis, and the nearest voxels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

__all__ = ["resample_linear"]

_Weights = tuple[np.ndarray, np.ndarray, np.ndarray]


def resample_linear(volume: np.ndarray, positions: Sequence[np.ndarray]) -> np.ndarray:
    """``volume`` where three axes of positions cross, linearly between its voxels and constant beyond its border.

    What ``torch.nn.functional.grid_sample`` gives on such a grid with border padding, without the grid: one axis after
    the other, plane by plane, so that nothing of the volume's size is made but the result.

    Args:
        volume: any real type, shape (d0, d1, d2).
        positions: of the result's voxels in units of the volume's, one array an axis.

    Returns:
        float32; its axes lie in memory in the order of the volume's.

    Example:
        >>> volume = np.arange(3, dtype=np.int16).reshape(3, 1, 1)
        >>> resample_linear(volume, [np.array([-1.0, 0.25, 1.5]), np.zeros(1), np.zeros(2)])[:, 0, 1]
        array([0.  , 0.25, 1.5 ], dtype=float32)
    """
    if abs(volume.strides[0]) < abs(volume.strides[2]):  # as NIfTI has it: the first axis changes fastest
        return resample_linear(volume.T, positions[::-1]).T
    low, high, share = between(positions[0], volume.shape[0])
    middle, last = (between(position, size) for position, size in zip(positions[1:], volume.shape[1:]))

    @lru_cache(maxsize=2)
    def plane(index: int) -> np.ndarray:
        return _blend(_blend(volume[index], middle, 0), last, 1)

    result = np.empty([len(position) for position in positions], dtype=np.float32)
    for out, a, b, weight in zip(result, low.tolist(), high.tolist(), share.tolist()):
        if weight == 0:
            out[:] = plane(a)
        else:
            np.subtract(plane(b), plane(a), out=out)
            out *= np.float32(weight)
            out += plane(a)
    return result


def between(position: np.ndarray, size: int) -> _Weights:
    """The voxels below and above each position, and the share of the one above, float32."""
    position = np.clip(position, 0, size - 1)
    low = np.floor(position).astype(np.intp)
    return low, np.minimum(low + 1, size - 1), (position - low).astype(np.float32)


def nearest(position: np.ndarray, size: int) -> np.ndarray:
    """The voxel nearest to each position; halves go to the even neighbour, as in ``grid_sample``."""
    return np.clip(np.rint(position), 0, size - 1).astype(np.intp)


def gather(volume: np.ndarray, index: Sequence[np.ndarray]) -> np.ndarray:
    """``volume[np.ix_(*index)]``, sooner: the axis that changes fastest while the others are shortest."""
    if abs(volume.strides[0]) < abs(volume.strides[2]):
        return gather(volume.T, index[::-1]).T
    for axis in (2, 1, 0):
        volume = np.take(volume, index[axis], axis=axis)
    return volume


def _blend(plane: np.ndarray, weights: _Weights, axis: int) -> np.ndarray:
    low, high, share = weights
    if not share.any():
        whole = len(low) == plane.shape[axis] and bool((low == np.arange(len(low))).all())
        return np.asarray(plane if whole else np.take(plane, low, axis=axis), dtype=np.float32)
    below = np.take(plane, low, axis=axis).astype(np.float32, copy=False)
    result = np.take(plane, high, axis=axis).astype(np.float32, copy=False)
    result -= below
    result *= share[:, None] if axis == 0 else share
    result += below
    return result
