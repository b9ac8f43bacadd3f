"""Windows that a coarse pass saves over label maps of KiTS19, and what it loses: counted, not timed.

The coarse pass is taken to be right: the label map on a grid of 6 mm stands for what the network would find there, so
this is the ceiling. Windows of 96^3 at 1.5 mm that overlap by a quarter, over what lies within a margin of 10 or of 20
mm. "With coarse ones" counts the windows of the coarse pass too. The maps are those of ``MONAI_KD_DATA``; without it,
generated ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np

from benchmarks.comparing import Bar, Case, Found
from monai_kd.data.ct_phantoms import abdomen_labels
from monai_kd.runtime.grids import make_grid
from monai_kd.runtime.regions import windows_over
from monai_kd.runtime.windows import window_slices

SPACING, COARSE, WINDOW, OVERLAP = 1.5, 6.0, (96, 96, 96), 0.25
MARGINS = {"margin 10 mm": 10.0, "margin 20 mm": 20.0}


def cases(quick: bool) -> list[Case]:
    def prepare(margin: float) -> Callable[[], Callable[[], dict[str, float]]]:
        return lambda: lambda: _count(margin, 6 if quick else None)

    forms = {name: prepare(margin) for name, margin in MARGINS.items()}
    return [Case("label maps", forms, rounds=1, once=tuple(forms), memory=False)]


def bars(found: Found) -> list[Bar]:
    result = []
    for name, form in found["label maps"].items():
        counted = form.values[0]
        what = f"{counted['maps']:g} maps, {name}"
        saved, both = (counted["windows"] / counted[key] for key in ("run", "with coarse ones"))
        result += [
            Bar("P10", f"{what}, windows of the whole volume / windows run", saved, 8),
            Bar("P10", f"{what}, the same, windows of the coarse pass counted", both, 8),
            Bar("P10", f"{what}, largest share of a case's foreground lost", counted["most lost"], 0.001, most=True),
            Bar("P10", f"{what}, voxels lost of what the coarse pass found", counted["found lost"], 0, most=True),
        ]
    return result


def _count(margin: float, limit: int | None) -> dict[str, float]:
    counted = dict.fromkeys(("maps", "windows", "run", "with coarse ones", "most run", "most lost", "found lost"), 0.0)
    for labels, affine in _maps(limit):
        fine, coarse = (make_grid(labels.shape, affine, "RAS", [mm] * 3) for mm in (SPACING, COARSE))
        foreground = (labels > 0).astype(np.float32)
        found = coarse.from_stored(foreground) >= 0.5
        windows = windows_over(found, coarse, fine, margin, WINDOW, OVERLAP)
        unseen = np.ones(fine.shape, dtype=bool)
        for window in windows:
            unseen[tuple(slice(max(part.start, 0), part.stop) for part in window)] = False
        foreground = fine.from_stored(foreground) >= 0.5
        middles = np.argwhere(found) * np.divide(coarse.spacing, fine.spacing) + coarse.first_voxel_on(fine)
        places = np.clip(middles.round().astype(int), 0, np.array(fine.shape) - 1)

        counted["maps"] += 1
        counted["windows"] += len(window_slices(fine.shape, WINDOW, OVERLAP))
        counted["run"] += len(windows)
        counted["with coarse ones"] += len(windows) + len(window_slices(coarse.shape, WINDOW, OVERLAP))
        counted["most run"] = max(counted["most run"], len(windows))
        counted["most lost"] = max(counted["most lost"], float((foreground & unseen).sum() / max(foreground.sum(), 1)))
        counted["found lost"] += float(unseen[tuple(places.T)].sum())
    return counted


def _maps(limit: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    root = os.environ.get("MONAI_KD_DATA")
    files = sorted(Path(root, "kits19_labels", "labels_3mm").glob("case_*.nii.gz")) if root else []
    for path in files[:limit]:
        volume = nibabel.load(path)
        yield np.asarray(volume.dataobj), volume.affine
    if not files:
        for seed in range(limit or 20):
            yield abdomen_labels(seed, (128, 128, 100), (3.0, 3.0, 3.0)), np.diag([3.0, 3.0, 3.0, 1.0])
