"""Pictures of chosen test cases for a page: the image with the truth and every network's mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_kd.report.drawing import encode
from monai_kd.report.overlays import PREDICTION, TRUTH
from monai_kd.report.picture_files import VOLUMES, files_of, mask_of, read_frame, read_labels, read_volume
from monai_kd.report.planes import box_of, largest_error, plane_of, square, window
from monai_kd.report.study import Study

__all__ = ["Panel", "case_pictures"]


@dataclass(frozen=True)
class Panel:
    """One picture of a case: what it shows, the picture as a data URI, and how many planes lie below each other."""

    title: str
    uri: str
    planes: int = 1


def case_pictures(study: Study, cases: Iterable[str]) -> dict[str, list[Panel]]:
    """The image, the truth and each network's mask of some cases, by case; cases without files are left out.

    Files are those of ``study.json``: under ``data``, ``test_cases`` is a list of ``{"image": ..., "label": ...}``,
    absolute or relative to ``dataset_dir``. Masks are found below the ``masks`` folder of a network's first run that
    has one, by the name of the case, the label or the image, with any ending such as ``_seg.nii.gz``. A volume is shown
    in three planes through its largest error. Truth is green, a prediction yellow. A classified picture is shown alone.

    Args:
        study: the comparison.
        cases: names of test cases.
    """
    found = {}
    for case in cases:
        item = files_of(study, case)
        if item is None:
            continue
        panels = _panels(study, case, *item)
        if panels:
            found[case] = panels
    return found


def _panels(study: Study, case: str, image: Path, label: Path | None) -> list[Panel]:
    masks = {n.name: mask_of(n.runs, case, image, label) for n in study.networks}
    paths = {name: path for name, path in masks.items() if path is not None}
    if image.name.endswith(VOLUMES):
        return _volume_panels(image, label, paths)
    frame = read_frame(image)
    panels = [Panel("image", encode([frame], []))]
    truth = None if label is None else read_labels(label)
    if truth is not None:
        panels.append(Panel("truth", encode([frame], [[(truth, TRUTH)]])))
    for name, path in paths.items():
        drawn = [(truth, TRUTH)] if truth is not None else []
        panels.append(Panel(name, encode([frame], [[*drawn, (read_labels(path), PREDICTION)]])))
    return panels


def _volume_panels(image: Path, label: Path | None, paths: Mapping[str, Path]) -> list[Panel]:
    volume, spacing = read_volume(image)
    truth = None if label is None else read_volume(label)[0].astype(np.uint8)
    masks = {name: read_volume(path)[0].astype(np.uint8) for name, path in paths.items()}
    for what, other in [("truth", truth), *masks.items()]:
        if other is not None and other.shape != volume.shape:
            raise ValueError(f"the mask '{what}' of '{image}' is {other.shape}, the image {volume.shape}.")
    point = largest_error(volume.shape, truth, list(masks.values()))
    known = [mask for mask in (truth, *masks.values()) if mask is not None]
    grey = window(volume)
    boxes = [box_of(known, axis, volume.shape, spacing) for axis in (2, 1, 0)]

    def planes(values: NDArray[Any]) -> list[NDArray[Any]]:
        return [square(plane_of(values, axis, point[axis], box), axis, spacing) for axis, box in zip((2, 1, 0), boxes)]

    frames = [np.repeat(plane[..., None], 3, axis=-1) for plane in planes(grey)]
    panels = [Panel("image", encode(frames, []), 3)]
    outline = None if truth is None else planes(truth)
    if outline is not None:
        panels.append(Panel("truth", encode(frames, [[(plane, TRUTH)] for plane in outline]), 3))
    for name, mask in masks.items():
        drawn = [[(plane, PREDICTION)] for plane in planes(mask)]
        if outline is not None:
            drawn = [[(true, TRUTH), *one] for true, one in zip(outline, drawn)]
        panels.append(Panel(name, encode(frames, drawn), 3))
    return panels
