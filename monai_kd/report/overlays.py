"""Predictions drawn on the images they were made for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_kd._pictures import FORMATS

__all__ = ["PREDICTION", "TRUTH", "partner", "save_overlays"]

TRUTH, PREDICTION = "#37e36b", "#ffd23f"
"""Colours of outlines."""


def save_overlays(
    images: Sequence[str | Path],
    predictions: Mapping[str, str | Path],
    path: str | Path,
    labels: Sequence[str | Path] | None = None,
) -> Path:
    """One row a frame, one column a model: contours of its mask and of the truth.

    Args:
        images: the frames.
        predictions: by title, a folder that holds one mask a frame under the frame's name (any extension).
        path: the PNG to write.
        labels: the true masks, one a frame.

    Raises:
        FileNotFoundError: a mask is missing.
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "monai-kd[plots]"') from error
    rows, columns = len(images), len(predictions)
    figure = Figure(figsize=(3.2 * columns, 2.7 * rows + 0.4), layout="constrained")
    axes = np.asarray(figure.subplots(rows, columns, squeeze=False))
    for row, image in enumerate(images):
        frame = np.asarray(Image.open(image, formats=FORMATS).convert("RGB"))
        truth = _mask(Path(labels[row]), frame) if labels is not None else None
        for column, (title, folder) in enumerate(predictions.items()):
            axis = axes[row, column]
            axis.imshow(frame)
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title)
            if truth is not None:
                _outline(axis, truth, TRUTH)
            _outline(axis, _mask(partner(Path(folder), Path(image).stem), frame), PREDICTION)
    figure.supxlabel("green: truth, yellow: prediction" if labels is not None else "yellow: prediction", fontsize=9)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _outline(axis: object, mask: NDArray[np.bool_], colour: str) -> None:
    if mask.any() and not mask.all():
        axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.6)  # type: ignore[attr-defined]


def _mask(path: Path, frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
    mask = np.asarray(Image.open(path, formats=FORMATS).convert("L")) > 127
    if mask.shape != frame.shape[:2]:
        raise ValueError(f"'{path}' is {mask.shape}, its frame {frame.shape[:2]}; write masks at the frame's own size.")
    return mask


def partner(folder: Path, stem: str) -> Path:
    """The file of ``folder`` named ``stem``, with any extension."""
    found = sorted(folder.glob(f"{stem}.*"))
    if not found:
        raise FileNotFoundError(f"no mask named '{stem}' in '{folder}'; masks are found by their frame's name.")
    return found[0]
