"""A picture at another size, with the values of ``torch.nn.functional.interpolate``."""

from __future__ import annotations

import numpy as np

__all__ = ["resize_area", "resize_bilinear"]


def resize_bilinear(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``picture`` (H, W, C) at ``size``, float32: bilinear, ``align_corners=False``, without antialiasing.

    Example:
        >>> resize_bilinear(np.array([[[0], [4]]]), (1, 4)).ravel()
        array([0., 1., 3., 4.], dtype=float32)
    """
    rows, columns = (_between(new, old) for new, old in zip(size, picture.shape))
    if size[0] <= picture.shape[0]:
        return _blend(_blend(picture, rows, 0), columns, 1)
    return _blend(_blend(picture, columns, 1), rows, 0)


def resize_area(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``picture`` (H, W, C) at ``size``, float32: the mean of the pixels that each new one touches.

    Example:
        >>> resize_area(np.array([[[0], [4], [5], [6]]]), (1, 2)).ravel()
        array([2. , 5.5], dtype=float32)
    """
    sums = _sums(_sums(picture, size[0], 0), size[1], 1)
    counts = np.multiply.outer(*(np.subtract(*_touched(new, old)[::-1]) for new, old in zip(size, picture.shape)))
    return np.asarray(sums / counts[..., None], dtype=np.float32)


def _between(new: int, old: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # In float32, as torch computes it: values differ by up to 1e-2 of 255 otherwise.
    place = np.float32(old / new) * (np.arange(new, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    place = np.maximum(place, 0)
    low = np.minimum(place.astype(np.intp), old - 1)
    return low, np.minimum(low + 1, old - 1), np.clip(place - low.astype(np.float32), 0, 1)


def _blend(picture: np.ndarray, weights: tuple[np.ndarray, np.ndarray, np.ndarray], axis: int) -> np.ndarray:
    low, high, share = weights
    share = share[:, None, None] if axis == 0 else share[:, None]
    below = np.take(picture, low, axis=axis).astype(np.float32, copy=False)
    above = np.take(picture, high, axis=axis).astype(np.float32, copy=False)
    above -= below
    above *= share
    above += below
    return above


def _touched(new: int, old: int) -> tuple[np.ndarray, np.ndarray]:
    """The first pixel that each new one touches, and the one after the last."""
    places = np.arange(new)
    return places * old // new, -((places + 1) * -old // new)


def _sums(picture: np.ndarray, new: int, axis: int) -> np.ndarray:
    """The sums of what each new pixel touches along an axis, of integers exact."""
    first, end = _touched(new, picture.shape[axis])
    total: np.ndarray = np.take(picture, first, axis=axis).astype(_exact(picture, int((end - first).max())))
    for further in range(1, int((end - first).max())):
        where = np.flatnonzero(end - first > further)
        part = slice(None) if len(where) == new else where  # a view costs less than a choice
        total[(slice(None),) * axis + (part,)] += np.take(picture, (first + further)[where], axis=axis)
    return total


def _exact(picture: np.ndarray, count: int) -> type[np.generic]:
    """A type that holds the sum of ``count`` of its values."""
    if picture.dtype == np.uint8 and count < 1 << 23:
        return np.int32
    return np.int64 if picture.dtype.kind in "iu" else np.float64
