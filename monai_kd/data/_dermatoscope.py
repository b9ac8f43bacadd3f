"""A dermatoscope's view of generated skin: where its pixels lie, plain skin, hairs, light and what lies between."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from monai_kd.data._drawing import step

# Lengths are in half the shorter side of the picture. Everything that belongs to the skin is drawn in the skin's own
# coordinates, which the camera turns, zooms and moves.


class Frame:
    """The pixels of one picture, and where on the skin each of them lies.

    ``y`` and ``x`` are float32 (height, width), 0 in the middle of the lesion; ``down`` and ``right`` are 0 in the
    middle of the picture.
    """

    def __init__(self, camera: np.random.Generator, size: tuple[int, int]) -> None:
        self.size = size
        self.unit = min(size) / 2
        self.turn, self.zoom = camera.uniform(0, 2 * math.pi), camera.uniform(0.85, 1.2)
        self.shift = camera.uniform(-0.14, 0.14), camera.uniform(-0.14, 0.14)
        # From the middle of the lesion to anywhere in any picture of this shape.
        self.reach = 1.42 * max(size) / min(size) / 0.85 + 0.2
        rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
        self.down = (rows + 0.5 - size[0] / 2) / self.unit
        self.right = (columns + 0.5 - size[1] / 2) / self.unit
        down, right = self.down / self.zoom - self.shift[0], self.right / self.zoom - self.shift[1]
        self.y = math.cos(self.turn) * down - math.sin(self.turn) * right
        self.x = math.sin(self.turn) * down + math.cos(self.turn) * right

    def noise(self, rng: np.random.Generator, grain: float) -> np.ndarray:
        """Smooth noise of about unit size that lies on the skin; ``grain`` is the length over which it changes."""
        grain = max(grain, 0.02)
        cells = int(2 * self.reach / grain) + 5
        coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
        # Smooth enough to be drawn at every second to fourth pixel, with a margin of one around the picture.
        every = min(4, max(1, int(grain * self.unit * self.zoom / 4)))
        height, width = self.size
        # From pixels to places on the coarse grid, which is turned at random lest all grids line up.
        turn, pixel = self.turn + rng.uniform(0, math.pi), 1 / (self.unit * self.zoom * grain)
        cosine, sine = math.cos(turn) * pixel, math.sin(turn) * pixel
        row, column = (length / 2 + move * self.zoom * self.unit + every for length, move in zip(self.size, self.shift))
        left, top = cells / 2 - cosine * column - sine * row, cells / 2 + sine * column - cosine * row
        affine = (cosine * every, sine * every, left, -sine * every, cosine * every, top)
        drawn = (math.ceil(width / every) + 2, math.ceil(height / every) + 2)
        there = coarse.transform(drawn, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
        box = (1, 1, 1 + width / every, 1 + height / every)
        return np.asarray(there.resize((width, height), Image.Resampling.BICUBIC, box)) * 1.3

    def strokes(self, lines: Sequence[np.ndarray], widths: Sequence[float]) -> np.ndarray:
        """How far each pixel is covered by lines of points (N, 2), given as (y, x) on the skin; in [0, 1]."""
        height, width = self.size
        sheet = Image.new("L", (2 * width, 2 * height))
        draw = ImageDraw.Draw(sheet)
        scale, cosine, sine = 2 * self.zoom * self.unit, math.cos(self.turn), math.sin(self.turn)
        for points, thickness in zip(lines, widths):
            y, x = points[:, 0], points[:, 1]
            down = (cosine * y + sine * x + self.shift[0]) * scale + height
            right = (cosine * x - sine * y + self.shift[1]) * scale + width
            ink = round(255 * min(1.0, thickness * scale / 1.2))  # thinner than can be drawn: fainter instead
            draw.line([*np.stack([right, down], axis=1).ravel()], fill=ink, width=max(1, round(thickness * scale)))
        return np.asarray(sheet.reduce(2), dtype=np.float32) / 255


def plain_skin(rng: np.random.Generator, frame: Frame) -> np.ndarray:
    """Plain skin with its lines, blotches, small vessels and freckles, (height, width, 3) in [0, 1]."""
    red = rng.uniform(0.78, 0.95)
    green = red * rng.uniform(0.66, 0.86)
    base = np.array([red, green, green * rng.uniform(0.92, 1.12)], dtype=np.float32)
    coarse, fine = frame.noise(rng, 0.7), frame.noise(rng, 0.05)
    lines = step(np.abs(frame.noise(rng, 0.09)), 0, 0.5) - 0.7
    shade = 0.03 * coarse + rng.uniform(0.005, 0.025) * fine + rng.uniform(0, 0.05) * lines
    redness = rng.uniform(0.01, 0.05) * (frame.noise(rng, 0.25) + coarse)
    redness += rng.uniform(0, 0.05) * frame.noise(rng, 0.08)
    vessels = np.exp(-((frame.noise(rng, 0.3) / 0.06) ** 2)) * np.clip(coarse, 0, 1) * rng.uniform(0, 0.2)
    freckles = max(0.0, rng.uniform(-0.3, 0.3)) * step(frame.noise(rng, 0.13), 1.2, 2.8)
    density = np.clip(redness + vessels, -0.1, 0.4)[..., None] * np.array([0.2, 1.0, 0.75], dtype=np.float32)
    density += freckles[..., None] * np.array([0.4, 0.9, 1.3], dtype=np.float32)
    return np.asarray(base * (1 + shade[..., None]) * np.exp(-density))


def add_hairs(rng: np.random.Generator, frame: Frame, image: np.ndarray) -> None:
    """Draw hairs in place: fine curves, most of them in one direction, dark or fair."""
    low, high = ((0, 1), (1, 8), (8, 28))[rng.choice(3, p=[0.5, 0.35, 0.15])]
    count = int(rng.integers(low, high))
    heading, colour = rng.uniform(0, np.pi), np.array([0.16, 0.11, 0.09]) * rng.uniform(0.5, 2.2)
    width = rng.uniform(0.008, 0.02)
    lines = []
    for _ in range(count):
        along = np.linspace(-1, 1, 14) * rng.uniform(0.25, 0.9)
        angle = heading + rng.normal(0, 0.4)
        aside = rng.normal(0, 0.25) * along**2 + rng.uniform(-1.5, 1.5)
        along = along + rng.uniform(-1.3, 1.3)
        turned = np.cos(angle) * along - np.sin(angle) * aside, np.sin(angle) * along + np.cos(angle) * aside
        lines.append(np.stack(turned, axis=1))
    if count:
        cover = frame.strokes(lines, [width * share for share in rng.uniform(0.5, 1.2, count)])[..., None]
        image += 0.85 * cover * (colour.astype(np.float32) - image)


def add_light(camera: np.random.Generator, frame: Frame, image: np.ndarray) -> None:
    """Shade and tint in place: uneven light, darker or black corners, the colour of the lamp."""
    slope = camera.normal(0, 0.05, 2)
    away = frame.down**2 + frame.right**2
    light = 1 + slope[0] * frame.down + slope[1] * frame.right - camera.uniform(0, 0.12) * away
    image *= (camera.uniform(0.82, 1.05) * light)[..., None] * camera.uniform(0.94, 1.06, 3).astype(np.float32)
    if camera.random() < 0.07:
        edge = camera.uniform(1.05, 1.3)
        image *= (1 - step(np.sqrt(away), edge - camera.uniform(0.03, 0.15), edge))[..., None]


def add_clutter(camera: np.random.Generator, frame: Frame, image: np.ndarray) -> None:
    """What lies between skin and lens, in place: gel bubbles, reflections, the ticks of a ruler."""
    half_height, half_width = float(frame.down.max()), float(frame.right.max())
    if camera.random() < 0.25:
        for _ in range(camera.integers(1, 6)):
            radius = camera.uniform(0.03, 0.13)
            down = (frame.down - camera.uniform(-1, 1) * half_height) / radius
            right = (frame.right - camera.uniform(-1, 1) * half_width) / radius
            distance = np.hypot(down, right)
            ring = np.exp(-(((distance - 1) / 0.15) ** 2)) * (0.25 - 0.2 * np.sign(down + right))
            image += (ring + 0.7 * np.exp(-((down + 0.4) ** 2 + (right + 0.4) ** 2) / 0.05))[..., None]
    if camera.random() < 0.3:
        for _ in range(camera.integers(2, 14)):
            down = (frame.down - camera.normal(0, 0.5)) / camera.uniform(0.01, 0.03)
            right = (frame.right - camera.normal(0, 0.5)) / camera.uniform(0.01, 0.03)
            image += camera.uniform(0.2, 0.6) * np.exp(-(down**2 + right**2))[..., None]
    if camera.random() < 0.12:
        spacing, thickness = camera.uniform(0.14, 0.25), 0.5 / frame.unit
        side, along = (frame.down, frame.right) if camera.random() < 0.5 else (frame.right, frame.down)
        reach = (half_height if side is frame.down else half_width) * camera.choice([-1, 1])
        depth = 0.1 + 0.07 * (np.round(along / spacing) % 5 == 0)
        near = np.abs(along - spacing * np.round(along / spacing)) < max(0.008, thickness)
        image *= 1 - 0.75 * (near & (np.abs(side - reach) < depth))[..., None]


def develop(camera: np.random.Generator, frame: Frame, image: np.ndarray) -> np.ndarray:
    """Focus, contrast and noise of the camera; uint8."""
    blur = camera.uniform(0.003, 0.014) * frame.unit
    image = gaussian_filter(image, (blur, blur, 0))
    image = np.clip(image, 0, 1.2) ** camera.uniform(0.9, 1.2)
    image = image + camera.uniform(0.003, 0.015) * camera.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image * 255, 0, 255).astype(np.uint8)
