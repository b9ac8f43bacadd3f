"""A picture to a mask at its own size, or to the probabilities of classes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_kd._files import save_whole
from monai_kd._pictures import read_picture
from monai_kd.runtime.decisions import activate, decide, probabilities
from monai_kd.runtime.description import ExportError, reading_pipeline
from monai_kd.runtime.exported import ExportedModel
from monai_kd.runtime.resizing import resize_area, resize_bilinear

__all__ = ["LoadedPicture", "PictureStudent"]

_CHANNELS = {"RGB": 3, "L": 1}
_RESIZE: dict[str, Callable[[np.ndarray, tuple[int, int]], np.ndarray]] = {
    "area": resize_area,
    "bilinear": resize_bilinear,
}


@dataclass(frozen=True)
class LoadedPicture:
    """A picture as the network takes it, float32, (1, C, H, W), and its own height and width."""

    image: np.ndarray
    size: tuple[int, int]


class PictureStudent:
    """An exported student that answers for pictures: a mask, or the probabilities of classes.

    A picture is decoded, resized as by MONAI's ``Resized`` (bilinear without antialiasing, or area) and normalised.
    Masks are decided after the network's answer was resized to the picture's size, as the bundle's ``inference.json``
    does: 255 (or 1, where it says so) where a single class is, else the index of the class.

    Args:
        model: the exported network, with a pipeline of the kind "picture".

    Raises:
        ExportError: the pipeline is not one for pictures, or has what this version does not know.
    """

    endings = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
    postfix = ".png"

    def __init__(self, model: ExportedModel) -> None:
        export = model.description
        self.model = model
        self.classifies = export.task == "classification"
        with reading_pipeline(export) as pipeline:
            self._read(pipeline)
        if self._size != export.spatial_shape or len(self._mean) != export.in_channels:
            raise ExportError(
                f"the network of '{export.folder}' was exported for {export.in_channels} channels of "
                f"{export.spatial_shape}, its pipeline gives {len(self._mean)} of {self._size}; export it again."
            )
        if not self.classifies:
            self._activated = bool(pipeline.get("activated", False))
            self._decide = decide(export, pipeline.get("threshold"), self._activated)
            return
        names = list(pipeline.get("class_names") or export.labels.values())
        if len(names) != export.out_channels or len(set(names)) != len(names):
            raise ExportError(f"expected {export.out_channels} different class names, got {names}; export again.")
        self.class_names = tuple(str(name) for name in names)

    def load(self, path: Path) -> LoadedPicture:
        """Decode a picture and bring it to the network's size and values.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no picture, or one of a mode that the bundle does not convert.
        """
        with read_picture(path) as file:
            if not self._converts and file.mode != self._channels:
                raise ValueError(
                    f"a picture of mode {file.mode}; the bundle reads those of mode {self._channels} and converts "
                    "none: convert the file, or give its LoadImaged a converter"
                )
            pixels = np.asarray(file.convert(self._channels))
        size = (pixels.shape[0], pixels.shape[1])
        pixels = pixels.reshape(*size, -1)
        image = _RESIZE[self._resize](pixels, self._size) if size != self._size else pixels.astype(np.float32)
        if self._whole:
            np.trunc(image, out=image)
        image -= self._mean
        image /= self._std
        return LoadedPicture(np.ascontiguousarray(image.transpose(2, 0, 1))[None], size)

    def infer(self, loaded: LoadedPicture) -> np.ndarray:
        """A mask (H, W), uint8, at the picture's own size, or the probabilities (classes,) of a classification."""
        answer = self.model(loaded.image)
        if self.classifies:
            return np.asarray(probabilities(answer, self.model.description.activation)[0])
        if self._activated:
            activate(answer[0], self.model.description.activation)
        answer = answer[0].transpose(1, 2, 0)
        if loaded.size != self._size:
            answer = _RESIZE[self._resize](answer, loaded.size)
        mask = self._decide(answer.transpose(2, 0, 1))
        return mask * self._foreground if answer.shape[2] == 1 else mask

    def save(self, mask: np.ndarray, loaded: LoadedPicture, target: Path) -> None:
        """Write a mask, whole or not at all."""
        content = io.BytesIO()
        Image.fromarray(mask).save(content, format="PNG")
        save_whole(target, lambda file: file.write(content.getbuffer()))

    def _read(self, pipeline: Mapping[str, Any]) -> None:
        known = {
            "kind", "channels", "size", "resize", "cast", "mean", "std", "threshold", "activated", "foreground",
            "class_names", "convert",
        }  # fmt: skip
        if unknown := sorted(pipeline.keys() - known):
            raise ValueError(f"unknown: {', '.join(unknown)}; update monai_kd")
        for key, allowed in (
            ("kind", ("picture",)),
            ("channels", tuple(_CHANNELS)),
            ("resize", tuple(_RESIZE)),
            ("cast", ("uint8", None)),
            ("foreground", (255, 1, None)),
            ("convert", (False, True, None)),
        ):
            value = pipeline.get(key) if key in ("cast", "foreground", "convert") else pipeline[key]
            if value not in allowed:
                raise ValueError(f"{key} must be one of {', '.join(map(str, allowed))}, got {value!r}; update monai_kd")
        self._channels = str(pipeline["channels"])
        self._converts = pipeline.get("convert") is not False
        self._resize = str(pipeline["resize"])
        self._whole = pipeline.get("cast") == "uint8"  # values lose their fraction after the resizing
        self._foreground = np.uint8(pipeline.get("foreground") or 255)
        height, width = pipeline["size"]
        if not isinstance(height, int) or not isinstance(width, int):
            raise ValueError(f"size must be two whole numbers, got {pipeline['size']}")
        self._size = (height, width)
        self._mean = np.asarray(pipeline["mean"], dtype=np.float32)
        self._std = np.asarray(pipeline["std"], dtype=np.float32)
        if self._mean.shape != (_CHANNELS[self._channels],) or self._std.shape != self._mean.shape:
            raise ValueError(f"mean and std must have {_CHANNELS[self._channels]} numbers, one a channel")
        if not (np.isfinite(self._mean) & np.isfinite(self._std) & (self._std > 0)).all():
            raise ValueError(f"std must be positive, mean and std finite, got {pipeline['mean']} and {pipeline['std']}")
