"""The grid a network sees, and where it lies in a stored volume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from monai_kd.runtime.resampling import between, nearest, resample_linear

__all__ = ["Cells", "Grid", "make_grid"]

# Sizes in mm below which MONAI takes two spacings, or two grids, for one.
_SAME = 1e-3
# A grid whose axes are not at right angles is one of its own; rounded affines differ by less than this, in voxels.
_SHEAR = 0.05
_MOST = 1 << 32  # voxels of a grid


@dataclass(frozen=True)
class Cells:
    """Stored voxels in a box of a network's grid; all indices are into the box, one array an axis of the volume.

    Attributes:
        place: of the voxels in the stored volume.
        low, high: the grid's voxels below and above each.
        share: of the one above in what lies between both, float32.
        nearest: the nearest voxel of the grid.
    """

    place: tuple[slice, ...]
    low: tuple[np.ndarray, ...]
    high: tuple[np.ndarray, ...]
    share: tuple[np.ndarray, ...]
    nearest: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Grid:
    """A network's grid in a stored volume. Its axes are those of the volume, in another order or direction.

    Attributes:
        stored_shape: of the volume.
        shape: of the network's grid.
        spacing: of the network's grid, mm, one an axis.
        order: the volume's axis of each axis of the grid.
        positions: of the grid's voxels in the volume, one array an axis of the volume.
        back: of the volume's voxels in the grid, one array an axis of the volume.
    """

    stored_shape: tuple[int, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    order: tuple[int, ...]
    positions: tuple[np.ndarray, ...]
    back: tuple[np.ndarray, ...]

    def from_stored(self, stored: np.ndarray, box: Sequence[slice] | None = None) -> np.ndarray:
        """A stored volume on the network's grid, or in a box of that, linear, float32."""
        if box is None:
            return resample_linear(stored, self.positions).transpose(self.order)
        positions, around = list(self.positions), [slice(0)] * 3
        for axis, part in zip(self.order, box):
            low, high, _ = between(self.positions[axis][part], self.stored_shape[axis])
            around[axis] = slice(int(low.min()), int(high.max()) + 1)
            positions[axis] = self.positions[axis][part] - around[axis].start
        return resample_linear(stored[tuple(around)], positions).transpose(self.order)

    def cells(self, box: Sequence[slice]) -> Cells:
        """The stored voxels in the cells of a box of the grid.

        A cell reaches from one voxel of the grid up to the next. The last voxels of the box begin none that is its own;
        only at the end of the grid all that lies beyond is theirs.
        """
        place = [slice(0)] * 3
        low, high, share, near = (list(self.back) for _ in range(4))
        for axis, part, size in zip(self.order, box, self.shape):
            below, above, weight = between(self.back[axis], size)
            inside = np.flatnonzero((below >= part.start) & ((below < part.stop - 1) | (part.stop == size)))
            place[axis] = here = slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)
            low[axis], high[axis], share[axis] = below[here] - part.start, above[here] - part.start, weight[here]
            near[axis] = nearest(self.back[axis], size)[here] - part.start
        return Cells(tuple(place), tuple(low), tuple(high), tuple(share), tuple(near))

    def first_voxel_on(self, other: Grid) -> np.ndarray:
        """Where this grid's first voxel lies on another grid of the same stored volume, with the same axes."""
        places = []
        for stored in self.order:
            step = np.divide(other.back[stored][-1] - other.back[stored][0], max(self.stored_shape[stored] - 1, 1))
            places.append(other.back[stored][0] + step * self.positions[stored][0])
        return np.array(places)

    def in_stored_order(self, volume: np.ndarray) -> np.ndarray:
        """A view of (..., *shape) on the network's grid, with its axes in the order of the stored volume's."""
        before = volume.ndim - len(self.order)
        return volume.transpose(*range(before), *(before + np.argsort(self.order)))


def make_grid(
    shape: Sequence[int], affine: np.ndarray, orientation: str | None, spacing: Sequence[float] | None
) -> Grid:
    """The grid that MONAI's ``Orientation`` and ``Spacing`` (``align_corners=False``) give a stored volume.

    Args:
        shape: of the stored volume, three numbers.
        affine: of the stored volume, 4 x 4, to mm in RAS.
        orientation: to where the grid's axes lead, such as "RAS"; ``None`` keeps the volume's.
        spacing: in mm, in the order of the grid's axes; a number not above 0 keeps the volume's, ``None`` keeps all.

    Raises:
        ValueError: the affine is no affine of three axes at right angles, or the grid would have too many voxels.

    Example:
        >>> grid = make_grid((4, 8, 2), np.diag([-1.0, 1.0, 5.0, 1.0]), "RAS", (2.0, 2.0, 2.5))
        >>> grid.shape, grid.positions[0].tolist(), grid.positions[2].tolist()
        ((2, 4, 3), [3.0, 1.0], [0.0, 0.5, 1.0])
    """
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError(f"the volume's affine cannot be inverted: {affine.tolist()}; correct its header.")
    turn = np.stack([np.arange(3.0), np.ones(3)], axis=1)
    if orientation is not None:
        turn = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(orientation)))
    order = np.argsort(turn[:, 0]).astype(int)  # the stored axis of each of the grid's
    flipped = turn[order, 1] < 0
    source = affine @ inv_ornt_aff(turn, tuple(shape))
    size = np.asarray(shape)[order]
    target, new_size = _resampled(source, size, spacing)
    if (voxels := math.prod(new_size.tolist())) > _MOST or min(new_size) < 1:
        raise ValueError(
            f"the volume would have {voxels:.3g} voxels at the network's spacing, the most are {_MOST:.3g}; is its own "
            "spacing right?"
        )
    forth, back = np.linalg.solve(source, target), np.linalg.solve(target, source)
    for matrix, reach in ((forth, new_size), (back, size)):
        away = np.abs(matrix[:3, :3] - np.diag(np.diag(matrix)[:3])) @ reach
        if away.max() > _SHEAR:
            raise ValueError(
                f"the volume's axes are not at right angles (gantry tilt?), affine {affine.tolist()}; resample it to "
                "such axes, or use the bundle's inference.json."
            )
    positions: list[np.ndarray] = [np.empty(0)] * 3
    returns: list[np.ndarray] = [np.empty(0)] * 3
    for axis, stored in enumerate(order):
        where = forth[axis, axis] * np.arange(new_size[axis]) + forth[axis, 3]
        there = np.arange(size[axis])
        if flipped[axis]:
            where, there = size[axis] - 1 - where, there[::-1]
        positions[stored] = where
        returns[stored] = back[axis, axis] * there + back[axis, 3]
    return Grid(
        stored_shape=tuple(int(n) for n in shape),
        shape=tuple(int(n) for n in new_size),
        spacing=tuple(float(mm) for mm in np.linalg.norm(target[:3, :3], axis=0)),
        order=tuple(int(n) for n in order),
        positions=tuple(positions),
        back=tuple(returns),
    )


def bounds(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around what is not 0 in ``mask``, which must not be empty."""
    box = []
    for axis in range(mask.ndim):
        where = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(box)


def _resampled(affine: np.ndarray, size: np.ndarray, spacing: Sequence[float] | None) -> tuple[np.ndarray, np.ndarray]:
    """Affine and size of the grid with that spacing over the same field of view, from the first voxel on."""
    if spacing is None:
        return affine, size
    own = np.linalg.norm(affine[:3, :3], axis=0)
    asked = np.asarray(spacing, dtype=np.float64)
    steps = np.where((asked <= 0) | (np.abs(asked - own) <= _SAME), own, asked)
    stretch = np.linalg.cholesky(affine[:3, :3].T @ affine[:3, :3]).T
    target = np.eye(4)
    target[:3, :3] = affine[:3, :3] @ np.linalg.inv(stretch) @ np.diag(steps)

    corners = np.array(np.meshgrid(*[(0.0, n - 1.0) for n in size], indexing="ij")).reshape(3, -1)
    corners = np.concatenate([corners, np.ones((1, corners.shape[1]))])
    seen = (np.linalg.solve(target, affine) @ corners)[:3]
    new_size = np.round(np.ptp(seen, axis=1) + 1.0).astype(int)
    # MONAI begins at the corner from which no other lies behind; where rounding lets none be found, as in oblique
    # volumes, it aligns the middles.
    first = next((i for i in range(8) if np.allclose((seen - seen[:, i : i + 1]).min(axis=1), 0, rtol=_SAME)), None)
    if first is None:
        target[:3, 3] = affine[:3, :3] @ (size / 2) + affine[:3, 3] - target[:3, :3] @ (new_size / 2)
    else:
        target[:3, 3] = (affine @ corners)[:3, first]
    same = (new_size == size).all() and (
        np.allclose(affine, target, atol=_SAME) or np.allclose(np.linalg.solve(affine, target), np.eye(4), atol=_SAME)
    )
    return (affine, size) if same else (target, new_size)
