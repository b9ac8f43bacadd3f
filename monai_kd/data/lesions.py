"""Generated dermatoscopy-like pictures of seven skin lesions, for demos and tests without a data set.

Nothing learnt here says anything about real skin.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_kd.data._dermatoscope import Frame, add_clutter, add_hairs, add_light, develop, plain_skin
from monai_kd.data._drawing import step
from monai_kd.data._generated import generate_folder, height_width, mark_generated
from monai_kd.data.ham10000 import HAM10000_CLASSES

# Raise it whenever the same seed no longer gives the same pictures.
_GENERATION = 1
# Of HAM10000's pictures; the rest are naevi.
_SHARES = {"akiec": 0.033, "bcc": 0.051, "bkl": 0.110, "df": 0.011, "mel": 0.111, "vasc": 0.014}
_HEADER: tuple[str, ...] = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
# Above all published numbers, so that nobody takes them for real ones.
_FIRST_NUMBER = 9_000_000


def lesion_image(
    class_index: int, size: int | Sequence[int] = 224, seed: int | Sequence[int] = 0, view: int = 0
) -> np.ndarray:
    """One generated dermatoscopy-like picture, the same for the same arguments.

    Each class shows its dermatoscopic signs, more or less distinctly: some lesions can hardly be told apart. Skin
    colour, hairs, bubbles, rulers, dark corners and light do not depend on the class.

    Args:
        class_index: 0 actinic keratosis (akiec), 1 basal cell carcinoma (bcc), 2 benign keratosis (bkl),
            3 dermatofibroma (df), 4 melanoma (mel), 5 naevus (nv), 6 vascular lesion (vasc).
        size: height and width, or (height, width), at least 32 each.
        seed: of the lesion and the skin around it; a sequence of integers is a seed too.
        view: another number is another picture of the same lesion: turned, moved, in other light.

    Returns:
        The picture, uint8 (height, width, 3).

    Raises:
        ValueError: no such class, or a picture below 32 pixels.

    Example:
        >>> lesion_image(4, size=(48, 64), seed=1).shape
        (48, 64, 3)
    """
    if class_index not in range(len(HAM10000_CLASSES)):
        raise ValueError(
            f"class_index must be 0 to {len(HAM10000_CLASSES) - 1} ({', '.join(HAM10000_CLASSES)}), got {class_index}."
        )
    seeds = [int(seed)] if isinstance(seed, (int, np.integer)) else [int(number) for number in seed]
    around, within, camera = (np.random.default_rng([*seeds, *part]) for part in ((0,), (1,), (2, view)))
    frame = Frame(camera, height_width(size))
    tissue = _Tissue(*(np.zeros(frame.size, dtype=np.float32) for _ in range(5)))
    _PAINTERS[class_index](within, frame, tissue)
    grain = 1 + 0.13 * frame.noise(within, 0.09) + 0.13 * frame.noise(within, 0.035)
    image = tissue.on(plain_skin(around, frame), grain)
    add_hairs(around, frame, image)
    add_light(camera, frame, image)
    add_clutter(camera, frame, image)
    return develop(camera, frame, image)


def make_lesion_images(
    root: str | os.PathLike[str], count: int = 400, size: int | Sequence[int] = 224, seed: int = 0
) -> str:
    """Write generated pictures in the HAM10000 layout: ``HAM10000_metadata.csv`` and ``images/ISIC_*.jpg``.

    About as unbalanced as HAM10000, but from 84 lesions on each class has at least 6, and from 7 on at least one. About
    a quarter of the lesions have two or three pictures. The first pictures of a larger ``count`` are those of a smaller
    one. The folder is written whole or not at all; one that holds the same generation already is left as it is.

    Args:
        root: folder to write; it may not exist yet, or be empty.
        count: how many pictures.
        size: height and width, or (height, width), at least 32 each.
        seed: of the whole set.

    Returns:
        ``root``, ready for :func:`ham10000_datalist`.

    Raises:
        FileExistsError: ``root`` holds anything else.
        ValueError: ``count`` below 1, or pictures below 32 pixels.

    Example:
        >>> import tempfile
        >>> root = make_lesion_images(tempfile.mkdtemp() + "/lesions", count=3, size=48)
        >>> sorted(os.listdir(root)), sorted(os.listdir(root + "/images"))[0]
        (['HAM10000_metadata.csv', 'images', 'phantoms.json'], 'ISIC_9000000.jpg')
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}.")
    made = {
        "generation": _GENERATION,
        "kind": "lesions",
        "count": int(count),
        "size": list(height_width(size)),
        "seed": int(seed),
    }
    return generate_folder(root, made, "lesions", _write, _damage)


def _damage(folder: Path, made: dict[str, Any]) -> str:
    whole = (folder / "HAM10000_metadata.csv").is_file()
    whole = whole and len(list((folder / "images").glob("ISIC_*.jpg"))) == made["count"]
    return "" if whole else "lost or gained files"


def _write(folder: Path, made: dict[str, Any]) -> None:
    (folder / "images").mkdir(parents=True)
    rows = [_HEADER]
    pictures = islice(_pictures(made["seed"]), made["count"])
    for number, (lesion, class_index, view, about) in enumerate(pictures, start=_FIRST_NUMBER):
        image = lesion_image(class_index, made["size"], [made["seed"], lesion], view)
        Image.fromarray(image).save(folder / "images" / f"ISIC_{number}.jpg", quality=92)
        rows.append((f"HAM_{_FIRST_NUMBER + lesion}", f"ISIC_{number}", HAM10000_CLASSES[class_index], *about))
    with open(folder / "HAM10000_metadata.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    mark_generated(folder, made)


def _pictures(seed: int) -> Iterator[tuple[int, int, int, tuple[str, ...]]]:
    """Lesion, class, view and what is known of the patient, one picture after the other without end."""
    for lesion, class_index in enumerate(_classes()):
        rng = np.random.default_rng([seed, lesion, 3])
        about = _patient(rng, HAM10000_CLASSES[class_index])
        for view in range(rng.choice([1, 2, 3], p=[0.75, 0.17, 0.08])):
            yield lesion, class_index, view, about


def _classes() -> Iterator[int]:
    """The class of each lesion: always the one that lacks most of its share, and 6 of each among the first 84."""
    have = dict.fromkeys(HAM10000_CLASSES, 0)
    while True:
        total = sum(have.values()) + 1
        due = {name: max(share * total, min(6.0, max(1.0, total / 14))) for name, share in _SHARES.items()}
        due["nv"] = total - sum(due.values())
        name = max(HAM10000_CLASSES, key=lambda name: due[name] - have[name])
        have[name] += 1
        yield HAM10000_CLASSES.index(name)


def _patient(rng: np.random.Generator, name: str) -> tuple[str, ...]:
    """How it was diagnosed, age, sex and place, as HAM10000 writes them."""
    means = {"akiec": 66, "bcc": 66, "bkl": 64, "df": 51, "mel": 61, "nv": 46, "vasc": 51}
    histology = {"akiec": 1.0, "bcc": 1.0, "bkl": 0.7, "df": 0.4, "mel": 1.0, "nv": 0.4, "vasc": 0.2}
    age = f"{5 * round(np.clip(rng.normal(means[name], 15), 5, 85) / 5):.1f}"
    age = age if rng.random() < 0.99 else ""
    sex = str(rng.choice(["male", "female", "unknown"], p=[0.54, 0.455, 0.005]))
    places = ["back", "lower extremity", "trunk", "upper extremity", "abdomen", "face", "chest", "foot", "unknown"]
    place = str(rng.choice(places, p=[0.22, 0.21, 0.14, 0.11, 0.10, 0.10, 0.06, 0.03, 0.03]))
    other = "follow_up" if name == "nv" else "consensus"
    return ("histo" if rng.random() < histology[name] else other), age, sex, place


# Lengths below are in half the shorter side of the picture, in the skin's own coordinates.


@dataclass
class _Tissue:
    """What the lesion adds to plain skin, each float32 (height, width): optical densities, then covers in [0, 1]."""

    melanin: np.ndarray
    deep: np.ndarray  # melanin in the dermis, which looks blue-grey
    blood: np.ndarray
    scar: np.ndarray
    keratin: np.ndarray

    def on(self, skin: np.ndarray, grain: np.ndarray) -> np.ndarray:
        """Picture of the lesion on ``skin``; ``grain`` around 1 is how unevenly all of it is spread."""
        density = self.melanin[..., None] * np.array([0.5, 1.05, 1.6], dtype=np.float32)
        density += self.deep[..., None] * np.array([1.25, 1.05, 0.7], dtype=np.float32)
        density += self.blood[..., None] * np.array([0.16, 1.0, 0.72], dtype=np.float32)
        image = skin * np.exp(-np.clip(density * grain[..., None], 0, 3.2))
        for cover, colour in ((self.scar, (0.93, 0.84, 0.84)), (self.keratin, (0.93, 0.83, 0.60))):
            image += np.clip(cover * grain, 0, 0.9)[..., None] * (np.array(colour, dtype=np.float32) - image)
        return np.asarray(image)


def _spot(
    rng: np.random.Generator, frame: Frame, radius: float, rough: float, centre: Sequence[float] = (0.0, 0.0)
) -> np.ndarray:
    """Distance from ``centre`` over the distance of a smooth irregular outline: below 1 inside."""
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.5) ** 0.5
    down, right = frame.y - centre[0], frame.x - centre[1]
    along = (np.cos(turn) * right + np.sin(turn) * down) / stretch
    across = (np.cos(turn) * down - np.sin(turn) * right) * stretch
    bumps = frame.noise(rng, 0.9 * radius) + 0.45 * frame.noise(rng, 0.3 * radius)
    bumps += (0.15 + 0.02 / max(rough, 0.1)) * frame.noise(rng, 0.05 + 0.05 * radius)
    ratio = np.hypot(along, across) / radius
    return np.asarray(ratio + rough * bumps * np.clip(ratio, 0.3, 1.3))


def _lattice(rng: np.random.Generator, frame: Frame, spacing: float) -> np.ndarray:
    """An irregular honeycomb: 1 in the middle of its cells, 0 on the lines between them."""
    bend = 0.3 * spacing
    y, x = frame.y + bend * frame.noise(rng, 2 * spacing), frame.x + bend * frame.noise(rng, 2 * spacing)
    turn = rng.uniform(0, np.pi)
    waves = np.full(frame.size, 1.5, dtype=np.float32)
    for third in range(3):
        angle = turn + third * np.pi / 3
        waves += np.cos((4 * np.pi / 3**0.5 / spacing) * (np.cos(angle) * x + np.sin(angle) * y))
    # Finer than the pixels can show: let it fade to its mean.
    seen = float(np.clip(spacing * frame.unit * frame.zoom - 1.6, 0, 1))
    return np.asarray((1 - seen) / 3 + seen * waves / 4.5)


def _scattered(
    rng: np.random.Generator, frame: Frame, number: tuple[int, int], within: float, sizes: tuple[float, float]
) -> np.ndarray:
    """Soft round dots, at most ``within`` from the middle; in [0, 1]."""
    dots = np.zeros(frame.size, dtype=np.float32)
    for _ in range(rng.integers(*number)):
        angle, away, radius = rng.uniform(0, 2 * np.pi), within * rng.uniform() ** 0.5, rng.uniform(*sizes)
        distance = np.hypot(frame.y - away * np.sin(angle), (frame.x - away * np.cos(angle)) * rng.uniform(0.7, 1.4))
        np.maximum(dots, 1 - step(distance, 0.6 * radius, 1.3 * radius), out=dots)
    return dots


def _branches(rng: np.random.Generator, frame: Frame, radius: float) -> np.ndarray:
    """Sharp vessels that enter from the rim and branch like a tree; coverage in [0, 1]."""
    lines, widths = [], []
    for _ in range(rng.integers(2, 5)):
        angle = rng.uniform(0, 2 * np.pi)
        start = radius * rng.uniform(0.7, 1.1) * np.array([np.sin(angle), np.cos(angle)])
        grow = [(start, angle + np.pi + rng.uniform(-0.6, 0.6), radius * rng.uniform(0.5, 0.8), 0.028)]
        while grow:
            start, heading, length, width = grow.pop()
            headings = heading + np.cumsum(rng.normal(0, 0.28, 7))
            steps = length / 7 * np.stack([np.sin(headings), np.cos(headings)], axis=1)
            points = np.concatenate([start[None], start + np.cumsum(steps, axis=0)])
            lines.append(points)
            widths.append(width)
            if width > 0.012:
                for place in (3, 7):
                    aside = rng.choice([-1, 1]) * rng.uniform(0.4, 0.9)
                    grow.append((points[place], headings[place - 1] + aside, 0.65 * length, 0.68 * width))
    return frame.strokes(lines, widths)


def _melanocytic(rng: np.random.Generator, frame: Frame, tissue: _Tissue, atypia: float) -> None:
    """Naevus (``atypia`` near 0) to melanoma (near 1): the same signs, more or less orderly."""
    radius = np.exp(rng.uniform(*np.log((0.33, 0.62)))) * (1 + 0.25 * atypia)
    ratio = _spot(rng, frame, radius, 0.05 + 0.22 * atypia * rng.uniform(0.5, 1))
    soft = rng.uniform(0.12, 0.5) * (1 - 0.6 * atypia * rng.random())
    inside = 1 - step(ratio, 1 - soft, 1 + 0.3 * soft)
    lattice = _lattice(rng, frame, rng.uniform(0.06, 0.11))
    net = rng.uniform(0, 1.0)
    blotches = 1 + (0.12 + 0.75 * atypia) * frame.noise(rng, rng.uniform(0.3, 0.7) * radius)
    middle = 1 + rng.uniform(-0.3, 0.5) * np.exp(-((ratio / 0.5) ** 2))
    density = rng.uniform(0.45, 1.05) * (1 + 0.45 * atypia * rng.random()) * middle * np.clip(blotches, 0.15, 2.6)
    mesh = 1 + net * (0.35 - lattice) * np.clip(0.6 + 0.4 * blotches + 0.8 * (ratio - 0.5), 0, 1.6)
    tissue.melanin += inside * density * np.clip(mesh, 0.25, 1.8)
    tissue.blood += inside * rng.uniform(0.05, 0.45) * (1 + 0.5 * atypia * frame.noise(rng, 0.6 * radius))
    if rng.random() < 0.35 + 0.4 * atypia:  # globules, in a ring or astray
        dots = _scattered(rng, frame, (4, 14), radius * (0.8 + 0.3 * atypia), (0.015, 0.045))
        tissue.melanin += rng.uniform(0.3, 1.0) * dots
    aside = radius * rng.uniform(0.1, 0.6) * np.array([1, rng.choice([-1, 1])]) * rng.uniform(0.3, 1, 2)
    if rng.random() < 0.9 * atypia**1.5:  # blue-white veil
        veil = inside * (1 - step(_spot(rng, frame, radius * rng.uniform(0.3, 0.6), 0.3, aside), 0.3, 1.4))
        tissue.deep += veil * rng.uniform(0.4, 1.1) * (0.3 + 0.7 * atypia)
        tissue.melanin *= 1 - 0.5 * veil
        tissue.scar += 0.22 * veil
    if rng.random() < 0.6 * atypia:  # black blotch
        tissue.melanin += inside * rng.uniform(0.5, 1.3) * step(frame.noise(rng, 0.45 * radius), 0.5, 1.4)
    if rng.random() < 0.5 * atypia**2:  # regression: scar in place of pigment
        gone = inside * (1 - step(_spot(rng, frame, radius * rng.uniform(0.25, 0.5), 0.4, -aside), 0.2, 1.5))
        tissue.melanin *= 1 - 0.8 * gone
        tissue.scar += 0.45 * gone
        tissue.deep += 0.25 * gone * np.clip(frame.noise(rng, 0.05), 0, 2)


def _naevus(rng: np.random.Generator, frame: Frame, tissue: _Tissue) -> None:
    _melanocytic(rng, frame, tissue, rng.beta(1.2, 5))


def _melanoma(rng: np.random.Generator, frame: Frame, tissue: _Tissue) -> None:
    _melanocytic(rng, frame, tissue, rng.beta(3, 2))


def _benign_keratosis(rng: np.random.Generator, frame: Frame, tissue: _Tissue) -> None:
    """Sharp border, waxy brown or grey; milia-like cysts, comedo-like openings, ridges; some moth-eaten or flat."""
    radius = np.exp(rng.uniform(*np.log((0.4, 0.8))))
    ratio = _spot(rng, frame, radius, rng.uniform(0.08, 0.3))
    inside = 1 - step(ratio, 1 - rng.uniform(0.08, 0.4), 1.05)
    relief = frame.noise(rng, rng.uniform(0.12, 0.25))
    if rng.random() < 0.3:  # moth-eaten or broken up
        inside = inside * step(relief + frame.noise(rng, 0.6 * radius) + 0.5 * frame.noise(rng, 0.06), -1.8, 0.8)
    patches = np.clip(1 + 0.35 * frame.noise(rng, 0.5 * radius) + 0.15 * relief, 0.2, 2)
    tissue.melanin += inside * np.exp(rng.uniform(*np.log((0.25, 1.2)))) * patches
    tissue.blood += inside * rng.uniform(0, 0.4)
    tissue.keratin += inside * rng.uniform(0, 0.22) * np.clip(1 + 0.5 * relief, 0, 2)
    tissue.deep += inside * rng.uniform(0, 0.3) * rng.integers(0, 2)
    if rng.random() < 0.6:  # ridges and fissures
        tissue.melanin += inside * rng.uniform(0.1, 0.6) * np.exp(-((relief / 0.25) ** 2))
    if rng.random() < 0.6:
        cysts = inside * _scattered(rng, frame, (4, 22), 0.85 * radius, (0.015, 0.045))
        tissue.scar += rng.uniform(0.4, 0.85) * cysts
    if rng.random() < 0.6:
        plugs = inside * _scattered(rng, frame, (3, 12), 0.85 * radius, (0.025, 0.06))
        tissue.melanin += rng.uniform(0.5, 1.2) * plugs


def _basal_cell_carcinoma(rng: np.random.Generator, frame: Frame, tissue: _Tissue) -> None:
    """Pearly pink with branching vessels, blue-grey nests, white streaks and here and there an erosion."""
    radius = np.exp(rng.uniform(*np.log((0.4, 0.75))))
    ratio = _spot(rng, frame, radius, rng.uniform(0.1, 0.25))
    inside = 1 - step(ratio, 1 - rng.uniform(0.2, 0.6), 1.1)
    patches = np.clip(1 + 0.5 * frame.noise(rng, 0.4 * radius), 0.1, 2)
    tissue.blood += inside * rng.uniform(0.1, 0.5) * patches
    tissue.melanin += inside * rng.uniform(0, 0.35) * step(frame.noise(rng, 0.35 * radius), -0.2, 1)
    tissue.scar += inside * rng.uniform(0.05, 0.4) * step(frame.noise(rng, 0.3 * radius), -0.2, 1.2)
    if rng.random() < 0.75:
        vessels = _branches(rng, frame, radius) * (0.2 + 0.8 * inside)
        tissue.blood += rng.uniform(0.3, 0.9) * vessels
    if rng.random() < 0.7:
        for _ in range(rng.integers(1, 8)):
            angle, away = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.1, 0.9)
            centre = away * np.sin(angle), away * np.cos(angle)
            nest = _spot(rng, frame, radius * rng.uniform(0.07, 0.25), 0.2, centre)
            nest = 1 - step(nest, 0.3, 1.35)
            tissue.deep += rng.uniform(0.3, 0.9) * nest
            tissue.melanin += rng.uniform(0, 0.5) * nest
    if rng.random() < 0.3:
        sore = _spot(rng, frame, radius * rng.uniform(0.12, 0.3), 0.3, radius * rng.uniform(-0.3, 0.3, 2))
        sore = 1 - step(sore, 0.7, 1.1)
        tissue.blood += rng.uniform(0.5, 1.1) * sore
        tissue.melanin += rng.uniform(0.2, 0.8) * sore


def _actinic_keratosis(rng: np.random.Generator, frame: Frame, tissue: _Tissue) -> None:
    """Red and ill-defined with scale; a red network around pale follicles; some with brown patches."""
    radius = np.exp(rng.uniform(*np.log((0.45, 0.95))))
    ratio = _spot(rng, frame, radius, rng.uniform(0.15, 0.4))
    inside = 1 - step(ratio, 1 - rng.uniform(0.3, 0.8), 1.15)
    lattice = _lattice(rng, frame, rng.uniform(0.12, 0.22))
    patches = np.clip(1 + 0.5 * frame.noise(rng, 0.35 * radius), 0, 2)
    tissue.blood += inside * rng.uniform(0.15, 0.5) * patches * (1 + rng.uniform(0, 0.9) * (0.4 - lattice))
    tissue.scar += inside * rng.uniform(0, 0.45) * step(lattice, 0.55, 0.95)
    scale = step(frame.noise(rng, 0.14) + 0.9 * frame.noise(rng, 0.04), 0.2, 2.4)
    tissue.keratin += inside * rng.uniform(0.05, 0.65) * scale
    tissue.scar += inside * rng.uniform(0, 0.5) * step(frame.noise(rng, 0.09), 0.7, 1.8)
    if rng.random() < 0.5:
        tissue.melanin += inside * rng.uniform(0.2, 0.9) * step(frame.noise(rng, 0.4 * radius), 0, 1.3)
    if rng.random() < 0.4:  # dotted vessels, crusts
        dots = inside * _scattered(rng, frame, (6, 18), radius, (0.012, 0.03))
        tissue.blood += rng.uniform(0.4, 1.0) * dots


def _dermatofibroma(rng: np.random.Generator, frame: Frame, tissue: _Tissue) -> None:
    """A white scar-like patch in the middle, a delicate brown network towards a soft round rim."""
    radius = np.exp(rng.uniform(*np.log((0.35, 0.7))))
    ratio = _spot(rng, frame, radius, rng.uniform(0.03, 0.12))
    soft = rng.uniform(0.4, 0.8)
    inside = 1 - step(ratio, 1 - soft, 1.15)
    lattice = _lattice(rng, frame, rng.uniform(0.075, 0.12))
    ring = np.exp(-(((ratio - rng.uniform(0.55, 0.75)) / 0.3) ** 2))
    mesh = 1 + rng.uniform(0.2, 1.3) * (0.35 - lattice)
    tissue.melanin += inside * rng.uniform(0.15, 0.7) * (0.35 + 0.65 * ring) * np.clip(mesh, 0.2, 1.8)
    tissue.blood += inside * rng.uniform(0.1, 0.55) * np.clip(1 + 0.3 * frame.noise(rng, 0.5 * radius), 0, 2)
    white = 1 - step(_spot(rng, frame, radius * rng.uniform(0.25, 0.5), 0.25), 0.3, 1.2)
    tissue.scar += rng.uniform(0.1, 0.75) * white * np.clip(1 + 0.3 * frame.noise(rng, 0.06), 0, 1.5)
    tissue.melanin *= 1 - 0.6 * white


def _vascular(rng: np.random.Generator, frame: Frame, tissue: _Tissue) -> None:
    """Well-defined red to purple lacunae with pale septa between them; some black from a clot, some flat and pink."""
    radius = np.exp(rng.uniform(*np.log((0.22, 0.55))))
    ratio = _spot(rng, frame, radius, rng.uniform(0.04, 0.2))
    inside = 1 - step(ratio, 1 - rng.uniform(0.08, 0.35), 1.08)
    lattice = _lattice(rng, frame, radius * rng.uniform(0.4, 0.9)) + 0.06 * frame.noise(rng, 0.2 * radius)
    lacunae = 1 - rng.uniform(0, 0.55) * (1 - step(lattice, 0.05, 0.5))
    tissue.blood += inside * np.exp(rng.uniform(*np.log((0.6, 1.8)))) * lacunae
    bluish = np.clip(1 + 0.5 * frame.noise(rng, 0.5 * radius), 0, 2)
    tissue.deep += inside * rng.uniform(0, 0.55) * rng.random() * bluish
    tissue.scar += inside * rng.uniform(0, 0.15) * (1 - step(lattice, 0.05, 0.35))
    if rng.random() < 0.3:
        clot = inside * (1 - step(_spot(rng, frame, radius * rng.uniform(0.3, 0.7), 0.3), 0.6, 1.1))
        tissue.deep += rng.uniform(0.5, 1.2) * clot
        tissue.melanin += rng.uniform(0.2, 1.0) * clot
    halo = np.clip(1.8 - ratio, 0, 1) * (1 - inside)
    tissue.blood += rng.uniform(0, 0.15) * halo


# In the order of HAM10000_CLASSES.
_PAINTERS = (
    _actinic_keratosis,
    _basal_cell_carcinoma,
    _benign_keratosis,
    _dermatofibroma,
    _melanoma,
    _naevus,
    _vascular,
)
