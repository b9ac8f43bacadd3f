"""Windows that a coarse pass saves over label maps of KiTS19, and what it loses: counted, not timed.

The coarse pass is taken to be right: the label map on a grid of 6 mm stands for what the network would find there, so
this is the ceiling. Windows of 96^3 at 1.5 mm that overlap by a quarter, a margin of 20 mm. The maps are those of
``MONAI_KD_DATA``; without it, generated ones.
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
from monai_kd.runtime.regions import windows_near
from monai_kd.runtime.windows import window_slices

SPACING, COARSE, MARGIN, WINDOW, OVERLAP = 1.5, 6.0, 20.0, 96, 0.25


def cases(quick: bool) -> list[Case]:
    def prepare() -> Callable[[], dict[str, float]]:
        return lambda: _count(6 if quick else None)

    return [Case("label maps", {"coarse pass": prepare}, rounds=1, once=("coarse pass",), memory=False)]


def bars(found: Found) -> list[Bar]:
    counted = found["label maps"]["coarse pass"].values[0]
    maps = f"{counted['maps']:g} maps"
    note = (
        "Windows of 144 mm, and 20 mm around both kidneys, leave little of an abdomen out; smaller windows and a "
        "smaller margin save more."
    )
    return [
        Bar("P10", f"{maps}, windows / windows kept", counted["windows"] / counted["kept"], 8, note=note),
        Bar("P10", f"{maps}, largest share of a case's foreground lost", counted["most lost"], 0.001, most=True),
    ]


def _count(limit: int | None) -> dict[str, float]:
    windows = kept = maps = 0
    lost = 0.0
    for labels, affine in _maps(limit):
        fine = make_grid(labels.shape, affine, "RAS", [SPACING] * 3)
        coarse = make_grid(labels.shape, affine, "RAS", [COARSE] * 3)
        found = coarse.from_stored((labels > 0).astype(np.float32)) >= 0.5
        keep = windows_near(found, coarse, fine, MARGIN)
        boxes = window_slices(fine.shape, (WINDOW,) * 3, OVERLAP)
        chosen = boxes if keep is None else [box for box in boxes if keep(box)]
        seen = np.zeros(fine.shape, dtype=bool)
        for box in chosen:
            seen[tuple(slice(max(part.start, 0), part.stop) for part in box)] = True
        foreground = fine.from_stored((labels > 0).astype(np.float32)) >= 0.5
        lost = max(lost, float((foreground & ~seen).sum() / max(foreground.sum(), 1)))
        windows, kept, maps = windows + len(boxes), kept + len(chosen), maps + 1
    return {"maps": maps, "windows": windows, "kept": kept, "most lost": lost}


def _maps(limit: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    root = os.environ.get("MONAI_KD_DATA")
    files = sorted(Path(root, "kits19_labels", "labels_3mm").glob("case_*.nii.gz")) if root else []
    for path in files[:limit]:
        volume = nibabel.load(path)
        yield np.asarray(volume.dataobj), volume.affine
    if not files:
        for seed in range(limit or 20):
            yield abdomen_labels(seed, (128, 128, 100), (3.0, 3.0, 3.0)), np.diag([3.0, 3.0, 3.0, 1.0])
