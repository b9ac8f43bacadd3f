"""Generated endoscopy-like frames of eight findings and landmarks, for demos and tests without a data set.

Nothing learnt here says anything about real endoscopy.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from monai_kd.data._drawing import blob, noise, step
from monai_kd.data._endoscope import (
    add_clutter,
    add_distractors,
    add_light,
    add_polyps,
    aperture,
    develop,
    mucosa,
    somewhere,
)
from monai_kd.data._generated import generate_folder, height_width, mark_generated, scenes
from monai_kd.data.kvasir_v2 import KVASIR_V2_CLASSES

__all__ = ["endoscopy_frame", "make_endoscopy_images"]

# Raise it whenever the same seed no longer gives the same frames.
_GENERATION = 1
# How far views of a scene are moved, over the shorter side; near_duplicate_groups is to find them.
_MOVE = 0.012
# The scope's position is only shown in the colon.
_WITH_OVERLAY = {"dyed-lifted-polyps", "dyed-resection-margins", "normal-cecum", "polyps", "ulcerative-colitis"}


def endoscopy_frame(
    class_index: int, size: int | Sequence[int] = 224, seed: int | Sequence[int] = 0, view: int = 0
) -> np.ndarray:
    """One generated endoscopy-like frame, the same for the same arguments.

    Mucosa, light, reflections and camera are those of :func:`polyp_frame`; each class adds its signs, more or less
    distinctly: some frames can hardly be told apart. A third of the frames of the colon show, in the lower left corner,
    the green picture of the endoscope's position that real frames have (see :class:`MaskScopeOverlayd`).

    Args:
        class_index: position in :data:`KVASIR_V2_CLASSES`: 0 dyed lifted polyps, 1 dyed resection margins,
            2 esophagitis, 3 normal cecum, 4 normal pylorus, 5 normal z-line, 6 polyps, 7 ulcerative colitis.
        size: height and width, or (height, width), at least 32 each.
        seed: of the scene; a sequence of integers is a seed too. Classes of one seed share mucosa and light.
        view: another number is a near duplicate: the same scene slightly moved, in another exposure.

    Returns:
        The frame, uint8 (height, width, 3).

    Raises:
        ValueError: no such class, or a frame below 32 pixels.

    Example:
        >>> endoscopy_frame(7, size=(48, 64), seed=1).shape
        (48, 64, 3)
    """
    if class_index not in range(len(KVASIR_V2_CLASSES)):
        raise ValueError(f"class_index must be 0 to 7 ({', '.join(KVASIR_V2_CLASSES)}), got {class_index}.")
    height, width = height_width(size)
    seeds = [int(seed)] if isinstance(seed, (int, np.integer)) else [int(number) for number in seed]
    around, within, device, camera = (np.random.default_rng([*seeds, *part]) for part in ((0,), (1,), (2,), (3, view)))
    unit = min(height, width) / 2
    # The scene is larger than the frame, which is cut from it.
    edge = math.ceil(2 * unit * _MOVE)
    y, x = np.mgrid[-edge : height + edge, -edge : width + edge].astype(np.float32)
    y, x = (y + 0.5 - height / 2) / unit, (x + 0.5 - width / 2) / unit
    inner = slice(edge, edge + height), slice(edge, edge + width)
    visible = aperture(device, y[inner], x[inner])

    scene = _Scene(y, x, np.pad(visible, edge, mode="edge"), *mucosa(around, y, x))
    name = KVASIR_V2_CLASSES[class_index]
    add_distractors(around, y, x, scene.relief, scene.colour)
    _PAINTERS[name](within, scene)
    image = add_light(around, y, x, scene.relief, scene.darkness, np.clip(scene.colour, 0.02, 1), unit)
    add_clutter(around, y, x, image)
    top, left = (edge + round(2 * unit * _MOVE * move) for move in camera.uniform(-1, 1, 2) * (view > 0))
    frame = develop(camera, image[top : top + height, left : left + width], visible, unit)
    if name in _WITH_OVERLAY and device.random() < 0.33:
        _show_position(device, frame)
    return frame


def make_endoscopy_images(
    root: str | os.PathLike[str], count: int = 400, size: int | Sequence[int] = 224, seed: int = 0
) -> str:
    """Write generated frames in the KVASIR-V2 layout: a folder of ``.jpg`` files a class.

    Classes are about balanced. An eighth of the scenes come twice, as near duplicates. The first frames of a larger
    ``count`` are those of a smaller one. The folder is written whole or not at all; one that holds the same generation
    already is left as it is.

    Args:
        root: folder to write; it may not exist yet, or be empty.
        count: how many frames, at least 16: one of each class is less than the folders need.
        size: height and width, or (height, width), at least 32 each.
        seed: of the whole set.

    Returns:
        ``root``, ready for :func:`kvasir_v2_datalist`.

    Raises:
        FileExistsError: ``root`` holds anything else.
        ValueError: ``count`` below 16, or frames below 32 pixels.

    Example:
        >>> import tempfile
        >>> root = make_endoscopy_images(tempfile.mkdtemp() + "/frames", count=16, size=32)
        >>> sorted(os.listdir(root))[:3], len(list(Path(root).glob("*/*.jpg")))
        (['dyed-lifted-polyps', 'dyed-resection-margins', 'esophagitis'], 16)
    """
    if count < 16:
        raise ValueError(f"count must be 16 or more, for images in every class folder, got {count}.")
    made = {
        "generation": _GENERATION,
        "kind": "endoscopy",
        "count": int(count),
        "size": list(height_width(size)),
        "seed": int(seed),
    }
    return generate_folder(root, made, "frames", _write, _damage)


def _damage(folder: Path, made: dict[str, Any]) -> str:
    return "" if len(list(folder.glob("*/frame_*.jpg"))) == made["count"] else "lost or gained files"


def _write(folder: Path, made: dict[str, Any]) -> None:
    for name in KVASIR_V2_CLASSES:
        (folder / name).mkdir(parents=True)
    frames = islice(scenes(len(KVASIR_V2_CLASSES), 0.125, made["seed"]), made["count"])
    for number, (scene, class_index, view) in enumerate(frames):
        frame = endoscopy_frame(class_index, made["size"], [made["seed"], scene], view)
        path = folder / KVASIR_V2_CLASSES[class_index] / f"frame_{number:05d}.jpg"
        Image.fromarray(frame).save(path, quality=92)
    mark_generated(folder, made)


# Lengths below are in half the shorter side of the frame, with 0 in its middle; heights in the same unit.


@dataclass
class _Scene:
    """Coordinates, where the endoscope sees, and what painters change in place; all of (height, width)."""

    y: np.ndarray
    x: np.ndarray
    visible: np.ndarray
    relief: np.ndarray
    darkness: np.ndarray
    colour: np.ndarray

    def noise(self, rng: np.random.Generator, grain: float) -> np.ndarray:
        return noise(rng, self.y.shape, max(grain, 0.03))

    def blob(self, rng: np.random.Generator, centre: tuple[float, float], radius: float, rough: float) -> np.ndarray:
        return blob(rng, self.y, self.x, centre, radius, rough)

    def mix(self, cover: np.ndarray, colour: Sequence[float] | np.ndarray) -> None:
        """Cover the mucosa, by shares in [0, 1], with a colour."""
        self.colour += cover[..., None] * (np.asarray(colour, dtype=np.float32) - self.colour)

    def stain(self, density: np.ndarray, absorbed: Sequence[float]) -> None:
        """Let through what a dye, or blood, does not absorb of red, green and blue."""
        self.colour *= np.exp(-density[..., None] * np.asarray(absorbed, dtype=np.float32))

    def dye(self, rng: np.random.Generator, density: np.ndarray) -> None:
        """Indigo carmine or methylene blue under the mucosa, in patches."""
        patches = np.clip(1 + 0.45 * self.noise(rng, 0.35) + 0.2 * self.noise(rng, 0.1), 0.1, 2)
        self.stain(density * patches, (1.35, rng.uniform(0.25, 0.5), rng.uniform(0.0, 0.15)))


def _paint_polyps(rng: np.random.Generator, scene: _Scene) -> None:
    add_polyps(rng, scene.y, scene.x, scene.visible, scene.relief, scene.darkness, scene.colour)


def _paint_dyed_polyps(rng: np.random.Generator, scene: _Scene) -> None:
    """Polyps on a cushion of blue fluid, some of them dyed hardly at all."""
    mask = add_polyps(rng, scene.y, scene.x, scene.visible, scene.relief, scene.darkness, scene.colour)
    unit = min(mask.shape) / 2
    around = gaussian_filter(mask.astype(np.float32), rng.uniform(0.15, 0.35) * unit)
    cushion = np.clip(around / around.max() * rng.uniform(1.2, 2.2), 0, 1)
    polyp = gaussian_filter(mask.astype(np.float32), 0.03 * unit)
    scene.relief += rng.uniform(0.05, 0.25) * cushion
    scene.darkness *= 1 - 0.7 * cushion
    strength = np.exp(rng.uniform(*np.log((0.2, 1.6))))
    scene.dye(rng, strength * cushion * (1 - rng.uniform(0.3, 0.9) * polyp))


def _paint_resection(rng: np.random.Generator, scene: _Scene) -> None:
    """A pale crater where a polyp was, with a burnt or red rim, on what is left of the blue cushion."""
    radius = rng.uniform(0.22, 0.55)
    ratio = scene.blob(rng, somewhere(rng, scene.y, scene.x, 0.45), radius, rng.uniform(0.1, 0.5))
    inside = 1 - step(ratio, 0.85, 1.05)
    cushion = 1 - step(ratio, 1.0, rng.uniform(1.5, 2.4))
    scene.relief += cushion * rng.uniform(0.05, 0.2) - inside * rng.uniform(0.1, 0.4) * radius
    scene.darkness *= 1 - 0.7 * cushion
    fibres = np.clip(0.75 + 0.2 * scene.noise(rng, 0.05), 0, 1)
    scene.mix(inside * fibres * rng.uniform(0.3, 0.9), np.array([0.86, 0.76, 0.72]) * rng.uniform(0.8, 1.05))
    scene.dye(rng, cushion * np.exp(rng.uniform(*np.log((0.12, 1.3)))))
    rim = np.exp(-(((ratio - 1) / 0.1) ** 2)) * np.clip(1 + 0.7 * scene.noise(rng, 0.2), 0, 2)
    scene.stain(rim * rng.uniform(0, 0.9), (0.25, 0.9, 0.8))
    if rng.random() < 0.4:
        bleeding = inside * step(scene.noise(rng, 0.15), 0.6, 1.6)
        scene.stain(bleeding * rng.uniform(0.5, 1.4), (0.3, 1.4, 1.2))


def _paint_colitis(rng: np.random.Generator, scene: _Scene) -> None:
    """Red and granular without vessels; erosions with a yellowish ground, bleeding points. Some hardly inflamed."""
    active = rng.uniform(0.25, 1)
    unit = min(scene.y.shape) / 2
    scene.colour[:] = gaussian_filter(scene.colour, (0.06 * unit, 0.06 * unit, 0))
    patches = np.clip(1 + 0.5 * scene.noise(rng, 0.5), 0.2, 2)
    grains = scene.noise(rng, rng.uniform(0.04, 0.08))
    scene.stain(active * patches * np.clip(0.32 + 0.12 * grains, 0, 1), (0.1, 1.0, 0.85))
    scene.relief += active * 0.006 * grains
    for _ in range(rng.integers(0, 2 + round(10 * active))):
        ratio = scene.blob(rng, somewhere(rng, scene.y, scene.x), rng.uniform(0.03, 0.16), 0.6)
        scene.stain(np.exp(-(((ratio - 1.1) / 0.5) ** 2)) * rng.uniform(0.1, 0.5), (0.1, 1.0, 0.9))
        scene.mix((1 - step(ratio, 0.6, 1.0)) * rng.uniform(0.4, 0.9), (0.85, 0.76, 0.55))
    if rng.random() < active:
        points = step(scene.noise(rng, 0.07), 1.9, 2.6)
        scene.stain(points * rng.uniform(0.4, 1.2), (0.4, 1.4, 1.2))


def _paint_cecum(rng: np.random.Generator, scene: _Scene) -> None:
    """The end of the colon: no lumen, folds that meet, the crescent of the appendix, some stool."""
    centre = somewhere(rng, scene.y, scene.x, 0.45)
    down, right = scene.y - centre[0], scene.x - centre[1]
    distance, angle = np.hypot(down, right), np.arctan2(down, right)
    scene.darkness *= rng.uniform(0.1, 0.5)
    bent = angle + 0.25 * scene.noise(rng, 0.7)
    for heading in rng.uniform(0, 2 * np.pi) + np.array([0, 2.1, 4.2]) + rng.normal(0, 0.25, 3):
        off = np.abs((bent - heading + np.pi) % (2 * np.pi) - np.pi)
        ridge = np.exp(-((off * (distance + 0.1) / rng.uniform(0.1, 0.2)) ** 2)) * step(distance, 0.1, 0.4)
        scene.relief += rng.uniform(0.08, 0.2) * ridge
        scene.stain(0.12 * ridge, (0.2, 0.5, 0.5))
    radius = rng.uniform(0.07, 0.17)
    ratio = scene.blob(rng, centre, radius, 0.2)
    side = 0.5 + 0.5 * np.cos(angle - rng.uniform(0, 2 * np.pi))
    crescent = np.exp(-(((ratio - 1) / 0.22) ** 2)) * side ** rng.uniform(0.5, 2)
    scene.relief += 0.35 * radius * (1 - step(ratio, 0.4, 1.1))
    scene.colour *= 1 - rng.uniform(0.45, 0.85) * crescent[..., None]
    if rng.random() < 0.5:
        stool = step(scene.noise(rng, 0.35) + 0.5 * scene.noise(rng, 0.08), 1.0, 2.2)
        scene.mix(stool * rng.uniform(0.3, 0.8), np.array([0.72, 0.58, 0.2]) * rng.uniform(0.7, 1.1))


def _paint_pylorus(rng: np.random.Generator, scene: _Scene) -> None:
    """The way out of the stomach: a round opening, wide or nearly closed, in a ring of smooth folds."""
    centre = somewhere(rng, scene.y, scene.x, 0.35)
    opening = rng.uniform(0.05, 0.22)
    ratio = scene.blob(rng, centre, opening, rng.uniform(0.02, 0.12))
    angle = np.arctan2(scene.y - centre[0], scene.x - centre[1])
    scene.relief *= rng.uniform(0.3, 0.7)
    ring = np.exp(-(((ratio - rng.uniform(1.7, 2.2)) / rng.uniform(0.4, 0.9)) ** 2))
    folds = np.cos(rng.integers(4, 9) * angle + rng.uniform(0, 2 * np.pi) + scene.noise(rng, 0.6))
    scene.relief += opening * rng.uniform(0.3, 0.9) * ring
    scene.relief += rng.uniform(0.0, 0.03) * folds * step(ratio, 1.5, 4)
    scene.stain(rng.uniform(0, 0.25) * ring, (0.05, 0.6, 0.6))
    scene.colour *= np.array([1.0, rng.uniform(1.0, 1.15), rng.uniform(0.9, 1.05)], dtype=np.float32)
    hole = 1 - step(ratio, 0.7, 1.1)
    scene.darkness[:] = np.maximum(scene.darkness * rng.uniform(0, 0.6), hole * rng.uniform(0.6, 1.0))


def _paint_z_line(rng: np.random.Generator, scene: _Scene) -> tuple[np.ndarray, np.ndarray]:
    """Where pale oesophagus meets salmon-red stomach; returns distance over the border's, and angle."""
    centre = somewhere(rng, scene.y, scene.x, 0.3)
    down, right = scene.y - centre[0], scene.x - centre[1]
    distance, angle = np.hypot(down, right), np.arctan2(down, right)
    scene.relief *= rng.uniform(0.3, 0.7)
    folds = np.cos(rng.integers(4, 10) * angle + rng.uniform(0, 2 * np.pi) + 0.7 * scene.noise(rng, 0.7))
    scene.relief += rng.uniform(0.01, 0.06) * folds * step(distance, 0.1, 0.6)
    border = np.full_like(distance, rng.uniform(0.4, 0.75))
    for order in range(1, 8):  # tongues
        border *= 1 + rng.uniform(0, 0.3) / order**0.7 * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    ratio = distance / np.maximum(border, 0.1) + 0.06 * scene.noise(rng, 0.12)
    soft = rng.uniform(0.03, 0.15)
    outside = step(ratio, 1 - soft, 1 + soft)
    pale = np.array([0.86, 0.68, 0.62]) * rng.uniform(0.85, 1.05)
    scene.mix(outside * rng.uniform(0.3, 0.75), pale)
    scene.stain((1 - outside) * rng.uniform(0.05, 0.3), (0.05, 0.8, 0.9))
    lumen = 1 - step(distance, 0.08, rng.uniform(0.2, 0.45))
    scene.darkness[:] = np.maximum(scene.darkness * rng.uniform(0, 0.6), lumen * rng.uniform(0.3, 1.0))
    return ratio, angle


def _paint_esophagitis(rng: np.random.Generator, scene: _Scene) -> None:
    """Red breaks, some with a white coat, that reach from the z-line up the oesophagus; from one to many."""
    ratio, angle = _paint_z_line(rng, scene)
    bent = angle + 0.12 * scene.noise(rng, 0.3)
    for _ in range(rng.integers(1, 7)):
        off = np.abs((bent - rng.uniform(0, 2 * np.pi) + np.pi) % (2 * np.pi) - np.pi)
        length = rng.uniform(0.25, 1.3)
        along = step(ratio, 0.8, 1.0) * (1 - step(ratio, 1 + 0.6 * length, 1 + length))
        width = rng.uniform(0.08, 0.3) * np.clip(1.3 - (ratio - 1) / (1.2 * length), 0.2, 1.3)
        streak = np.exp(-((off / width) ** 2)) * along
        scene.stain(streak * rng.uniform(0.3, 1.1), (0.1, 1.0, 0.9))
        if rng.random() < 0.5:
            coat = np.exp(-((off / (0.4 * width)) ** 2)) * along * (scene.noise(rng, 0.1) > -0.5)
            scene.mix(coat * rng.uniform(0.3, 0.8), (0.9, 0.85, 0.75))
    patches = step(scene.noise(rng, 0.4), 0, 1.5) * step(ratio, 0.9, 1.1)
    scene.stain(patches * rng.uniform(0, 0.35), (0.05, 0.9, 0.8))


def _show_position(rng: np.random.Generator, frame: np.ndarray) -> None:
    """Draw, in place, the green picture of the endoscope's position, in the lower left corner."""
    height, width = frame.shape[:2]
    rows, columns = round(height * rng.uniform(0.25, 0.31)), round(width * rng.uniform(0.27, 0.31))
    left, bottom = round(width * rng.uniform(0, 0.06)), round(height * rng.uniform(0, 0.05))
    green = tuple((np.array([15, 165, 136]) * rng.uniform(0.95, 1.05, 3)).astype(int).tolist())
    picture = Image.new("RGB", (columns, rows), green)
    # A path from the bottom up, as the scope lies.
    along = np.linspace(0, 1, 20)
    right = 0.65 + 0.25 * np.sin(rng.uniform(2, 7) * along + rng.uniform(0, 6)) * along
    points = np.stack([right * columns, (1 - rng.uniform(0.3, 0.8) * along) * rows], axis=1)
    ImageDraw.Draw(picture).line([*points.ravel().tolist()], fill=(40, 70, 60), width=max(1, rows // 25))
    top = height - bottom - rows
    frame[top : top + rows, left : left + columns] = np.asarray(picture)


_PAINTERS: dict[str, Callable[[np.random.Generator, _Scene], object]] = {
    "dyed-lifted-polyps": _paint_dyed_polyps,
    "dyed-resection-margins": _paint_resection,
    "esophagitis": _paint_esophagitis,
    "normal-cecum": _paint_cecum,
    "normal-pylorus": _paint_pylorus,
    "normal-z-line": _paint_z_line,
    "polyps": _paint_polyps,
    "ulcerative-colitis": _paint_colitis,
}
