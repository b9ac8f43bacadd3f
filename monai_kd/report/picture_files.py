"""The files of a test case: image, truth and the masks that were written of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_kd._pictures import FORMATS
from monai_kd.report.study import Run, Study

__all__ = ["VOLUMES", "Mask", "Picture", "files_of", "mask_of", "read_frame", "read_labels", "read_volume"]

Picture = NDArray[np.uint8]
Mask = NDArray[np.uint8]

VOLUMES = (".nii", ".nii.gz")
_MOST_LABELS = 16


def files_of(study: Study, case: str) -> tuple[Path, Path | None] | None:
    """Image and label of a case, where their files are there."""
    data = study.about.get("data") or {}
    root = Path(str(data.get("dataset_dir") or "."))
    listed = data.get("test_cases")
    name = case.removeprefix("'")
    for item in listed if isinstance(listed, list) else []:
        image, label = (_file(root, item.get(key)) if isinstance(item, dict) else None for key in ("image", "label"))
        if image is not None and any(_names(path, name) for path in (image, label) if path is not None):
            return (image, label if label is not None and label.is_file() else None) if image.is_file() else None
    image = root / name  # as a classification's predictions name it
    return (image, None) if image.is_file() and image.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp") else None


def _file(root: Path, value: Any) -> Path | None:
    """A path of a data list; the first of an image in several files. A class is none."""
    value = value[0] if isinstance(value, list) and value else value
    return root / value if isinstance(value, str) and PurePosixPath(value).suffix else None


def _names(path: Path, case: str) -> bool:
    """Whether a case's name, a file with or without folders and ending, is that of ``path``."""
    parts, wanted = path.parts, PurePosixPath(case).parts
    return parts[-len(wanted) :] == wanted or _stem(path.name) == case


def mask_of(runs: Sequence[Run], case: str, image: Path, label: Path | None) -> Path | None:
    """A case's mask of the first run that has one."""
    case = case.removeprefix("'")
    flat = _stem(case).replace("/", "_")
    sources = [image, *([] if label is None else [label]), Path(case)]
    stems = dict.fromkeys([flat, *(_stem(path.name) for path in reversed(sources))])
    for run in runs:
        masks = run.folder / "masks"
        files = sorted(path for path in masks.rglob("*") if path.is_file())
        for stem in stems:
            close = [path for path in files if _stem(path.name).removesuffix("_seg") == stem]
            close = close or [path for path in files if _stem(path.name).startswith(f"{stem}_")]
            # Equally named files in folders of their own: the folders of the image or the label decide.
            shared = [max(_shared(path.relative_to(masks).parent, one.parent) for one in sources) for path in close]
            best = [path for path, number in zip(close, shared) if number == max(shared)]
            if len(best) == 1:
                return best[0]
    return None


def _shared(folder: Path, other: Path) -> int:
    """How many of the last folders of two paths are the same."""
    pairs = list(zip(reversed(folder.parts), reversed(other.parts)))
    return next((number for number, (one, two) in enumerate(pairs) if one != two), len(pairs))


def _stem(name: str) -> str:
    for ending in (".nii.gz", ".nii"):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).suffix else name


def read_frame(path: Path) -> Picture:
    with Image.open(path, formats=FORMATS) as image:
        return np.asarray(image.convert("RGB"))


def read_labels(path: Path) -> Mask:
    """A mask file as a label map: 0 and 255 are 0 and 1, small numbers are labels."""
    with Image.open(path, formats=FORMATS) as image:
        values = np.asarray(image.convert("L"))
    return values if values.max(initial=0) <= _MOST_LABELS else (values > 127).astype(np.uint8)


def read_volume(path: Path) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    """Voxels with axes to the right, front and top, and their size in mm."""
    image = nib.as_closest_canonical(nib.load(path))
    values = np.asarray(image.dataobj, dtype=np.float32)
    if values.ndim > 3:
        values = values.reshape(*values.shape[:3], -1)[..., 0]
    return values, tuple(float(step) for step in image.header.get_zooms()[:3])
