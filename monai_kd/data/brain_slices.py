"""Generated brain MRI slices with and without tumours, for demos and tests without a data set.

Nothing learnt here says anything about real MRI.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from monai_kd.data._drawing import blob, noise, step
from monai_kd.data._generated import generate_folder, height_width, mark_generated, scenes
from monai_kd.data.brain_mri import BRAIN_MRI_CLASSES

__all__ = ["brain_slice", "make_brain_mri_images"]

# Raise it whenever the same seed no longer gives the same slices.
_GENERATION = 1


def brain_slice(
    class_index: int, size: int | Sequence[int] = 224, seed: int | Sequence[int] = 0, view: int = 0
) -> np.ndarray:
    """One generated axial slice of a head, the same for the same arguments.

    A skull with fat, grey and white matter with furrows, ventricles or, lower down, eyes and the base; bright or dark
    fluid; in other contrast, turned and moved from one seed to the next. Tumours are more or less distinct: some can
    hardly be told from none.

    Args:
        class_index: 0 glioma (irregular, inside the brain, with oedema around), 1 meningioma (round and even, at the
            skull), 2 none, 3 pituitary tumour (small, in the middle of the base).
        size: height and width, or (height, width), at least 32 each.
        seed: of the head; a sequence of integers is a seed too.
        view: another number is a near duplicate: the same slice in slightly other contrast.

    Returns:
        The slice, uint8 (height, width).

    Raises:
        ValueError: no such class, or a slice below 32 pixels.

    Example:
        >>> brain_slice(0, size=(48, 64), seed=1).shape
        (48, 64)
    """
    if class_index not in range(len(BRAIN_MRI_CLASSES)):
        raise ValueError(f"class_index must be 0 to 3 ({', '.join(BRAIN_MRI_CLASSES)}), got {class_index}.")
    seeds = [int(seed)] if isinstance(seed, (int, np.integer)) else [int(number) for number in seed]
    around, within, sequence, scanner = (
        np.random.default_rng([*seeds, *part]) for part in ((0,), (1,), (2,), (3, view))
    )
    name = BRAIN_MRI_CLASSES[class_index]
    head = _Head(around, height_width(size), base=name == "pituitary" or around.random() < 0.4)
    if name in _TUMOURS:
        _TUMOURS[name](within, head)
    return _scan(sequence, scanner, head)


def make_brain_mri_images(
    root: str | os.PathLike[str], count: int = 400, size: int | Sequence[int] = 224, seed: int = 0
) -> str:
    """Write generated slices in the layout of the Kaggle set: ``Training/`` and ``Testing/`` with a folder a class.

    Classes are about balanced. An eighth of the slices come twice, as near duplicates, some of them with one in either
    folder, as in the real set. The first slices of a larger ``count`` are those of a smaller one. The folder is written
    whole or not at all; one that holds the same generation already is left as it is.

    Args:
        root: folder to write; it may not exist yet, or be empty.
        count: how many slices, at least 40, for images in every folder.
        size: height and width, or (height, width), at least 32 each.
        seed: of the whole set.

    Returns:
        ``root``, ready for :func:`brain_mri_datalist`.

    Raises:
        FileExistsError: ``root`` holds anything else.
        ValueError: ``count`` below 40, or slices below 32 pixels.

    Example:
        >>> import tempfile
        >>> root = make_brain_mri_images(tempfile.mkdtemp() + "/slices", count=40, size=32)
        >>> sorted(os.listdir(root)), sorted(os.listdir(root + "/Testing/glioma"))[0]
        (['Testing', 'Training', 'phantoms.json'], 'Te-gl_00004.jpg')
    """
    if count < 40:
        raise ValueError(f"count must be 40 or more, for images in every folder, got {count}.")
    made = {
        "generation": _GENERATION,
        "kind": "brain slices",
        "count": int(count),
        "size": list(height_width(size)),
        "seed": int(seed),
    }
    return generate_folder(root, made, "slices", _write, _damage)


def _damage(folder: Path, made: dict[str, Any]) -> str:
    return "" if len(list(folder.glob("*/*/T*.jpg"))) == made["count"] else "lost or gained files"


def _write(folder: Path, made: dict[str, Any]) -> None:
    written = dict.fromkeys(BRAIN_MRI_CLASSES, 0)
    slices = islice(scenes(len(BRAIN_MRI_CLASSES), 0.125, made["seed"]), made["count"])
    for scene, class_index, view in slices:
        name = BRAIN_MRI_CLASSES[class_index]
        part = "Testing" if written[name] % 5 == 4 else "Training"
        (folder / part / name).mkdir(parents=True, exist_ok=True)
        image = brain_slice(class_index, made["size"], [made["seed"], scene], view)
        path = folder / part / name / f"{part[:2]}-{name[:2]}_{written[name]:05d}.jpg"
        Image.fromarray(image).save(path, quality=92)
        written[name] += 1
    mark_generated(folder, made)


# Lengths below are in half the longer axis of the head, which lies with the forehead up.


class _Head:
    """A slice of a head without tumour: coordinates, and the signal that tumours change in place.

    ``y`` and ``x`` are 0 in the middle of the head; ``depth`` is 0 there and 1 at the inner face of the skull; all of
    (height, width). A tumour is drawn on what takes up contrast agent, ``uptake``, and on ``water``, which oedema has.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], base: bool) -> None:
        self.base = base
        self.pixel = 2 / (min(size) * rng.uniform(0.86, 0.98))
        rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
        down = (rows + 0.5 - size[0] / 2) * self.pixel + rng.normal(0, 0.02)
        right = (columns + 0.5 - size[1] / 2) * self.pixel + rng.normal(0, 0.02)
        turn = rng.normal(0, 0.08)
        self.y, self.x = (np.cos(turn) * down - np.sin(turn) * right, np.sin(turn) * down + np.cos(turn) * right)
        self.width = rng.uniform(0.74, 0.88)
        self.depth = np.hypot(self.y / 0.84, self.x / (self.width - 0.15)) * (1 + 0.012 * self.noise(rng, 0.4))
        scalp = np.hypot(self.y / 0.98, self.x / (self.width - 0.01))
        soft = 3 * self.pixel
        self.brain = 1 - step(self.depth, 1 - soft, 1 + soft)
        self.bone = step(self.depth, 1.01 - soft, 1.01 + soft) * (1 - step(scalp, 0.93 - soft, 0.93 + soft))
        self.fat = step(scalp, 0.93 - soft, 0.93 + soft) * (1 - step(scalp, 1 - soft, 1 + soft))
        self.fat *= np.clip(1 + 0.3 * self.noise(rng, 0.15), 0, 2)

        furrows = np.exp(-((self.noise(rng, 0.13) / 0.3) ** 2)) * step(self.depth, 0.5, 0.9)
        middle = np.exp(-((self.x / 0.012) ** 2)) * step(np.abs(self.y), 0.3, 0.45)
        self.fluid = np.clip(rng.uniform(0.3, 0.8) * furrows + 0.6 * middle, 0, 1)
        bark = step(self.depth + 0.1 * self.noise(rng, 0.15), 0.72, 0.85)
        self.grey = np.clip(bark + furrows, 0, 1)
        self.air = np.zeros_like(self.fluid)
        (self._draw_base if base else self._draw_ventricles)(rng)
        self.uptake = 0.12 * step(self.noise(rng, 0.07), 2.0, 3.0)  # vessels
        self.water = np.zeros_like(self.fluid)

    def noise(self, rng: np.random.Generator, grain: float) -> np.ndarray:
        """Smooth noise of about unit size; ``grain`` is the length over which it changes."""
        return noise(rng, self.y.shape, max(grain, 1.5 * self.pixel))

    def blob(self, rng: np.random.Generator, centre: tuple[float, float], radius: float, rough: float) -> np.ndarray:
        """Distance over that of an irregular outline: below 1 inside."""
        return blob(rng, self.y, self.x, centre, radius, rough)

    def spot(self, y: float, x: float, height: float, width: float, soft: float = 0.25) -> np.ndarray:
        """An ellipse with a soft edge."""
        return 1 - step(np.hypot((self.y - y) / height, (self.x - x) / width), 1 - soft, 1 + soft)

    def _draw_ventricles(self, rng: np.random.Generator) -> None:
        wide, long, bend = rng.uniform(0.04, 0.11), rng.uniform(0.22, 0.4), rng.uniform(0.3, 1.2)
        y = self.y + rng.uniform(-0.05, 0.08)
        thick = wide * np.clip(1 - 0.75 * (y / long) ** 2, 0.1, 1)
        off = np.abs(np.abs(self.x) - 0.03 - wide - bend * y**2)
        horns = step(long - np.abs(y), 0, 0.05) * (1 - step(off / thick, 0.8, 1.1))
        self.fluid = np.maximum(self.fluid, horns)
        for side in (-1, 1):  # the grey nuclei beside them
            nucleus = self.spot(0.1, side * (0.22 + wide), 0.2, 0.08, 0.4)
            self.grey = np.maximum(self.grey, rng.uniform(0.4, 0.9) * nucleus)

    def _draw_base(self, rng: np.random.Generator) -> None:
        down = rng.uniform(-0.05, 0.1)
        star = self.spot(down, 0, 0.1, rng.uniform(0.12, 0.2), 0.5) * np.clip(0.8 + 0.4 * self.noise(rng, 0.1), 0, 1)
        self.fluid = np.maximum(self.fluid, rng.uniform(0.4, 0.9) * star)
        stem = self.spot(down + 0.24, 0, 0.15, 0.17, 0.15)
        self.fluid *= 1 - stem
        self.grey *= 1 - 0.7 * stem
        if rng.random() < 0.6:  # orbits and sinuses
            for side in (-1, 1):
                self.fluid = np.maximum(self.fluid, 0.9 * self.spot(-0.72, side * 0.26, 0.13, 0.13))
            sinus = self.spot(-0.62, 0, 0.17, 0.1) * self.brain
            self.air = np.maximum(self.air, sinus)


def _glioma(rng: np.random.Generator, head: _Head) -> None:
    """Irregular, inside the brain, around a dead core or without, in oedema with fingers."""
    radius = rng.uniform(0.1, 0.27)
    angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.5)
    centre = away * np.sin(angle), away * np.cos(angle) * head.width
    ratio = head.blob(rng, centre, radius, 0.9) + 0.12 * head.noise(rng, 0.1)
    inside = 1 - step(ratio, 0.85, 1.1)
    core = 1 - step(ratio + 0.1 * head.noise(rng, 0.08), 0.4, rng.uniform(0.6, 1.1))
    dead = rng.random() < 0.6
    patches = np.clip(0.8 + 0.4 * head.noise(rng, 0.08), 0, 1.6)
    head.uptake += rng.uniform(0.1, 0.9) * inside * patches * (1 - 0.85 * dead * core)
    oedema = (1 - step(ratio + 0.35 * head.noise(rng, 0.15), 1.0, rng.uniform(1.5, 2.6))) * (1 - 0.5 * head.grey)
    head.water += rng.uniform(0.2, 0.9) * np.maximum(oedema, dead * core)
    _push(head, ratio)


def _meningioma(rng: np.random.Generator, head: _Head) -> None:
    """Round, sharp and even, with its base on the skull."""
    radius = rng.uniform(0.09, 0.26)
    angle, inner = rng.uniform(0, 2 * np.pi), 1 - radius / 0.8 * rng.uniform(0.3, 0.8)
    centre = 0.84 * inner * np.sin(angle), (head.width - 0.15) * inner * np.cos(angle)
    ratio = head.blob(rng, centre, radius, rng.uniform(0.05, 0.3))
    inside = (1 - step(ratio, 0.92, 1.05)) * head.brain
    head.uptake += rng.uniform(0.2, 1.0) * inside * np.clip(1 + 0.08 * head.noise(rng, 0.1), 0, 2)
    head.water += rng.uniform(0, 0.6) * rng.integers(0, 2) * (1 - step(ratio, 1.0, 1.8))
    _push(head, ratio)


def _pituitary(rng: np.random.Generator, head: _Head) -> None:
    """Small and round, in the middle of the base."""
    radius = rng.uniform(0.05, 0.15)
    centre = rng.normal(-0.06, 0.04), rng.normal(0, 0.015)
    ratio = head.blob(rng, centre, radius, rng.uniform(0.05, 0.3))
    inside = 1 - step(ratio, 0.85, 1.1)
    head.uptake += rng.uniform(0.2, 0.9) * inside * np.clip(1 + 0.2 * head.noise(rng, 0.06), 0, 2)
    if rng.random() < 0.25:
        head.water += rng.uniform(0.3, 0.9) * (1 - step(ratio, 0.3, 0.7))
    _push(head, ratio)


def _push(head: _Head, ratio: np.ndarray) -> None:
    """No furrows, fluid or air where the tumour is."""
    free = step(ratio, 0.8, 1.15)
    head.fluid *= free
    head.air *= free
    head.grey *= 0.3 + 0.7 * free


def _scan(sequence: np.random.Generator, scanner: np.random.Generator, head: _Head) -> np.ndarray:
    """Contrast, coil, noise and grey levels; uint8."""
    bright_fluid = sequence.random() < 0.25
    white, grey = sequence.uniform(0.5, 0.62), sequence.uniform(0.36, 0.48)
    fluid, fat = (0.95, 0.6) if bright_fluid else (0.08, sequence.uniform(0.6, 1.0))
    if bright_fluid:  # T2: grey matter is brighter than white
        white, grey = grey - 0.08, white - 0.08
    tissue = white + (grey - white) * head.grey
    tissue *= 1 + 0.03 * head.noise(sequence, 0.05)
    tissue += (fluid - tissue) * head.fluid
    tissue += (fluid - tissue) * 0.55 * np.clip(head.water, 0, 1)
    taken = np.clip(head.uptake, 0, 1) * (0.35 if bright_fluid else 1.0)
    tissue += (1.0 - tissue) * 0.75 * taken
    image = tissue * head.brain * (1 - 0.9 * head.air) + head.fat * fat + head.bone * 0.06
    slope = sequence.normal(0, 0.08, 2)
    image *= 1 + slope[0] * head.y + slope[1] * head.x
    image = gaussian_filter(image, sequence.uniform(0.004, 0.012) / head.pixel)
    image = np.clip(image * scanner.uniform(0.75, 1.05), 0, 1.2) ** scanner.uniform(0.8, 1.25)
    noise = scanner.uniform(0.005, 0.03) * scanner.standard_normal((2, *image.shape), dtype=np.float32)
    image = np.hypot(image + noise[0], noise[1])  # magnitude of a complex signal
    return np.clip(image * 255, 0, 255).astype(np.uint8)


_TUMOURS: dict[str, Callable[[np.random.Generator, _Head], None]] = {
    "glioma": _glioma,
    "meningioma": _meningioma,
    "pituitary": _pituitary,
}
