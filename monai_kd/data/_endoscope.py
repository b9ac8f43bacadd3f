"""An endoscope's view of generated mucosa: where it sees, mucosa, polyps, what resembles them, light and camera."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from monai_kd.data._drawing import blob, noise

_FOREGROUND = (0.01, 0.25)
# Lengths are in half the shorter side of the frame, with 0 in its middle; heights in the same unit.


def aperture(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Where the endoscope sees: all, or an octagon, with or without a corner covered by a picture in picture."""
    visible = np.ones(y.shape, dtype=bool)
    half_height, half_width = y.max(), x.max()
    if rng.random() < 0.7:
        visible = np.abs(y) + np.abs(x) < (half_height + half_width) * rng.uniform(0.72, 0.85)
    if rng.random() < 0.3:
        visible &= ~((y > half_height * rng.uniform(0.25, 0.5)) & (x < -half_width * rng.uniform(0.35, 0.6)))
    return visible


def mucosa(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relief (height), darkness of the lumen in [0, 1], and colour (height, width, 3) in [0, 1]."""
    shape = y.shape
    coarse, middle, fine = noise(rng, shape, 0.7), noise(rng, shape, 0.25), noise(rng, shape, 0.06)
    relief = 0.07 * coarse + 0.014 * middle + 0.0015 * fine

    # Folds are rings around the lumen, bent by the coarse noise and broken up along their way.
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.5)
    down, right = y - distance * np.sin(angle), x - distance * np.cos(angle)
    squeeze = rng.uniform(0.7, 1.4)
    from_lumen = np.sqrt(down**2 * squeeze + right**2 / squeeze) + 1e-3
    phase = rng.uniform(4, 9) * np.log(from_lumen + 0.15) + rng.uniform(0.5, 1.5) * coarse
    around = np.clip(0.6 + 0.6 * noise(rng, shape, 0.6), 0, 1.2)
    relief = relief + rng.uniform(0.0, 0.09) * around * np.exp(1.5 * (np.sin(phase) - 1))
    opening = rng.uniform(0.1, 0.35)
    darkness = 1 / (1 + np.exp((from_lumen - opening * (1 + 0.25 * middle)) / (0.3 * opening)))
    relief = relief - 0.15 * np.exp(-((from_lumen / (2 * opening)) ** 2))

    base = np.array([rng.uniform(0.66, 0.9), 0.0, 0.0])
    base[1] = base[0] * rng.uniform(0.42, 0.66)
    base[2] = base[1] * rng.uniform(0.6, 1.05)
    shade = 0.05 * coarse + 0.05 * middle + 0.025 * fine
    colour = base * (1 + shade[..., None] * np.array([0.7, 1.2, 1.2]))
    vessel = noise(rng, shape, 0.3) + 0.35 * noise(rng, shape, 0.1)
    vessel = np.exp(-((vessel / 0.09) ** 2)) * np.clip(coarse + 0.5, 0, 1) * rng.uniform(0, 0.35)
    colour = colour * (1 - vessel[..., None] * np.array([0.3, 0.75, 0.6]))
    return relief, darkness, colour.astype(np.float32)


def _dome(ratio: np.ndarray) -> np.ndarray:
    return np.sqrt(np.clip(1 - ratio**2, 0, None))


def somewhere(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, margin: float = 1.0) -> tuple[float, float]:
    return rng.uniform(-1, 1) * float(y.max()) * margin, rng.uniform(-1, 1) * float(x.max()) * margin


def add_polyps(
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
            centre = somewhere(rng, y, x, 0.8)
            ratio = blob(rng, y, x, centre, np.sqrt(share * area / np.pi), rng.uniform(0.1, 0.45))
            seen = (ratio < 1) & visible
            # At least half of it is seen, and all of them together stay in bounds.
            if low <= seen.mean() >= 0.5 * (ratio < 1).mean() and (seen | mask).mean() <= high:
                break
        else:
            if number:
                break
            share = 0.05
            ratio = blob(rng, y, x, (0.0, 0.0), np.sqrt(share * area / np.pi), 0.1)
            seen = ratio < 1
            visible |= seen
        mask |= seen
        radius = np.sqrt(share * area / np.pi)
        flat = rng.random() < 0.2
        lift = radius * (rng.uniform(0.05, 0.15) if flat else rng.uniform(0.25, 0.7))
        lobes = 1 + rng.uniform(0, 0.25) * noise(rng, shape, 0.35 * radius + 0.02)
        relief += lift * lobes * _dome(ratio)
        # Redder, paler or nearly as the mucosa; always with its own fine surface, and in front of what is behind it.
        tint = rng.uniform(0.0, 0.2) + np.array([0.04, -0.2, -0.16]) * rng.uniform(0.0, 1.5)
        if rng.random() < 0.2:
            tint = rng.uniform(0.0, 0.25) + np.array([0.0, 0.12, 0.10])
        edge = np.clip((1 - ratio) / 0.1, 0, 1)[..., None]
        pits = (rng.uniform(0.02, 0.06) * noise(rng, shape, 0.045))[..., None]
        own = np.median(colour[seen], axis=0) * (1 + tint + pits)
        cover = edge * (0.6 if flat else 0.85)
        colour *= 1 - cover
        colour += cover * own
        darkness *= 1 - cover[..., 0]
        rim = np.exp(-(((ratio - 1.05) / 0.07) ** 2)) * (ratio > 1) * (0.03 if flat else rng.uniform(0.05, 0.25))
        colour *= 1 - rim[..., None]
    return mask


def add_distractors(
    rng: np.random.Generator, y: np.ndarray, x: np.ndarray, relief: np.ndarray, colour: np.ndarray
) -> None:
    """Change relief and colour in place by what resembles a polyp in one respect and is none."""
    shape = y.shape
    for _ in range(rng.integers(0, 3)):
        radius = rng.uniform(0.1, 0.4)
        ratio = blob(rng, y, x, somewhere(rng, y, x), radius, 0.5)
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
            patch = np.clip(2 * (1 - ratio) + 0.7 * noise(rng, shape, 0.08), 0, 1)[..., None]
            colour *= 1 - 0.7 * patch
            colour += 0.7 * patch * np.array([0.72, 0.58, 0.2]) * rng.uniform(0.6, 1.1)


def add_light(
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
    ripple_y, ripple_x = 0.15 * noise(rng, y.shape, 0.1), 0.15 * noise(rng, y.shape, 0.1)
    tilt = (slope_y + ripple_y - 0.5 * toward_y) ** 2 + (slope_x + ripple_x - 0.5 * toward_x) ** 2
    wet = np.clip(noise(rng, y.shape, 0.5) - rng.uniform(-0.3, 1.2), 0, 1) * (1 - darkness)
    gloss = np.clip(4 * np.exp(-tilt / 0.003) * np.clip(2 * wet, 0, 1) - 1, 0, 1)[..., None]
    return image * (1 - gloss) + gloss * np.array([1.0, 0.98, 0.96])


def add_clutter(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, image: np.ndarray) -> None:
    """Bubbles, in place: thin bright rings around a slightly brighter disc, with one reflection."""
    if rng.random() < 0.6:
        return
    middle = somewhere(rng, y, x)
    for _ in range(rng.integers(3, 12)):
        radius = rng.uniform(0.02, 0.09)
        down, right = y - middle[0] - rng.normal(0, 0.2), x - middle[1] - rng.normal(0, 0.2)
        ratio = np.hypot(down, right) / radius
        bright = 0.35 * np.exp(-(((ratio - 1) / 0.2) ** 2)) + 0.06 * (ratio < 1)
        bright += 0.8 * np.exp(-(((down / radius + 0.4) ** 2 + (right / radius + 0.3) ** 2) / 0.04))
        image += bright[..., None]


def develop(rng: np.random.Generator, image: np.ndarray, visible: np.ndarray, unit: float) -> np.ndarray:
    """Focus, white balance, contrast, noise and aperture; uint8."""
    blur = rng.uniform(0.002, 0.015) * unit
    image = gaussian_filter(image, (blur, blur, 0))
    image = image * rng.uniform(0.95, 1.05, 3)
    image = np.clip(image, 0, 1.2) ** rng.uniform(0.85, 1.2)
    image = image + rng.uniform(0.004, 0.02) * rng.standard_normal(image.shape, dtype=np.float32)
    image = image * np.clip(gaussian_filter(visible.astype(np.float32), 0.006 * unit), 0, 1)[..., None]
    return np.clip(image * 255, 0, 255).astype(np.uint8)
