"""Groups of images that show nearly the same, such as the next frame of a video or a copy saved again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from monai_kd._pictures import read_picture, whole_pictures
from monai_kd.data._splits import content_keys
from monai_kd.data.checks import DataError, why_unreadable

__all__ = ["near_duplicate_groups"]

_SIDE = 32
# Binary hashes (dHash, pHash) of 64 bits were worse: at the distance at which they found the pairs known in a set of
# brain MRI, they joined several times as many others, and on colonoscopy frames 100 pairs where 4 were right.
# What is coarser than this, in pixels of the thumbnail, is light.
_COARSE = 3.0
# Contrast, in grey levels, to which all of the thumbnail is brought where there is more: the edge of an endoscope's
# round view, or of a head, would outweigh what is inside and make different images alike.
_FAINT = 4.0
_ROWS = 1024


def near_duplicate_groups(
    paths: Iterable[str | os.PathLike[str]], similarity: float = 0.87, progress: bool = False
) -> list[str]:
    """Which images show nearly the same, so that they stay in one part of a split.

    Two images are near duplicates if the fine structure of their grey thumbnails of 32 x 32 pixels, brought to the same
    contrast everywhere, correlates by ``similarity`` or more, and a group is all that is linked by such pairs. So
    copies that were resized, compressed again, made brighter or of other contrast, cut by two percent or moved by one
    are found; mirrored or turned copies and other views of the same scene are not.

    Reading takes 1 to 3 ms an image, comparing a few seconds for the 50 million pairs of 10,000 images.

    Args:
        paths: image files; listed twice they count once.
        similarity: least correlation of near duplicates, in (0, 1].
        progress: show a progress bar.

    Returns:
        For each of ``paths`` the first path, in sorted order, of its group. Groups do not depend on the order.

    Raises:
        DataError: all files that are missing or cannot be read.
        ValueError: ``similarity`` out of range.

    Example:
        >>> import tempfile
        >>> from monai_kd.data import polyp_frame
        >>> root = tempfile.mkdtemp()
        >>> names = [f"{root}/{name}" for name in ("a.png", "b.jpg", "c.png")]
        >>> for name, seed in zip(names, (1, 1, 2)):
        ...     Image.fromarray(polyp_frame(seed, size=(48, 64))[0]).save(name)
        >>> [os.path.basename(group) for group in near_duplicate_groups(names)]
        ['a.png', 'a.png', 'c.png']
    """
    if not 0 < similarity <= 1:
        raise ValueError(f"similarity must be above 0 and at most 1, got {similarity}.")
    files = [Path(path) for path in paths]
    if not files:
        return []
    ordered = sorted(set(files))
    if missing := [str(path) for path in ordered if not path.is_file()]:
        raise DataError(f"{len(missing)} images not found:\n" + "\n".join(missing))
    keys = content_keys(ordered)
    first = {keys[path]: path for path in reversed(ordered)}  # of each content, the first in order
    contents = sorted(first.values())
    details, problems = _read(contents, progress)
    if bad := [f"{path}: {problems[first[keys[path]]]}" for path in ordered if first[keys[path]] in problems]:
        raise DataError(f"{len(bad)} of {len(ordered)} images cannot be read:\n" + "\n".join(bad))
    number = dict(zip(contents, _linked(details, similarity).tolist()))
    heads: dict[int, Path] = {}
    for path in ordered:
        heads.setdefault(number[first[keys[path]]], path)
    return [str(heads[number[first[keys[path]]]]) for path in files]


def _read(paths: list[Path], progress: bool) -> tuple[np.ndarray, dict[Path, str]]:
    """One vector of unit length an image, float32 (N, 1024), and what is wrong with those that cannot be read.

    The vector of an image without any structure is of length 0.
    """
    details = np.zeros((len(paths), _SIDE * _SIDE), dtype=np.float32)
    problems = {}
    with whole_pictures(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        read = tqdm(pool.map(_detail, paths), total=len(paths), desc="near duplicates", disable=not progress)
        for row, (found, path) in enumerate(zip(read, paths)):
            if isinstance(found, Exception):
                problems[path] = why_unreadable(path, found)
            else:
                details[row] = found.ravel()
    return details, problems


def _detail(path: Path) -> np.ndarray | Exception:
    try:
        # A JPEG file is decoded at a fraction of its size.
        with read_picture(path, draft=("L", (2 * _SIDE, 2 * _SIDE))) as image:
            small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    except Exception as error:
        return error
    grey = np.asarray(small, dtype=np.float32)
    detail = grey - gaussian_filter(grey, _COARSE)
    if detail.std() < 0.5:  # no structure but rounding
        return np.zeros_like(detail)
    detail /= np.sqrt(gaussian_filter(detail**2, _COARSE)) + _FAINT
    detail -= detail.mean()
    return np.asarray(detail / np.linalg.norm(detail))


def _linked(details: np.ndarray, similarity: float) -> np.ndarray:
    """The number of each image's group, shape (N,)."""
    pairs = [np.zeros((2, 0), dtype=int)]
    for row in range(0, len(details), _ROWS):
        alike = details[row : row + _ROWS] @ details[row:].T >= similarity - 1e-5  # of equal ones, within rounding
        pairs.append(np.argwhere(alike).T + row)
    first, second = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(len(details),) * 2)
    return np.asarray(connected_components(graph, directed=False)[1])
