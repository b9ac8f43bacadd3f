"""A CT or another volume to a label map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_kd.runtime.borders import sharp_labels
from monai_kd.runtime.decisions import decide, undecided
from monai_kd.runtime.description import ExportError, reading_pipeline
from monai_kd.runtime.exported import ExportedModel
from monai_kd.runtime.grids import Grid, make_grid
from monai_kd.runtime.intensity import apply_intensity, check_intensity
from monai_kd.runtime.nifti import StoredVolume, read_nifti, write_labels
from monai_kd.runtime.regions import windows_near
from monai_kd.runtime.windows import Box, sliding_window

__all__ = ["LoadedVolume", "VolumeStudent"]


@dataclass(frozen=True)
class LoadedVolume:
    """A volume as its file has it, and on the network's grid: float32, (C, *grid.shape)."""

    stored: StoredVolume
    grid: Grid
    image: np.ndarray
    coarse: tuple[Grid, np.ndarray] | None = None


class VolumeStudent:
    """An exported student that labels the voxels of NIfTI volumes.

    A volume is read, reoriented and resampled once to the spacing of the training, seen in overlapping windows as by
    MONAI's ``SlidingWindowInferer``, and labelled on the network's grid; the labels are brought back to the volume.
    Memory a volume: its file, ``channels + classes + 1`` float32 numbers a voxel of the network's grid, and one byte
    a voxel of the volume.

    Args:
        model: the exported network, with a pipeline of the kind "volume".
        exact_borders: decide after the network's answer was interpolated to the volume, as the bundle's
            ``inference.json`` does, rather than bring labels back by the nearest voxel; what the export says if not
            given. It costs little: only where classes meet is there something to interpolate.
        coarse_spacing: mm; look at the volume on a grid this coarse first, with the same network, and then only at
            windows near what was found; at the whole volume where nothing was. Not done if not given.
        margin: mm, what "near" means.

    Raises:
        ExportError: the pipeline is not one for volumes, or has what this version does not know.
        ValueError: coarse spacing or margin is no such length.
    """

    endings = (".nii.gz", ".nii")
    postfix = "_seg.nii.gz"

    def __init__(
        self,
        model: ExportedModel,
        exact_borders: bool | None = None,
        coarse_spacing: float | None = None,
        margin: float = 20.0,
    ) -> None:
        export = model.description
        self.model = model
        with reading_pipeline(export) as pipeline:
            self._read(pipeline)
        roi = tuple(self._windows["roi_size"])
        if roi != export.spatial_shape:
            raise ExportError(
                f"the network was exported for {export.spatial_shape}, its windows are {roi}; export the bundle again."
            )
        if coarse_spacing is not None and not coarse_spacing > 0:
            raise ValueError(f"coarse_spacing must be a positive number of mm, got {coarse_spacing}.")
        if not margin >= 0:
            raise ValueError(f"margin must be 0 or more mm, got {margin}.")
        self.exact_borders = bool(pipeline.get("exact_borders", False)) if exact_borders is None else exact_borders
        self.coarse_spacing = coarse_spacing
        self.margin = margin
        self._decide = decide(export, pipeline.get("threshold"))

    def load(self, path: Path) -> LoadedVolume:
        """Read a volume and bring it to the network's grid.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no volume for this network.
        """
        stored = read_nifti(path)
        expected = self.model.description.in_channels
        if len(stored.channels) != expected:
            raise ValueError(f"the network takes {expected} channels, the volume has {len(stored.channels)}")
        grid, image = self._prepare(stored, self._spacing)
        coarse = None
        if self.coarse_spacing is not None:
            coarse = self._prepare(stored, [self.coarse_spacing] * 3)
        return LoadedVolume(stored, grid, image, coarse)

    def infer(self, loaded: LoadedVolume, watch: Callable[[list[Box]], Iterable[Box]] = iter) -> np.ndarray:
        """Labels of the volume, uint8, in the axes of its file."""
        keep = None
        if loaded.coarse is not None:
            grid, image = loaded.coarse
            answer, _ = sliding_window(image, self.model, **self._windows)
            keep = windows_near(self._decide(answer), grid, loaded.grid, self.margin)
        answer, seen = sliding_window(loaded.image, self.model, **self._windows, keep=keep, watch=watch)
        if seen is not None:
            undecided(answer, ~seen)
        labels = self._decide(answer)
        if self.exact_borders:
            return sharp_labels(answer, labels, loaded.grid, self._decide)
        return loaded.grid.to_stored(labels)

    def save(self, labels: np.ndarray, loaded: LoadedVolume, target: Path) -> None:
        """Write the labels, whole or not at all."""
        write_labels(target, labels, loaded.stored)

    def _read(self, pipeline: Mapping[str, Any]) -> None:
        known = {
            "kind", "orientation", "spacing", "intensity", "pad_value", "roi_size", "overlap", "mode", "sw_batch_size",
            "exact_borders", "threshold",
        }  # fmt: skip
        if unknown := sorted(pipeline.keys() - known):
            raise ValueError(f"unknown: {', '.join(unknown)}; update monai_kd")
        if pipeline["kind"] != "volume":
            raise ValueError(f"expected the kind 'volume', got {pipeline['kind']!r}")
        self._orientation = pipeline["orientation"]
        self._spacing = None if pipeline["spacing"] is None else [float(mm) for mm in pipeline["spacing"]]
        self._intensity = list(pipeline["intensity"])
        check_intensity(self._intensity)
        self._windows: dict[str, Any] = {
            "roi_size": [int(size) for size in pipeline["roi_size"]],
            "overlap": pipeline["overlap"],
            "mode": pipeline["mode"],
            "pad_value": float(pipeline["pad_value"]),
        }
        if len(self._windows["roi_size"]) != 3:
            raise ValueError(f"roi_size must have three numbers, got {self._windows['roi_size']}")

    def _prepare(self, stored: StoredVolume, spacing: list[float] | None) -> tuple[Grid, np.ndarray]:
        first = stored.channels[0]
        grid = make_grid(first.shape, stored.affine, self._orientation, spacing)
        channels = [grid.from_stored(channel) for channel in stored.channels]
        image = channels[0][None] if len(channels) == 1 else np.stack(channels)
        # Scaled here, where there are fewer voxels: interpolation does not mind.
        if (stored.slope, stored.intercept) != (1.0, 0.0):
            image *= np.float32(stored.slope)
            image += np.float32(stored.intercept)
        if first.dtype.kind == "f" and not np.isfinite(image).all():
            raise ValueError("it holds values that are not finite; replace them")
        return grid, apply_intensity(image, self._intensity)
