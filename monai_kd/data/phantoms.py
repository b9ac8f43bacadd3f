"""Generated colonoscopy-like frames with polyp masks, for demos and tests without a data set.

Nothing learnt here says anything about real colonoscopy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from monai_kd.data._generated import generate_folder, mark_generated

# Raise it whenever the same seed no longer gives the same frames.
_GENERATION = 1
_FOREGROUND = (0.01, 0.25)


def polyp_frame(seed: int | Sequence[int], size: tuple[int, int] = (160, 192)) -> tuple[np.ndarray, np.ndarray]:
    """One generated frame and its mask, the same for the same ``seed`` and ``size``.

    A mucosa with folds, vessels and a dark lumen, lit from the camera; one to three polyps, some of them flat or hardly
    coloured; and what is not a polyp: bumps of plain mucosa, red spots, dark holes, bubbles, stool, reflections.

    Args:
        seed: of everything in the frame; a sequence of integers is a seed too.
        size: (height, width), at least 32 each.

    Returns:
        The image, uint8 (height, width, 3), and the mask, uint8 (height, width), 0 or 255. Polyps cover between 1 % and
        25 % of the frame.

    Example:
        >>> image, mask = polyp_frame(0, size=(48, 64))
        >>> image.shape, mask.shape, bool(0.01 <= (mask > 0).mean() <= 0.25)
        ((48, 64, 3), (48, 64), True)
    """
    _check_size(size)
    rng = np.random.default_rng(seed)
    height, width = size
    unit = min(size) / 2
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = (y + 0.5 - height / 2) / unit, (x + 0.5 - width / 2) / unit

    visible = _aperture(rng, y, x)
    relief, darkness, colour = _mucosa(rng, y, x)
    _distract(rng, y, x, relief, colour)
    mask = _polyps(rng, y, x, visible, relief, darkness, colour)
    image = _light(rng, y, x, relief, darkness, colour, unit)
    _clutter(rng, y, x, image)
    image = _camera(rng, image, visible, unit)
    return image, np.where(mask, np.uint8(255), np.uint8(0))


def make_polyp_frames(
    root: str | os.PathLike[str],
    count: int,
    size: tuple[int, int] = (160, 192),
    seed: int = 0,
    size_jitter: float = 0.1,
) -> str:
    """Write generated frames in the Kvasir-SEG layout: ``images/*.jpg`` and ``masks/*.png``.

    Frame sizes differ, as in the real set. The first frames of a larger ``count`` are those of a smaller one. The
    folder is written whole or not at all; one that holds the same generation already is left as it is.

    Args:
        root: folder to write; it may not exist yet, or be empty.
        count: how many frames.
        size: mean (height, width).
        seed: of the whole set.
        size_jitter: heights and widths differ from ``size`` by at most this share.

    Returns:
        ``root``, ready for :func:`polyp_datalist`.

    Raises:
        FileExistsError: ``root`` holds anything else.
        ValueError: ``count`` below 1, a jitter outside [0, 1), or frames below 32 pixels.

    Example:
        >>> import os, tempfile
        >>> root = make_polyp_frames(tempfile.mkdtemp() + "/frames", count=2, size=(48, 64))
        >>> sorted(os.listdir(root)), sorted(os.listdir(root + "/masks"))
        (['images', 'masks', 'phantoms.json'], ['frame_00000.png', 'frame_00001.png'])
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}.")
    if not 0 <= size_jitter < 1:
        raise ValueError(f"size_jitter must be in [0, 1), got {size_jitter}.")
    _check_size((int(size[0] * (1 - size_jitter)), int(size[1] * (1 - size_jitter))))
    made = {
        "generation": _GENERATION,
        "count": int(count),
        "size": [int(size[0]), int(size[1])],
        "seed": int(seed),
        "size_jitter": float(size_jitter),
    }
    return generate_folder(root, made, "frames", _write, _damage)


def _check_size(size: tuple[int, int]) -> None:
    if len(size) != 2 or min(size) < 32:
        raise ValueError(f"frames must be at least 32 pixels high and wide, got {tuple(size)}.")


def _damage(folder: Path, made: dict[str, Any]) -> str:
    counts = (len(list((folder / name).glob("frame_*"))) for name in ("images", "masks"))
    return "lost or gained files" if any(count != made["count"] for count in counts) else ""


def _write(folder: Path, made: dict[str, Any]) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for index in range(made["count"]):
        jitter = np.random.default_rng([made["seed"], index, 1]).uniform(-1, 1, 2) * made["size_jitter"]
        height, width = (round(length * (1 + share)) for length, share in zip(made["size"], jitter))
        image, mask = polyp_frame([made["seed"], index], (max(32, height), max(32, width)))
        Image.fromarray(image).save(folder / "images" / f"frame_{index:05d}.jpg", quality=92)
        Image.fromarray(mask).save(folder / "masks" / f"frame_{index:05d}.png")
    mark_generated(folder, made)


# Lengths below are in half the shorter side of the frame, with 0 in its middle; heights in the same unit.


def _noise(rng: np.random.Generator, shape: tuple[int, ...], grain: float) -> np.ndarray:
    """Smooth noise of about unit size; ``grain`` is the length over which it changes."""
    unit = min(shape) / 2
    cells = [max(2, round(length / unit / grain) + 2) for length in shape]
    coarse = Image.fromarray(rng.standard_normal(cells, dtype=np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)) * 1.3


def _aperture(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Where the endoscope sees: all, or an octagon, with or without a corner covered by a picture in picture."""
    visible = np.ones(y.shape, dtype=bool)
    half_height, half_width = y.max(), x.max()
    if rng.random() < 0.7:
        visible = np.abs(y) + np.abs(x) < (half_height + half_width) * rng.uniform(0.72, 0.85)
    if rng.random() < 0.3:
        visible &= ~((y > half_height * rng.uniform(0.25, 0.5)) & (x < -half_width * rng.uniform(0.35, 0.6)))
    return visible


def _mucosa(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relief (height), darkness of the lumen in [0, 1], and colour (height, width, 3) in [0, 1]."""
    shape = y.shape
    coarse, middle, fine = _noise(rng, shape, 0.7), _noise(rng, shape, 0.25), _noise(rng, shape, 0.06)
    relief = 0.07 * coarse + 0.014 * middle + 0.0015 * fine

    # Folds are rings around the lumen, bent by the coarse noise and broken up along their way.
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.5)
    down, right = y - distance * np.sin(angle), x - distance * np.cos(angle)
    squeeze = rng.uniform(0.7, 1.4)
    from_lumen = np.sqrt(down**2 * squeeze + right**2 / squeeze) + 1e-3
    phase = rng.uniform(4, 9) * np.log(from_lumen + 0.15) + rng.uniform(0.5, 1.5) * coarse
    around = np.clip(0.6 + 0.6 * _noise(rng, shape, 0.6), 0, 1.2)
    relief = relief + rng.uniform(0.0, 0.09) * around * np.exp(1.5 * (np.sin(phase) - 1))
    opening = rng.uniform(0.1, 0.35)
    darkness = 1 / (1 + np.exp((from_lumen - opening * (1 + 0.25 * middle)) / (0.3 * opening)))
    relief = relief - 0.15 * np.exp(-((from_lumen / (2 * opening)) ** 2))

    base = np.array([rng.uniform(0.66, 0.9), 0.0, 0.0])
    base[1] = base[0] * rng.uniform(0.42, 0.66)
    base[2] = base[1] * rng.uniform(0.6, 1.05)
    shade = 0.05 * coarse + 0.05 * middle + 0.025 * fine
    colour = base * (1 + shade[..., None] * np.array([0.7, 1.2, 1.2]))
    vessel = _noise(rng, shape, 0.3) + 0.35 * _noise(rng, shape, 0.1)
    vessel = np.exp(-((vessel / 0.09) ** 2)) * np.clip(coarse + 0.5, 0, 1) * rng.uniform(0, 0.35)
    colour = colour * (1 - vessel[..., None] * np.array([0.3, 0.75, 0.6]))
    return relief, darkness, colour.astype(np.float32)


def _blob(
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


def _dome(ratio: np.ndarray) -> np.ndarray:
    return np.sqrt(np.clip(1 - ratio**2, 0, None))


def _somewhere(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, margin: float = 1.0) -> tuple[float, float]:
    return rng.uniform(-1, 1) * float(y.max()) * margin, rng.uniform(-1, 1) * float(x.max()) * margin


def _polyps(
    rng: np.random.Generator,
    y: np.ndarray,
    x: np.ndarray,
    visible: np.ndarray,
    relief: np.ndarray,
    darkness: np.ndarray,
    colour: np.ndarray,
) -> np.ndarray:
    """Add one to three polyps in place; returns where they are seen."""
    shape = y.shape
    area = float(np.prod(shape) / (min(shape) / 2) ** 2)
    low, high = _FOREGROUND
    mask = np.zeros(shape, dtype=bool)
    for number in range(rng.choice([1, 2, 3], p=[0.75, 0.18, 0.07])):
        share = np.exp(rng.uniform(*np.log((0.025, 0.22) if number == 0 else (0.015, 0.06))))
        for _ in range(50):
            centre = _somewhere(rng, y, x, 0.8)
            ratio = _blob(rng, y, x, centre, np.sqrt(share * area / np.pi), rng.uniform(0.1, 0.45))
            seen = (ratio < 1) & visible
            # At least half of it is seen, and all of them together stay in bounds.
            if low <= seen.mean() >= 0.5 * (ratio < 1).mean() and (seen | mask).mean() <= high:
                break
        else:
            if number:
                break
            share = 0.05
            ratio = _blob(rng, y, x, (0.0, 0.0), np.sqrt(share * area / np.pi), 0.1)
            seen = ratio < 1
            visible |= seen
        mask |= seen
        radius = np.sqrt(share * area / np.pi)
        flat = rng.random() < 0.2
        lift = radius * (rng.uniform(0.05, 0.15) if flat else rng.uniform(0.25, 0.7))
        lobes = 1 + rng.uniform(0, 0.25) * _noise(rng, shape, 0.35 * radius + 0.02)
        relief += lift * lobes * _dome(ratio)
        # Redder, paler or nearly as the mucosa; always with its own fine surface, and in front of what is behind it.
        tint = rng.uniform(0.0, 0.2) + np.array([0.04, -0.2, -0.16]) * rng.uniform(0.0, 1.5)
        if rng.random() < 0.2:
            tint = rng.uniform(0.0, 0.25) + np.array([0.0, 0.12, 0.10])
        edge = np.clip((1 - ratio) / 0.1, 0, 1)[..., None]
        pits = (rng.uniform(0.02, 0.06) * _noise(rng, shape, 0.045))[..., None]
        own = np.median(colour[seen], axis=0) * (1 + tint + pits)
        cover = edge * (0.6 if flat else 0.85)
        colour *= 1 - cover
        colour += cover * own
        darkness *= 1 - cover[..., 0]
        rim = np.exp(-(((ratio - 1.05) / 0.07) ** 2)) * (ratio > 1) * (0.03 if flat else rng.uniform(0.05, 0.25))
        colour *= 1 - rim[..., None]
    return mask


def _distract(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, relief: np.ndarray, colour: np.ndarray) -> None:
    """Change relief and colour in place by what resembles a polyp in one respect and is none."""
    shape = y.shape
    for _ in range(rng.integers(0, 3)):
        radius = rng.uniform(0.1, 0.4)
        ratio = _blob(rng, y, x, _somewhere(rng, y, x), radius, 0.5)
        soft = np.exp(-(ratio**2))
        kind = rng.integers(0, 4)
        if kind == 0:  # a bump of plain mucosa, without an edge
            relief += rng.uniform(0.2, 0.5) * radius * soft
        elif kind == 1:  # a red spot, flat and without an edge
            colour *= 1 + soft[..., None] * np.array([0.02, -0.25, -0.2]) * rng.uniform(0.5, 1.3)
        elif kind == 2:  # a hole
            inside = 1 / (1 + np.exp((ratio - 0.6) * 12))
            colour *= 1 - rng.uniform(0.5, 0.85) * inside[..., None]
            relief -= 0.3 * radius * soft
        else:  # stool
            patch = np.clip(2 * (1 - ratio) + 0.7 * _noise(rng, shape, 0.08), 0, 1)[..., None]
            colour *= 1 - 0.7 * patch
            colour += 0.7 * patch * np.array([0.72, 0.58, 0.2]) * rng.uniform(0.6, 1.1)


def _light(
    rng: np.random.Generator,
    y: np.ndarray,
    x: np.ndarray,
    relief: np.ndarray,
    darkness: np.ndarray,
    colour: np.ndarray,
    unit: float,
) -> np.ndarray:
    """Shade the relief by a lamp near the camera; wet surfaces reflect it where they face it."""
    relief = gaussian_filter(relief, 0.012 * unit)
    slope_y, slope_x = np.gradient(relief, 1 / unit)
    lamp_y, lamp_x = rng.uniform(-0.5, 0.5, 2)
    toward_y, toward_x = 0.45 * (lamp_y - y), 0.45 * (lamp_x - x)
    facing = 1 - slope_y * toward_y - slope_x * toward_x
    facing /= np.sqrt((1 + slope_y**2 + slope_x**2) * (1 + toward_y**2 + toward_x**2))
    falloff = 1 - rng.uniform(0.15, 0.4) * ((y - lamp_y) ** 2 + (x - lamp_x) ** 2) / 2
    light = np.clip(facing, 0.1, 1) * np.clip(falloff, 0.25, 1) * (1 - 0.85 * darkness)
    image = colour * light[..., None]
    image *= rng.uniform(0.6, 0.95) / np.percentile(image[..., 0], 80)
    # Half way between lamp and camera, roughened so that reflections break into spots.
    ripple_y, ripple_x = 0.15 * _noise(rng, y.shape, 0.1), 0.15 * _noise(rng, y.shape, 0.1)
    tilt = (slope_y + ripple_y - 0.5 * toward_y) ** 2 + (slope_x + ripple_x - 0.5 * toward_x) ** 2
    wet = np.clip(_noise(rng, y.shape, 0.5) - rng.uniform(-0.3, 1.2), 0, 1) * (1 - darkness)
    gloss = np.clip(4 * np.exp(-tilt / 0.003) * np.clip(2 * wet, 0, 1) - 1, 0, 1)[..., None]
    return image * (1 - gloss) + gloss * np.array([1.0, 0.98, 0.96])


def _clutter(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, image: np.ndarray) -> None:
    """Bubbles, in place: thin bright rings around a slightly brighter disc, with one reflection."""
    if rng.random() < 0.6:
        return
    middle = _somewhere(rng, y, x)
    for _ in range(rng.integers(3, 12)):
        radius = rng.uniform(0.02, 0.09)
        down, right = y - middle[0] - rng.normal(0, 0.2), x - middle[1] - rng.normal(0, 0.2)
        ratio = np.hypot(down, right) / radius
        bright = 0.35 * np.exp(-(((ratio - 1) / 0.2) ** 2)) + 0.06 * (ratio < 1)
        bright += 0.8 * np.exp(-(((down / radius + 0.4) ** 2 + (right / radius + 0.3) ** 2) / 0.04))
        image += bright[..., None]


def _camera(rng: np.random.Generator, image: np.ndarray, visible: np.ndarray, unit: float) -> np.ndarray:
    """Focus, white balance, contrast, noise and aperture; uint8."""
    blur = rng.uniform(0.002, 0.015) * unit
    image = gaussian_filter(image, (blur, blur, 0))
    image = image * rng.uniform(0.95, 1.05, 3)
    image = np.clip(image, 0, 1.2) ** rng.uniform(0.85, 1.2)
    image = image + rng.uniform(0.004, 0.02) * rng.standard_normal(image.shape, dtype=np.float32)
    image = image * np.clip(gaussian_filter(visible.astype(np.float32), 0.006 * unit), 0, 1)[..., None]
    return np.clip(image * 255, 0, 255).astype(np.uint8)
