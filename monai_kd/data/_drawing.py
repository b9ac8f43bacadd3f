"""What generated pictures are drawn with: smooth noise, irregular outlines, soft steps."""

from __future__ import annotations

import numpy as np
from PIL import Image


def noise(rng: np.random.Generator, shape: tuple[int, ...], grain: float) -> np.ndarray:
    """Smooth noise of about unit size; ``grain`` is the length over which it changes, in half the shorter side."""
    unit = min(shape) / 2
    cells = [max(2, round(length / unit / grain) + 2) for length in shape]
    coarse = Image.fromarray(rng.standard_normal(cells, dtype=np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)) * 1.3


def blob(
    rng: np.random.Generator, y: np.ndarray, x: np.ndarray, centre: tuple[float, float], radius: float, rough: float
) -> np.ndarray:
    """Distance from ``centre`` over the distance of a smooth irregular outline: below 1 inside."""
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.6) ** 0.5
    down, right = y - centre[0], x - centre[1]
    along = (np.cos(turn) * right + np.sin(turn) * down) / stretch
    across = (np.cos(turn) * down - np.sin(turn) * right) * stretch
    angle = np.arctan2(across, along)
    outline = np.ones_like(y)
    for order in range(2, 7):
        outline += rough / order * rng.uniform(-1, 1) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return np.hypot(along, across) / (radius * outline)


def step(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between."""
    ratio = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(ratio * ratio * (3 - 2 * ratio))
