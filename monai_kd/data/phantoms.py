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

from monai_kd.data._endoscope import add_clutter, add_distractors, add_light, add_polyps, aperture, develop, mucosa
from monai_kd.data._generated import generate_folder, mark_generated

# Raise it whenever the same seed no longer gives the same frames.
_GENERATION = 1


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

    visible = aperture(rng, y, x)
    relief, darkness, colour = mucosa(rng, y, x)
    add_distractors(rng, y, x, relief, colour)
    mask = add_polyps(rng, y, x, visible, relief, darkness, colour)
    image = add_light(rng, y, x, relief, darkness, colour, unit)
    add_clutter(rng, y, x, image)
    image = develop(rng, image, visible, unit)
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
