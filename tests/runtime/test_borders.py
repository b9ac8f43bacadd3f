"""Labels are those of the answer interpolated to the volume, class by class."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from monai_kd.runtime import borders
from monai_kd.runtime.borders import nearest_labels, sharp_labels
from monai_kd.runtime.grids import make_grid
from monai_kd.runtime.resampling import resample_linear

AFFINE = np.array([[0, 0, -0.7, 5], [0, -0.8, 0, 6], [-2.5, 0, 0, 7], [0, 0, 0, 1]])


def answer(classes, shape, sigma=1.5):
    noise = np.random.default_rng(0).standard_normal((classes, *shape))
    return np.stack([gaussian_filter(one, sigma) for one in noise]).astype(np.float32)


def largest(values):
    return values.argmax(axis=0).astype(np.uint8)


def positive(values):
    return (values[0] >= 0).astype(np.uint8)


def whole(grid):
    return [slice(0, size) for size in grid.shape]


def slabs(grid, axis):
    """Boxes that lie one behind the other, each with the last slice of the one before."""
    ends = [0, 1, 2, 7, 8, grid.shape[axis]]
    for start, stop in pairwise(ends):
        box = whole(grid)
        box[axis] = slice(max(start - 1, 0), stop)
        yield tuple(box)


def sharp(logits, grid, decide, boxes):
    found = np.zeros(grid.stored_shape, np.uint8, order="F")
    for box in boxes:
        part = logits[(slice(None), *box)]
        sharp_labels(part, decide(part), grid, box, decide, found)
    return found


@pytest.mark.parametrize("spacing", [(1.6, 1.6, 1.6), (0.5, 0.9, 4.0), None])
@pytest.mark.parametrize(("classes", "decide"), [(4, largest), (1, positive)])
def test_equals_the_slow_way(spacing, classes, decide, monkeypatch):
    monkeypatch.setattr(borders, "_CHUNK", 1000)
    grid = make_grid((14, 20, 22), AFFINE, "RAS", spacing)
    logits = answer(classes, grid.shape)
    slow = decide(np.stack([resample_linear(grid.in_stored_order(one), grid.back) for one in logits]))
    fast = sharp(logits, grid, decide, [whole(grid)])
    assert (fast != slow).mean() <= 1e-4  # where two classes are equal to rounding
    assert len(np.unique(fast)) > 1


# With a spacing that is a simple fraction of another, many voxels lie on the slabs' ends and midway between two.
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing", [(1.6, 1.6, 1.6), (1.25, 1.4, 1.6), (0.5, 0.9, 4.0), None])
def test_slabs_make_no_difference(spacing, axis):
    grid = make_grid((14, 20, 22), AFFINE, "RAS", spacing)
    logits = answer(4, grid.shape)
    expected = sharp(logits, grid, largest, [whole(grid)])
    np.testing.assert_array_equal(sharp(logits, grid, largest, slabs(grid, axis)), expected)

    labels, near, once = largest(logits), np.zeros_like(expected), np.zeros_like(expected)
    for box in slabs(grid, axis):
        nearest_labels(labels[box], grid, box, near)
    nearest_labels(labels, grid, whole(grid), once)
    np.testing.assert_array_equal(near, once)
    assert (near != expected).any() == (spacing is not None)


def test_background_alone():
    grid = make_grid((14, 20, 22), AFFINE, "RAS", (2.0, 2.0, 2.0))
    assert not sharp(np.zeros((2, *grid.shape), np.float32), grid, largest, [whole(grid)]).any()
