"""A check of a list of images with a class each that reports every bad case at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

from monai_kd.data._splits import content_keys
from monai_kd.data.checks import Case, CheckReport, check_each, read_pixels, why_unreadable

__all__ = ["check_classes"]


def check_classes(
    items: Sequence[Mapping[str, Any]],
    num_classes: int,
    image_key: str = "image",
    label_key: str = "label",
    progress: bool = False,
) -> CheckReport:
    """Read every image of a classification data list once and report all that is wrong.

    Errors: an item without image; an image that is missing, unreadable, truncated, of more than 8 bits, or listed
    twice; a label that is no class. Warnings: a class without any item; files with equal bytes under two labels. An
    item without ``label_key`` is unlabelled, which is fine.

    Args:
        items: items with paths and classes, such as ``ham10000_datalist(root)["training"]``.
        num_classes: number of classes C; a label is an integer from 0 to C - 1.
        image_key: key of the image's path.
        label_key: key of the class.
        progress: show a progress bar.

    Returns:
        The report. ``check_classes(items, 7).raise_if_bad()`` stops on errors.

    Example:
        >>> print(check_classes([{"image": "nowhere.jpg", "label": "nv"}], num_classes=1))
        1 items checked, 1 with a label: 2 errors, 1 warnings
        error: item 0: nowhere.jpg: no such file
        error: item 0: nowhere.jpg: label must be an integer from 0 to 0, got 'nv'
        warning: no item of class 0
    """
    check = partial(_check_item, num_classes=num_classes, image_key=image_key, label_key=label_key)
    report = check_each(items, check, file_keys=(image_key,), label_key=label_key, progress=progress)
    labels = {
        index: int(item[label_key])
        for index, item in enumerate(items)
        if item.get(label_key) is not None and not label_problem(item[label_key], num_classes)
    }
    if empty := sorted(set(range(num_classes)) - set(labels.values())):
        report.warnings.append(Case(-1, "", f"no item of class {', '.join(map(str, empty))}"))
    report.warnings += _disputed(items, labels, image_key)
    return report


def label_problem(label: Any, num_classes: int) -> str | None:
    """What is wrong with a label that is no class."""
    if isinstance(label, Integral) and not isinstance(label, bool) and 0 <= int(label) < num_classes:
        return None
    return f"label must be an integer from 0 to {num_classes - 1}, got {label!r}"


def _check_item(
    index: int, item: Mapping[str, Any], num_classes: int, image_key: str, label_key: str
) -> tuple[list[Case], list[Case]]:
    errors = []
    path, label = item.get(image_key), item.get(label_key)
    if path is None:
        errors.append(Case(index, "", f"no {image_key!r} in the item"))
    else:
        try:
            read_pixels(path)
        except Exception as error:
            errors.append(Case(index, str(path), why_unreadable(path, error)))
    if label is not None and (problem := label_problem(label, num_classes)):
        errors.append(Case(index, str(path or ""), problem))
    return errors, []


def _disputed(items: Sequence[Mapping[str, Any]], labels: Mapping[int, int], image_key: str) -> list[Case]:
    """Labelled files whose bytes an earlier item has under another label."""
    files: dict[Path, int] = {}
    for index in labels:
        image = items[index].get(image_key)
        if isinstance(image, str | os.PathLike) and os.path.isfile(image):
            files.setdefault(Path(image), index)
    cases = []
    first: dict[str, int] = {}
    for path, key in content_keys(files).items():
        index = files[path]
        before = first.setdefault(key, index)
        if labels[before] != labels[index]:
            problem = f"label {labels[index]}, but the same bytes have label {labels[before]} in item {before}"
            cases.append(Case(index, str(path), problem))
    return cases
