"""Pictures of chosen test cases for a page: the image with the truth and every network's mask."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage.measure import find_contours

from monai_kd.report.overlays import PREDICTION, TRUTH
from monai_kd.report.study import Run, Study

__all__ = ["Panel", "case_pictures"]

Picture = NDArray[np.uint8]
Mask = NDArray[np.uint8]

_WIDTH = 420
_MOST_LABELS = 16
_VOLUMES = (".nii", ".nii.gz")


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
        item = _item(study, case)
        if item is None:
            continue
        panels = _panels(study, case, *item)
        if panels:
            found[case] = panels
    return found


def _panels(study: Study, case: str, image: Path, label: Path | None) -> list[Panel]:
    masks = {n.name: _mask_of(n.runs, case, image, label) for n in study.networks}
    paths = {name: path for name, path in masks.items() if path is not None}
    if image.name.endswith(_VOLUMES):
        return _volume_panels(image, label, paths)
    frame = _frame(image)
    panels = [Panel("image", _encode([frame], []))]
    truth = None if label is None else _labels(label)
    if truth is not None:
        panels.append(Panel("truth", _encode([frame], [[(truth, TRUTH)]])))
    for name, path in paths.items():
        drawn = [(truth, TRUTH)] if truth is not None else []
        panels.append(Panel(name, _encode([frame], [[*drawn, (_labels(path), PREDICTION)]])))
    return panels


def _volume_panels(image: Path, label: Path | None, paths: Mapping[str, Path]) -> list[Panel]:
    volume, spacing = _volume(image)
    truth = None if label is None else _volume(label)[0].astype(np.uint8)
    masks = {name: _volume(path)[0].astype(np.uint8) for name, path in paths.items()}
    for what, other in [("truth", truth), *masks.items()]:
        if other is not None and other.shape != volume.shape:
            raise ValueError(f"the mask '{what}' of '{image}' is {other.shape}, the image {volume.shape}.")
    point = _largest_error(volume.shape, truth, list(masks.values()))
    known = [mask for mask in (truth, *masks.values()) if mask is not None]
    grey = _window(volume)
    boxes = [_box(known, axis, volume.shape, spacing) for axis in (2, 1, 0)]

    def planes(values: NDArray[Any]) -> list[NDArray[Any]]:
        return [_square(_plane(values, axis, point[axis], box), axis, spacing) for axis, box in zip((2, 1, 0), boxes)]

    frames = [np.repeat(plane[..., None], 3, axis=-1) for plane in planes(grey)]
    panels = [Panel("image", _encode(frames, []), 3)]
    outline = None if truth is None else planes(truth)
    if outline is not None:
        panels.append(Panel("truth", _encode(frames, [[(plane, TRUTH)] for plane in outline]), 3))
    for name, mask in masks.items():
        drawn = [[(plane, PREDICTION)] for plane in planes(mask)]
        if outline is not None:
            drawn = [[(true, TRUTH), *one] for true, one in zip(outline, drawn)]
        panels.append(Panel(name, _encode(frames, drawn), 3))
    return panels


# --- files ----------------------------------------------------------------------------------------------------------


def _item(study: Study, case: str) -> tuple[Path, Path | None] | None:
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


def _mask_of(runs: Sequence[Run], case: str, image: Path, label: Path | None) -> Path | None:
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


def _frame(path: Path) -> Picture:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _labels(path: Path) -> Mask:
    """A mask file as a label map: 0 and 255 are 0 and 1, small numbers are labels."""
    with Image.open(path) as image:
        values = np.asarray(image.convert("L"))
    return values if values.max(initial=0) <= _MOST_LABELS else (values > 127).astype(np.uint8)


def _volume(path: Path) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    """Voxels with axes to the right, front and top, and their size in mm."""
    image = nib.as_closest_canonical(nib.load(path))
    values = np.asarray(image.dataobj, dtype=np.float32)
    if values.ndim > 3:
        values = values.reshape(*values.shape[:3], -1)[..., 0]
    return values, tuple(float(step) for step in image.header.get_zooms()[:3])


# --- planes ---------------------------------------------------------------------------------------------------------


def _largest_error(shape: Sequence[int], truth: Mask | None, masks: Sequence[Mask]) -> tuple[int, ...]:
    """A voxel in the middle of the largest connected error of all networks; of the truth where there is none."""
    wrong = np.zeros(shape, bool)
    for mask in masks:
        wrong |= mask != (truth if truth is not None else masks[0])
    if not wrong.any():
        wrong = next((mask > 0 for mask in (truth, *masks) if mask is not None and mask.any()), wrong)
    parts, count = ndimage.label(wrong)
    if count == 0:
        return tuple(length // 2 for length in shape)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    voxels = np.argwhere(parts == largest)
    nearest = voxels[np.argmin(np.square(voxels - voxels.mean(axis=0)).sum(axis=1))]
    return tuple(int(place) for place in nearest)


def _box(masks: Sequence[Mask], axis: int, shape: Sequence[int], spacing: Sequence[float]) -> tuple[slice, slice]:
    """Where the masks are, seen along an axis, with some of what is around; all of it without masks."""
    kept = [a for a in range(3) if a != axis]
    seen = np.zeros([shape[a] for a in kept], bool)
    for mask in masks:
        seen |= (mask > 0).any(axis=axis)
    if not seen.any():
        return slice(None), slice(None)
    sides = []
    for place, a in enumerate(kept):
        used = np.flatnonzero(seen.any(axis=1 - place))
        margin = max(round(0.35 * (used[-1] - used[0] + 1)), round(20 / spacing[a]))
        sides.append(slice(max(0, int(used[0]) - margin), int(used[-1]) + 1 + margin))
    return sides[0], sides[1]


def _plane(values: NDArray[Any], axis: int, place: int, box: tuple[slice, slice]) -> NDArray[Any]:
    """A plane as it is looked at: the patient's right on the left, top or front upwards."""
    return np.take(values, place, axis=axis)[box].T[::-1, ::-1]


def _square(plane: NDArray[Any], axis: int, spacing: Sequence[float]) -> NDArray[Any]:
    """Square pixels of the smallest step, the same in all planes."""
    across, up = (spacing[a] for a in range(3) if a != axis)
    step = min(spacing)
    rows = np.floor(np.arange(round(plane.shape[0] * up / step)) * step / up).astype(int)
    columns = np.floor(np.arange(round(plane.shape[1] * across / step)) * step / across).astype(int)
    return plane[rows.clip(0, plane.shape[0] - 1)][:, columns.clip(0, plane.shape[1] - 1)]


def _window(volume: NDArray[np.float32]) -> Picture:
    """Grey levels, brightest and darkest percent cut off; the most frequent darkest value, air, does not count."""
    inside = volume[np.isfinite(volume) & (volume > volume.min())]
    if inside.size == 0:
        return np.zeros(volume.shape, np.uint8)
    low, high = np.percentile(inside, [1, 99.5])
    scaled = (np.nan_to_num(volume) - low) / max(float(high - low), 1e-6)
    return np.round(255 * scaled.clip(0, 1)).astype(np.uint8)


# --- drawing --------------------------------------------------------------------------------------------------------


def _encode(frames: Sequence[Picture], outlines: Sequence[Sequence[tuple[Mask, str]]]) -> str:
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
