"""Pictures with the outlines of masks, as text for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from skimage.measure import find_contours

from monai_kd.report.picture_files import Mask, Picture

__all__ = ["encode"]

_WIDTH = 420


def encode(frames: Sequence[Picture], outlines: Sequence[Sequence[tuple[Mask, str]]]) -> str:
    """Frames below each other, at one scale, with the outlines of their masks, as a JPEG data URI."""
    drawn = []
    scale = _WIDTH / max(frame.shape[1] for frame in frames)
    for index, frame in enumerate(frames):
        size = tuple(max(1, round(length * scale)) for length in frame.shape[1::-1])
        picture = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(picture)
        for mask, colour in outlines[index] if outlines else []:
            if mask.shape != frame.shape[:2]:
                raise ValueError(
                    f"a mask is {mask.shape}, its image {frame.shape[:2]}; write masks at the image's size."
                )
            _outline(pen, mask, colour, scale)
        drawn.append(picture)
    height = sum(picture.height for picture in drawn) + 4 * (len(drawn) - 1)
    sheet = Image.new("RGB", (_WIDTH, height), "#000000")
    top = 0
    for picture in drawn:
        sheet.paste(picture, ((_WIDTH - picture.width) // 2, top))
        top += picture.height + 4
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _outline(pen: ImageDraw.ImageDraw, mask: Mask, colour: str, scale: float) -> None:
    """The outline of every label; that of a label that encloses another is drawn around both."""
    padded = np.pad(mask, 1)
    for label in np.unique(mask[mask > 0]):
        for line in find_contours((padded >= label).astype(float), 0.5):
            points = [((column - 0.5) * scale, (row - 0.5) * scale) for row, column in line]
            pen.line(points, fill=colour, width=3, joint="curve")
