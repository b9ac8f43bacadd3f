"""Outlines of masks, as the app for pictures gives them."""

from __future__ import annotations

import doctest
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes
from skimage.draw import polygon2mask

_spec = spec_from_file_location("polygons", Path(__file__).parents[2] / "label_app" / "lib" / "polygons.py")
polygons = module_from_spec(_spec)
_spec.loader.exec_module(polygons)

HEIGHT, WIDTH = 60, 90
y, x = np.mgrid[:HEIGHT, :WIDTH]
MASKS = {
    "disc": (y - 30) ** 2 + (x - 40) ** 2 < 20**2,
    "corner": y**2 + x**2 < 30**2,
    "other corner": (y - HEIGHT + 1) ** 2 + (x - WIDTH + 1) ** 2 < 30**2,
    "band": abs(y - 30) < 10,
    "whole": np.ones((HEIGHT, WIDTH), dtype=bool),
    "pixel": (y == 3) & (x == 7),
    "pixels that touch at a corner": ((y == 3) & (x == 7)) | ((y == 4) & (x == 8)),
    "two": ((y - 15) ** 2 + (x - 15) ** 2 < 10**2) | ((y - 40) ** 2 + (x - 60) ** 2 < 15**2),
    "nothing": np.zeros((HEIGHT, WIDTH), dtype=bool),
    "noise": np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.4,
}


def drawn(outlines):
    """The pixels whose centre lies in a polygon."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for points in outlines:
        mask |= polygon2mask(mask.shape, np.array(points)[:, ::-1] - 0.5)
    return mask


@pytest.mark.parametrize("name", MASKS)
def test_polygons_hold_the_pixels_of_the_mask(name):
    """All and no others, but for holes."""
    expected = binary_fill_holes(MASKS[name], structure=np.ones((3, 3)))
    assert np.array_equal(drawn(polygons.outlines(MASKS[name], tolerance=0)), expected)


@pytest.mark.parametrize("name", ["disc", "corner", "other corner", "band", "whole", "two"])
def test_few_points_are_near_enough(name):
    exact, simple = polygons.outlines(MASKS[name], tolerance=0), polygons.outlines(MASKS[name])
    assert [len(points) for points in simple] <= [len(points) for points in exact]
    both, either = drawn(simple) & MASKS[name], drawn(simple) | MASKS[name]
    assert both.sum() > 0.98 * either.sum()


@pytest.mark.parametrize("name", MASKS)
def test_points_lie_in_the_picture(name):
    for points in polygons.outlines(MASKS[name]):
        assert len(points) >= 3
        assert np.min(points) >= 0
        assert (np.max(points, axis=0) <= [WIDTH, HEIGHT]).all()


def test_a_hole_is_filled():
    ring = MASKS["disc"] & ((y - 30) ** 2 + (x - 40) ** 2 > 10**2)
    assert polygons.outlines(ring) == polygons.outlines(MASKS["disc"])


def test_the_largest_comes_first_and_small_ones_can_be_left_out():
    large, small = polygons.outlines(MASKS["two"])
    assert np.ptp(large, axis=0).min() > np.ptp(small, axis=0).max()
    assert polygons.outlines(MASKS["two"], min_area=400) == [large]


def test_example():
    assert doctest.testmod(polygons).failed == 0
