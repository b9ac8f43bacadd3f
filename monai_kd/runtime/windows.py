"""A volume through a network in overlapping windows, as MONAI's ``SlidingWindowInferer`` does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product

import numpy as np

__all__ = ["importance", "sliding_window", "window_slices"]

Box = tuple[slice, ...]
_SIGMA = 0.125  # of the window's size, MONAI's default


def sliding_window(
    volume: np.ndarray,
    network: Callable[[np.ndarray], np.ndarray],
    roi_size: Sequence[int],
    overlap: float | Sequence[float] = 0.25,
    mode: str = "gaussian",
    pad_value: float = 0.0,
    keep: Callable[[Box], bool] | None = None,
    watch: Callable[[list[Box]], Iterable[Box]] = iter,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The network's answer for a whole volume: windows at MONAI's positions, averaged with MONAI's weights.

    Memory beside the volume: ``classes + 1`` float32 numbers a voxel of the volume, and one window.

    Args:
        volume: float32, (C, *spatial); padded on all sides where it is smaller than a window.
        network: maps (1, C, *roi_size) to (1, classes, *roi_size), float32.
        roi_size: of a window; a number not above 0 means the volume's size along that axis.
        overlap: share of a window, from 0 to below 1, for all axes or for each.
        mode: "gaussian" (the middle of a window counts more) or "constant".
        pad_value: what the volume is padded with.
        keep: windows (slices into the volume, which may begin before it) for which it is false are left out.
        watch: sees the windows and gives them back one by one, such as a progress bar.

    Returns:
        The answer (classes, *spatial), and which voxels (*spatial) a window has seen, ``None`` if all. Where none has,
        the answer is 0.

    Raises:
        ValueError: window, overlap or mode is none.

    Example:
        >>> volume = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
        >>> answer, _ = sliding_window(volume, lambda window: 2 * window, (4, 4, 4))
        >>> bool(np.allclose(answer, 2 * volume))
        True
    """
    spatial = volume.shape[1:]
    if len(roi_size) != len(spatial):
        raise ValueError(f"roi_size must have {len(spatial)} numbers, one an axis, got {tuple(roi_size)}.")
    roi = tuple(int(size) if size > 0 else full for size, full in zip(roi_size, spatial))
    before = [max(size - full, 0) // 2 for size, full in zip(roi, spatial)]
    weights = importance(roi, mode)
    boxes = window_slices(spatial, roi, overlap)
    chosen = boxes if keep is None else [box for box in boxes if keep(box)]

    total: np.ndarray | None = None
    count = np.zeros(spatial, dtype=np.float32)
    for box in watch(chosen):
        # The part of the window that lies in the volume, in the volume and in the window.
        inside = tuple(slice(max(part.start, 0), min(part.stop, full)) for part, full in zip(box, spatial))
        within = tuple(slice(a.start - part.start, a.stop - part.start) for a, part in zip(inside, box))
        window = volume[(slice(None), *inside)]
        if any(before) or window.shape[1:] != roi:
            padded = np.full((volume.shape[0], *roi), pad_value, dtype=np.float32)
            padded[(slice(None), *within)] = window
            window = padded
        answer = network(np.ascontiguousarray(window[None]))[0]
        if answer.shape[1:] != roi:
            raise ValueError(f"the network must keep the window's size {roi}, got {answer.shape[1:]}.")
        if total is None:
            total = np.zeros((answer.shape[0], *spatial), dtype=np.float32)
        answer *= weights
        total[(slice(None), *inside)] += answer[(slice(None), *within)]
        count[inside] += weights[within]
    if total is None:
        raise ValueError("no window was kept; keep one at least.")
    seen = None if len(chosen) == len(boxes) else count > 0
    if seen is not None:
        count[~seen] = 1
    total /= count
    return total, seen


def importance(roi: Sequence[int], mode: str) -> np.ndarray:
    """The weight of each voxel of a window, float32, never 0."""
    if mode == "constant":
        return np.ones(roi, dtype=np.float32)
    if mode != "gaussian":
        raise ValueError(f"mode must be 'gaussian' or 'constant', got {mode!r}.")
    weights = np.ones((), dtype=np.float32)
    for size in roi:
        away = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
        weights = weights[..., None] * np.exp(-(away**2) / np.float32(2 * (_SIGMA * size) ** 2))
    return np.maximum(weights, max(float(weights.min()), 1e-3)).astype(np.float32)


def window_slices(spatial: Sequence[int], roi: Sequence[int], overlap: float | Sequence[float]) -> list[Box]:
    """The windows that cover a volume, in order; where it is smaller than one, the window begins before it.

    Example:
        >>> window_slices((10,), (4,), 0.5)
        [(slice(0, 4, None),), (slice(2, 6, None),), (slice(4, 8, None),), (slice(6, 10, None),)]
    """
    shares = [float(overlap)] * len(roi) if isinstance(overlap, (int, float)) else [float(share) for share in overlap]
    if len(shares) != len(roi) or not all(0 <= share < 1 for share in shares):
        raise ValueError(f"overlap must be from 0 to below 1, one number or one an axis, got {overlap}.")
    starts = []
    for full, size, share in zip(spatial, roi, shares):
        if full <= size:
            starts.append([-((size - full) // 2)])
            continue
        step = max(int(size * (1 - share)), 1)
        steps = range(0, full - size + step, step)
        starts.append([min(start, full - size) for start in steps])
    return [tuple(slice(a, a + size) for a, size in zip(corner, roi)) for corner in product(*starts)]
