"""A volume through a network in overlapping windows, as MONAI's ``SlidingWindowInferer`` does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import numpy as np

__all__ = ["Answers", "importance", "sliding_window", "window_slices"]

Box = tuple[slice, ...]
Network = Callable[[np.ndarray], np.ndarray]
Slab = tuple[Box, np.ndarray, np.ndarray | None]
_SIGMA = 0.125  # of the window's size, MONAI's default


def sliding_window(
    volume: np.ndarray,
    network: Network,
    roi_size: Sequence[int],
    overlap: float | Sequence[float] = 0.25,
    mode: str = "gaussian",
    pad_value: float = 0.0,
) -> np.ndarray:
    """The network's answer for a whole volume: windows at MONAI's positions, averaged with MONAI's weights.

    Args:
        volume: float32, (C, *spatial); padded on all sides where it is smaller than a window.
        network: maps (1, C, *roi_size) to (1, classes, *roi_size), float32.
        roi_size: of a window; a number not above 0 means the volume's size along that axis.
        overlap: share of a window, from 0 to below 1, for all axes or for each.
        mode: "gaussian" (the middle of a window counts more) or "constant".
        pad_value: what the volume is padded with.

    Returns:
        The answer (classes, *spatial), float32.

    Raises:
        ValueError: window, overlap or mode is none.

    Example:
        >>> volume = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
        >>> answer = sliding_window(volume, lambda window: 2 * window, (4, 4, 4))
        >>> bool(np.allclose(answer, 2 * volume))
        True
    """
    spatial = volume.shape[1:]
    if len(roi_size) != len(spatial):
        raise ValueError(f"roi_size must have {len(spatial)} numbers, one an axis, got {tuple(roi_size)}.")
    roi = [int(size) if size > 0 else full for size, full in zip(roi_size, spatial)]
    answers = Answers(spatial, window_slices(spatial, roi, overlap), mode, pad_value)
    whole = np.empty(0, dtype=np.float32)
    for box, answer, _ in answers.slabs(lambda box: volume[(slice(None), *box)], network):
        if not whole.size:
            whole = np.empty((len(answer), *spatial), dtype=np.float32)
        whole[(slice(None), *box)] = answer
    return whole


class Answers:
    """What a network answers in windows of a volume, averaged, slab by slab along the longest axis.

    Memory: ``classes + 1`` float32 numbers a voxel of a slab, which is as thick as a window however long the volume.

    Args:
        spatial: shape of the volume.
        windows: of one size, anywhere; they may begin before the volume and end behind it.
        mode: "gaussian" (the middle of a window counts more) or "constant".
        pad_value: what a window sees outside the volume.

    Attributes:
        region: the part of the volume that the slabs are of: all windows, and one more voxel where there is one.
        axis: the slabs follow each other along it.

    Raises:
        ValueError: the mode is none.
    """

    def __init__(
        self, spatial: Sequence[int], windows: Sequence[Box], mode: str = "gaussian", pad_value: float = 0.0
    ) -> None:
        self.spatial, self.pad_value = tuple(spatial), pad_value
        self.region = tuple(
            slice(max(min(part.start for part in parts) - 1, 0), min(max(part.stop for part in parts) + 1, full))
            for parts, full in zip(zip(*windows), spatial)
        )
        lengths = [part.stop - part.start for part in self.region]
        self.axis = lengths.index(max(lengths))
        self.windows = sorted(windows, key=lambda window: window[self.axis].start)
        self.roi = tuple(part.stop - part.start for part in windows[0])
        self.weights = importance(self.roi, mode)

    def slabs(
        self,
        read: Callable[[Box], np.ndarray],
        network: Network,
        watch: Callable[[list[Box]], Iterable[Box]] = iter,
    ) -> Iterator[Slab]:
        """The answers; each slab begins with the last slice of the one before.

        Args:
            read: gives a box of the volume, (C, *box), float32; what it is asked for begins ever later along the axis.
            network: maps (1, C, *roi) to (1, classes, *roi), float32.
            watch: sees the windows and gives them back one by one, such as a progress bar.

        Yields:
            The slab's box; the answer (classes, *box), which is gone with the next slab; and which voxels (*box) a
            window has seen, ``None`` if all. Where none has, the answer is 0.

        Raises:
            ValueError: the network changes the window's size.
        """
        held: _Held | None = None
        for window in watch(self.windows):
            # The part of the window that lies in the volume, in the volume and in the window.
            inside = tuple(slice(max(part.start, 0), min(part.stop, full)) for part, full in zip(window, self.spatial))
            within = tuple(slice(a.start - part.start, a.stop - part.start) for a, part in zip(inside, window))
            image = read(inside)
            if image.shape[1:] != self.roi:
                padded = np.full((len(image), *self.roi), self.pad_value, dtype=np.float32)
                padded[(slice(None), *within)] = image
                image = padded
            answer = network(np.ascontiguousarray(image[None]))[0]
            if answer.shape[1:] != self.roi:
                raise ValueError(f"the network must keep the window's size {self.roi}, got {answer.shape[1:]}.")
            if held is None:
                held = _Held(len(answer), self.region, self.axis, self.roi[self.axis])
            yield from held.before(inside[self.axis].start)
            held.add(inside, answer[(slice(None), *within)], self.weights[within])
        if held is not None:
            yield from held.before(self.region[self.axis].stop)


class _Held:
    """Sums of answers and of their weights in the slices that windows still add to, and in the last finished one."""

    def __init__(self, classes: int, region: Box, axis: int, slices: int) -> None:
        self.region, self.axis = region, axis
        self.first = region[axis].start  # that is not finished
        self.finished = 0  # how many finished ones are held
        self.slices = min(slices, region[axis].stop - self.first)
        shape = [part.stop - part.start for part in region]
        shape[axis] = self.slices + 1
        self.total = np.zeros((classes, *shape), dtype=np.float32)
        self.count = np.zeros(shape, dtype=np.float32)

    def add(self, box: Box, answer: np.ndarray, weights: np.ndarray) -> None:
        """Add an answer (classes, *box), which is changed, and its weights (*box)."""
        place = [slice(part.start - whole.start, part.stop - whole.start) for part, whole in zip(box, self.region)]
        begin = self.finished + box[self.axis].start - self.first
        place[self.axis] = slice(begin, begin + answer.shape[1 + self.axis])
        for total, one in zip(self.total[(slice(None), *place)], answer):
            one *= weights
            total += one
        self.count[tuple(place)] += weights

    def before(self, end: int) -> Iterator[Slab]:
        """Finish all slices before that one."""
        while self.first < end:
            new = min(end - self.first, self.slices)
            stop = self.finished + new
            count, total = self._slices(self.finished, stop)
            total /= count if count.all() else np.where(count > 0, count, 1)
            count, total = self._slices(0, stop)
            box = list(self.region)
            box[self.axis] = slice(self.first - self.finished, self.first + new)
            yield tuple(box), total, None if count.all() else count > 0
            self.first += new
            self.finished = 1
            for kept, moved in zip(self._slices(0, self.slices + 2 - stop), self._slices(stop - 1, self.slices + 1)):
                kept[...] = moved
            for empty in self._slices(self.slices + 2 - stop, self.slices + 1):
                empty[...] = 0

    def _slices(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Views of the weights' and the answers' sums."""
        part = (slice(None),) * self.axis + (slice(start, stop),)
        return self.count[part], self.total[(slice(None), *part)]


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
