"""A check of a data list that reports every bad case at once, before training meets the first."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from monai_kd._pictures import read_picture, whole_pictures
from monai_kd._processes import processes

if TYPE_CHECKING:
    from monai_kd.data.readable import UnreadableCases

# Lossy compression rings around the mask's edge: how far (grey levels), and for how much of the image.
_JPEG_LEVELS = 16
_JPEG_SHARE = 0.02
_logger = logging.getLogger(__name__)


class DataError(ValueError):
    """A data list that must not be trained on."""


@dataclass(frozen=True)
class Case:
    """One thing wrong with one item: its index in the data list, the file, the problem; -1 for the list as a whole."""

    index: int
    path: str
    problem: str

    def __str__(self) -> str:
        return f"item {self.index}: {self.path}: {self.problem}" if self.index >= 0 else self.problem


@dataclass
class CheckReport:
    """What a check of a data list found; ``str()`` has one line a case.

    Args:
        items: how many items were checked.
        labelled: how many of them have a label.
        errors: cases that make an item unusable, by index.
        warnings: cases that may be right but are rarely meant, by index.
    """

    items: int = 0
    labelled: int = 0
    errors: list[Case] = field(default_factory=list)
    warnings: list[Case] = field(default_factory=list)

    def __str__(self) -> str:
        head = (
            f"{self.items} items checked, {self.labelled} with a label: "
            f"{len(self.errors)} errors, {len(self.warnings)} warnings"
        )
        lines = [f"error: {case}" for case in self.errors] + [f"warning: {case}" for case in self.warnings]
        return "\n".join([head, *lines])

    def raise_if_bad(self, unreadable: UnreadableCases | None = None, training: Sequence[Any] = ()) -> None:
        """Raise :class:`DataError` with the entire report if there is any error; warnings alone are shown as one.

        Args:
            unreadable: where it skips, errors of the training do not raise: these items are left out, with a warning.
            training: items of the training, the first of those that were checked.

        Raises:
            DataError: an error of another item, or too many of the training.
        """
        bad = [case for case in self.errors if 0 <= case.index < len(training)]
        skips = unreadable is not None and unreadable.skips
        if self.errors and not (skips and len(bad) == len(self.errors)):
            raise DataError(str(self))
        if unreadable is not None and skips:
            indices = {case.index for case in bad}
            good = [item for index, item in enumerate(training) if index not in indices]
            unreadable.leave_out([(case, training[case.index]) for case in bad], len(training), good)
        if self.errors or self.warnings:
            _logger.warning(str(self) + "\nThe items with an error are left out of the training." * bool(bad))


def require_splits(datalist: Mapping[str, Sequence[Any]], *names: str) -> None:
    """Raise :class:`DataError` unless every named split of ``datalist`` has items, one for each process at least.

    Example:
        >>> require_splits({"training": [{"image": "a.png"}]}, "training")
    """
    if empty := [name for name in names if not datalist.get(name)]:
        counts = {name: len(items) for name, items in datalist.items()}
        raise DataError(f"no items in {' and '.join(empty)} (items: {counts}); give more data or a larger fraction.")
    if few := [f"{len(datalist[name])} in {name}" for name in names if len(datalist[name]) < processes()]:
        raise DataError(
            f"{processes()} processes need one item each, but there are {' and '.join(few)}; give more data or a "
            "larger fraction, or start fewer processes."
        )


def check_datalist(
    items: Sequence[Mapping[str, Any]],
    binary: bool = True,
    image_key: str = "image",
    label_key: str = "label",
    progress: bool = False,
) -> CheckReport:
    """Read every image and mask of a 2D data list once and report all that is wrong.

    Errors: an item without image, a file that is missing, unreadable or truncated, an image or mask that is listed
    twice, a mask of another size than its image, a mask that is not binary. Warnings: a mask that is empty or covers
    the image. An item without ``label_key`` is unlabelled, which is fine.

    A binary mask holds 0 and one other value. JPEG masks may differ from the two by 16 grey levels, and by more in
    2 % of the pixels, which is what compression leaves around an edge; threshold them at half their maximum.

    Args:
        items: items with paths, such as ``polyp_datalist(root)["training"]``.
        binary: masks hold one class; ``False`` allows any values.
        image_key: key of the image's path.
        label_key: key of the mask's path.
        progress: show a progress bar.

    Returns:
        The report. ``check_datalist(items).raise_if_bad()`` stops on errors.

    Example:
        >>> print(check_datalist([{"image": "nowhere.jpg"}]))
        1 items checked, 0 with a label: 1 errors, 0 warnings
        error: item 0: nowhere.jpg: no such file
    """
    check = partial(_check_item, binary=binary, image_key=image_key, label_key=label_key)
    return check_each(items, check, file_keys=(image_key, label_key), label_key=label_key, progress=progress)


def check_each(
    items: Sequence[Mapping[str, Any]],
    check: Callable[[int, Mapping[str, Any]], tuple[list[Case], list[Case]]],
    file_keys: Sequence[str],
    label_key: str,
    progress: bool,
) -> CheckReport:
    """The report of ``check(index, item) -> errors, warnings`` for every item, and of files listed twice."""
    report = CheckReport(items=len(items), labelled=sum(item.get(label_key) is not None for item in items))
    for key in file_keys:
        report.errors += duplicates(items, key)
    with whole_pictures(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(check, range(len(items)), items)
        for errors, warnings in tqdm(results, total=len(items), desc="checking", disable=not progress):
            report.errors += errors
            report.warnings += warnings
    report.errors.sort(key=lambda case: case.index)
    return report


def duplicates(items: Sequence[Mapping[str, Any]], key: str) -> list[Case]:
    first: dict[str, int] = {}
    cases = []
    for index, item in enumerate(items):
        if not isinstance(item.get(key), (str, os.PathLike)):
            continue
        path = os.path.normcase(os.path.abspath(item[key]))
        if path in first:
            cases.append(Case(index, str(item[key]), f"{key} already listed in item {first[path]}"))
        first.setdefault(path, index)
    return cases


def _check_item(
    index: int, item: Mapping[str, Any], binary: bool, image_key: str, label_key: str
) -> tuple[list[Case], list[Case]]:
    errors: list[Case] = []
    warnings: list[Case] = []
    if item.get(image_key) is None:
        errors.append(Case(index, str(item.get(label_key, "")), f"no {image_key!r} in the item"))
    sizes = {}
    for key in (image_key, label_key):
        path = item.get(key)
        if path is None:
            continue
        try:
            sizes[key], lossy, values = read_pixels(path)
        except Exception as error:
            errors.append(Case(index, str(path), why_unreadable(path, error)))
            continue
        if key == label_key:
            problem = _not_binary(values, lossy) if binary else None
            if problem:
                errors.append(Case(index, str(path), problem))
            elif not _foreground(values, lossy).any():
                warnings.append(Case(index, str(path), "empty mask"))
            elif _foreground(values, lossy).all():
                warnings.append(Case(index, str(path), "mask covers the whole image"))
    if len(sizes) == 2 and sizes[image_key] != sizes[label_key]:
        width, height = sizes[label_key]
        expected = "x".join(map(str, sizes[image_key]))
        errors.append(Case(index, str(item[label_key]), f"mask is {width}x{height}, its image is {expected}"))
    return errors, warnings


def read_pixels(path: str | os.PathLike[str]) -> tuple[tuple[int, int], bool, np.ndarray]:
    """Size (width, height), whether the compression is lossy, and the pixels, fully decoded."""
    with read_picture(path) as image:
        values = np.asarray(image)
        if image.mode in ("LA", "PA", "RGBA"):
            values = values[..., :-1]
        return image.size, image.format in ("JPEG", "MPO"), values


def why_unreadable(path: object, error: Exception) -> str:
    if not isinstance(path, (str, os.PathLike)):
        return f"expected a path, got {type(path).__name__}"
    if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno == errno.ENOTDIR):
        return "no such file"
    return f"cannot be read: {error or type(error).__name__}"


def _not_binary(values: np.ndarray, lossy: bool) -> str | None:
    if values.ndim == 3:
        if np.ptp(values, axis=-1).max() > (_JPEG_LEVELS if lossy else 0):
            return "mask is not binary: it is coloured"
        values = values[..., 0]
    if lossy:
        values = values.astype(np.int16)
        off = (values > _JPEG_LEVELS) & (values < values.max() - _JPEG_LEVELS)
        if off.mean() > _JPEG_SHARE:
            return f"mask is not binary: {off.mean():.1%} of the pixels are neither near 0 nor near {values.max()}"
        return None
    levels = np.unique(values)
    if len(levels) > 2:
        shown = ", ".join(map(str, levels[:5])) + (", ..." if len(levels) > 5 else "")
        return f"mask is not binary: {len(levels)} values ({shown})"
    if len(levels) == 2 and levels[0] != 0:
        return f"mask is not binary: expected 0 and one other value, got {levels[0]} and {levels[1]}"
    return None


def _foreground(values: np.ndarray, lossy: bool) -> np.ndarray:
    if values.ndim == 3:
        values = values.max(axis=-1)
    return values > (_JPEG_LEVELS if lossy else 0)
