"""A CT or another volume to a label map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from monai_kd.runtime.borders import nearest_labels, sharp_labels
from monai_kd.runtime.decisions import activate, decide, undecided
from monai_kd.runtime.description import ExportError, reading_pipeline
from monai_kd.runtime.exported import ExportedModel
from monai_kd.runtime.grids import Grid, make_grid
from monai_kd.runtime.intensity import apply_intensity, check_intensity
from monai_kd.runtime.nifti import StoredVolume, read_nifti, write_labels
from monai_kd.runtime.regions import windows_over
from monai_kd.runtime.windows import Answers, Box, sliding_window, window_slices

__all__ = ["LoadedVolume", "VolumeStudent"]

_AT_ONCE = 1 << 26  # numbers of an image that are resampled while a volume is loaded: 256 MiB


@dataclass(frozen=True)
class LoadedVolume:
    """A volume as its file has it, and what the network sees of it.

    Attributes:
        stored: the volume.
        grid: the network's in it.
        image: on that grid, float32, (C, *grid.shape); ``None`` where it is brought there part by part.
        coarse: a coarser grid, and the image on that.
    """

    stored: StoredVolume
    grid: Grid
    image: np.ndarray | None
    coarse: tuple[Grid, np.ndarray] | None = None

    def without_voxels(self) -> LoadedVolume:
        """What is needed to save its labels."""
        return replace(self, stored=replace(self.stored, channels=()), image=None, coarse=None)


class VolumeStudent:
    """An exported student that labels the voxels of NIfTI volumes.

    A volume is read, reoriented and resampled once to the spacing of the training, seen in overlapping windows as by
    MONAI's ``SlidingWindowInferer``, and labelled on the network's grid; the labels are brought back to the volume. A
    large volume goes through all this slab by slab. Memory a volume: its file and a byte a voxel of it, and
    ``channels + classes + 1`` float32 numbers a voxel of a slab, which is as thick as a window. Where intensities are
    scaled by the volume's own, ``channels`` of these are for the whole volume.

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
        if self._roi != export.spatial_shape:
            raise ExportError(
                f"the network of '{export.folder}' was exported for {export.spatial_shape}, its windows are "
                f"{self._roi}; export the bundle again."
            )
        if coarse_spacing is not None and not coarse_spacing > 0:
            raise ValueError(f"coarse_spacing must be a positive number of mm, got {coarse_spacing}.")
        if not margin >= 0:
            raise ValueError(f"margin must be 0 or more mm, got {margin}.")
        self.exact_borders = bool(pipeline.get("exact_borders", False)) if exact_borders is None else exact_borders
        self.coarse_spacing = coarse_spacing
        self.margin = margin
        self._activated = bool(pipeline.get("activated", False))
        self._decide = decide(export, pipeline.get("threshold"), self._activated)

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
        grid = self._grid(stored, self._spacing)
        if self.coarse_spacing is None:
            coarse = None
        elif self.coarse_spacing <= min(grid.spacing):
            raise ValueError(
                f"a coarse pass at {self.coarse_spacing:g} mm is no coarser than the network's grid at "
                f"{' x '.join(f'{mm:g}' for mm in grid.spacing)} mm; give a larger coarse_spacing, or none"
            )
        else:
            around = self._grid(stored, [self.coarse_spacing] * 3)
            coarse = (around, self._image(stored, around))
        # Not more of it than is needed, but all if its values depend on each other.
        at_once = coarse is None and expected * prod(grid.shape) <= _AT_ONCE
        image = self._image(stored, grid) if at_once or not self._by_voxel else None
        return LoadedVolume(stored, grid, image, coarse)

    def infer(self, loaded: LoadedVolume, watch: Callable[[list[Box]], Iterable[Box]] = iter) -> np.ndarray:
        """Labels of the volume, uint8, in the axes of its file."""
        grid = loaded.grid
        answers = Answers(grid.shape, self._windows(loaded), self._mode, self._pad_value)
        read = self._reader(loaded, answers)
        found = np.zeros(grid.stored_shape, dtype=np.uint8, order="F")
        for box, answer, seen in answers.slabs(read, self.model, watch):
            if self._activated:
                begun = box[answers.axis].start > answers.region[answers.axis].start
                # The first slice is the last one of the slab before, with what was made of it.
                fresh = answer[(slice(None),) * (1 + answers.axis) + (slice(int(begun), None),)]
                activate(fresh, self.model.description.activation)
            if seen is not None:
                undecided(answer, ~seen)
            labels = self._decide(answer)
            if self.exact_borders:
                sharp_labels(answer, labels, grid, box, self._decide, found)
            else:
                nearest_labels(labels, grid, box, found)
        return found

    def save(self, labels: np.ndarray, loaded: LoadedVolume, target: Path) -> None:
        """Write the labels, whole or not at all."""
        write_labels(target, labels, loaded.stored)

    def _read(self, pipeline: Mapping[str, Any]) -> None:
        known = {
            "kind", "orientation", "spacing", "intensity", "pad_value", "roi_size", "overlap", "mode", "exact_borders",
            "threshold", "activated",
        }  # fmt: skip
        if unknown := sorted(pipeline.keys() - known):
            raise ValueError(f"unknown: {', '.join(unknown)}; update monai_kd")
        if pipeline["kind"] != "volume":
            raise ValueError(f"expected the kind 'volume', got {pipeline['kind']!r}")
        self._orientation = pipeline["orientation"]
        if self._orientation is not None and not _is_orientation(self._orientation):
            raise ValueError(f"orientation must be one such as 'RAS', got {self._orientation!r}")
        self._spacing = None if pipeline["spacing"] is None else [float(mm) for mm in pipeline["spacing"]]
        if self._spacing is not None and (len(self._spacing) != 3 or not np.isfinite(self._spacing).all()):
            raise ValueError(f"spacing must be three numbers, got {pipeline['spacing']}")
        self._intensity = list(pipeline["intensity"])
        check_intensity(self._intensity)
        self._by_voxel = all(operation["op"] in ("clip", "scale") for operation in self._intensity)
        self._roi = tuple(pipeline["roi_size"])
        if len(self._roi) != 3 or not all(isinstance(size, int) and size > 0 for size in self._roi):
            raise ValueError(f"roi_size must have three numbers, whole and positive, got {list(self._roi)}")
        self._overlap, self._mode = float(pipeline["overlap"]), pipeline["mode"]
        self._pad_value = float(pipeline["pad_value"])
        if not 0 <= self._overlap < 1 or self._mode not in ("gaussian", "constant") or not np.isfinite(self._pad_value):
            raise ValueError(
                "overlap must be from 0 to below 1, mode 'gaussian' or 'constant' and pad_value finite, got "
                f"{self._overlap}, {self._mode!r} and {self._pad_value}"
            )

    def _windows(self, loaded: LoadedVolume) -> list[Box]:
        if loaded.coarse is None:
            return window_slices(loaded.grid.shape, self._roi, self._overlap)
        grid, image = loaded.coarse
        answer = sliding_window(image, self.model, self._roi, self._overlap, self._mode, self._pad_value)
        if self._activated:
            activate(answer, self.model.description.activation)
        return windows_over(self._decide(answer), grid, loaded.grid, self.margin, self._roi, self._overlap)

    def _reader(self, loaded: LoadedVolume, answers: Answers) -> Callable[[Box], np.ndarray]:
        """A function that gives boxes of the image on the network's grid."""
        if (image := loaded.image) is not None:
            return lambda box: image[(slice(None), *box)]
        return _Strip(partial(self._image, loaded.stored, loaded.grid), answers)

    def _grid(self, stored: StoredVolume, spacing: list[float] | None) -> Grid:
        return make_grid(stored.channels[0].shape, stored.affine, self._orientation, spacing)

    def _image(self, stored: StoredVolume, grid: Grid, box: Box | None = None) -> np.ndarray:
        """What the network sees on a grid, or in a box of that, (C, *spatial)."""
        channels = [grid.from_stored(channel, box) for channel in stored.channels]
        image = channels[0][None] if len(channels) == 1 else np.stack(channels)
        # Scaled here, where there are fewer voxels: interpolation does not mind.
        if scaled := (stored.slope, stored.intercept) != (1.0, 0.0):
            image *= np.float32(stored.slope)
            image += np.float32(stored.intercept)
        if (scaled or stored.channels[0].dtype.kind == "f") and not np.isfinite(image).all():
            raise ValueError("it holds values that are not finite; replace them")
        return apply_intensity(image, self._intensity)


def _is_orientation(code: Any) -> bool:
    """Whether each axis of the body is named once: right or left, anterior or posterior, superior or inferior."""
    names = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    return isinstance(code, str) and sorted(names.get(letter, -1) for letter in code) == [0, 1, 2]


class _Strip:
    """The slices of an image that windows, one behind the other, still have to see; made when they are asked for."""

    def __init__(self, make: Callable[[Box], np.ndarray], answers: Answers) -> None:
        self.make, self.axis = make, answers.axis
        self.box = list(answers.region)
        self.box[self.axis] = slice(0, 0)
        self.image = np.empty(0, dtype=np.float32)

    def __call__(self, box: Box) -> np.ndarray:
        wanted, held = box[self.axis], self.box[self.axis]
        if wanted.stop > held.stop:
            self.box[self.axis] = slice(max(wanted.start, held.stop), wanted.stop)
            fresh = self.make(tuple(self.box))
            if wanted.start < held.stop:
                kept = (slice(None),) * (1 + self.axis) + (slice(wanted.start - held.start, None),)
                fresh = np.concatenate([self.image[kept], fresh], axis=1 + self.axis)
            self.image = fresh
            self.box[self.axis] = wanted
        place = (slice(part.start - held.start, part.stop - held.start) for part, held in zip(box, self.box))
        return self.image[(slice(None), *place)]
