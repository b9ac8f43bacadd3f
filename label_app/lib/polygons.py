"""Outlines of a mask as polygons."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_fill_holes
from skimage.measure import approximate_polygon, find_contours

__all__ = ["outlines"]


def outlines(mask: np.ndarray, tolerance: float = 0.5, min_area: float = 0.0) -> list[list[list[float]]]:
    """One closed polygon around each part of a mask, the largest first.

    Parts that touch the border of the picture are closed along it. Holes are filled, as a polygon has none.

    Args:
        mask: (height, width), not 0 inside.
        tolerance: in pixels, how far a polygon may be from the pixels' outline; with 0 it holds just the mask's pixels.
        min_area: in pixels; smaller parts are left out.

    Returns:
        Polygons as lists of [x, y], in pixels from the upper left corner of the picture, which is [0, 0]; the centre of
        the first pixel is [0.5, 0.5]. The first point is not repeated.

    Example:
        >>> mask = np.zeros((4, 6))
        >>> mask[0:2, 0:3] = 1
        >>> outlines(mask, tolerance=0)
        [[[2.5, 2.0], [0.5, 2.0], [0.0, 1.5], [0.0, 0.5], [0.5, 0.0], [2.5, 0.0], [3.0, 0.5], [3.0, 1.5]]]
    """
    # What is outside is connected over corners too, here and for find_contours.
    filled = binary_fill_holes(np.asarray(mask) != 0, structure=np.ones((3, 3)))
    found = []
    for contour in find_contours(np.pad(filled, 1).astype(np.float32), 0.5):
        if (area := _area(contour)) < min_area:
            continue
        simple = approximate_polygon(contour, max(tolerance, 1e-6))  # points on a straight line go in any case
        points = simple if len(simple) > 3 else contour  # of a speck nothing would be left
        found.append((area, (points[:-1, ::-1] - 0.5).tolist()))
    return [polygon for _, polygon in sorted(found, key=lambda one: one[0], reverse=True)]


def _area(points: np.ndarray) -> float:
    y, x = points.T
    return float(abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2)
