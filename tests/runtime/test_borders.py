"""Labels are those of the answer interpolated to the volume, class by class."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from monai_kd.runtime import borders
from monai_kd.runtime.borders import sharp_labels
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


@pytest.mark.parametrize("spacing", [(1.6, 1.6, 1.6), (0.5, 0.9, 4.0), None])
@pytest.mark.parametrize(("classes", "decide"), [(4, largest), (1, positive)])
def test_equals_the_slow_way(spacing, classes, decide, monkeypatch):
    monkeypatch.setattr(borders, "_CHUNK", 1000)
    grid = make_grid((14, 20, 22), AFFINE, "RAS", spacing)
    logits = answer(classes, grid.shape)
    slow = decide(np.stack([resample_linear(grid.in_stored_order(one), grid.back) for one in logits]))
    fast = sharp_labels(logits, decide(logits), grid, decide)
    assert fast.dtype == np.uint8
    assert (fast != slow).mean() <= 1e-4  # where two classes are equal to rounding
    assert len(np.unique(fast)) > 1


def test_background_alone():
    grid = make_grid((14, 20, 22), AFFINE, "RAS", (2.0, 2.0, 2.0))
    logits = np.zeros((2, *grid.shape), np.float32)
    assert not sharp_labels(logits, largest(logits), grid, largest).any()
