"""A data list of somebody's own, and its check by what its items are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import typer

from monai_kd._json import read_json

if TYPE_CHECKING:
    from monai_kd.data.checks import CheckReport

__all__ = ["check_part", "parts_of"]

Items = list[dict[str, Any]]
_VOLUMES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")
_WHOLE = "list"  # name of the one part of a file that is a list itself


def parts_of(path: Path) -> tuple[dict[str, Items], list[str]]:
    """The lists of items of a file by name, and the names of what is none.

    An item is a mapping, or an image's path alone; what is neither is an item without image.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no JSON, or has no items.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no data list or bundle at '{path}'.")
    content = read_json(path)
    lists = content if isinstance(content, dict) else {_WHOLE: content}
    parts = {name: [_item(one) for one in items] for name, items in lists.items() if _is_part(items)}
    if not any(parts.values()):
        raise ValueError(
            f"'{path}' has no list of items with an 'image', such as under 'training' (keys: {sorted(lists)})."
        )
    return parts, [name for name in lists if name not in parts]


def check_part(items: Items, root: Path, classes: int | None, values: Sequence[int] | None) -> CheckReport:
    """Read the files of a list of items, which are relative to ``root``.

    An image may be a list of channels, a file each: each is checked as an image.

    Args:
        items: as :func:`parts_of` has them.
        root: folder of the data list.
        classes: number of classes, where labels are classes.
        values: values of the labels, where images are volumes.

    Raises:
        typer.BadParameter: the labels need ``classes`` or ``values``.
    """
    from monai_kd.data.checks import Case

    check = _checker(items, classes, values)
    items = [_absolute(item, root, ("image",) if classes is not None else ("image", "label")) for item in items]
    channels = [_channels(item) for item in items]
    report = check([_with_channel(item, files, 0) for item, files in zip(items, channels, strict=True)])
    most = max(map(len, channels), default=0)
    for number in range(1, most):
        further = check([_with_channel(item, files, number) for item, files in zip(items, channels, strict=True)])
        report.errors += [case for case in further.errors if case not in report.errors]
        report.warnings += [case for case in further.warnings if case not in report.warnings]
    report.errors += [
        Case(index, str(files[0]), f"channels: {len(files)}, but other items have {most}")
        for index, files in enumerate(channels)
        if 0 < len(files) < most
    ]
    report.errors.sort(key=lambda case: case.index)
    return report


def _is_part(items: Any) -> bool:
    """Whether anything in it is an item; a list of names, such as those of classes, is none."""
    if not isinstance(items, list):
        return False
    texts = (PurePath(one) for one in items if isinstance(one, str))
    return (
        not items
        or any(isinstance(one, dict) for one in items)
        or any(text.suffix or len(text.parts) > 1 for text in texts)
    )


def _item(one: Any) -> dict[str, Any]:
    if isinstance(one, str):
        return {"image": one}
    return dict(one) if isinstance(one, dict) else {}


def _channels(item: Mapping[str, Any]) -> list[Any]:
    image = item.get("image")
    return image if isinstance(image, list) else [] if image is None else [image]


def _with_channel(item: Mapping[str, Any], files: Sequence[Any], number: int) -> dict[str, Any]:
    """The item with one of its channels as its image; with its first where it has no more."""
    image = files[number if number < len(files) else 0] if files else None
    return {**item, "image": image}


def _checker(
    items: Sequence[Mapping[str, Any]], classes: int | None, values: Sequence[int] | None
) -> Callable[[Any], CheckReport]:
    """By what the items are: class indices, volumes, or pictures with masks."""
    from monai_kd.data import check_classes, check_datalist, check_volumes

    if classes is not None:
        return lambda found: check_classes(found, classes, progress=True)
    if any(isinstance(item.get("label"), int) for item in items):
        raise typer.BadParameter("labels are classes: say how many with --classes")
    files = [file for item in items for file in (*_channels(item), item.get("label")) if isinstance(file, str)]
    if files and files[0].lower().endswith(_VOLUMES):
        if not values and any(item.get("label") is not None for item in items):
            raise typer.BadParameter("labels are volumes: say their values, --label-value 0 --label-value 1 ...")
        return lambda found: check_volumes(found, values or (0,), tumour_value=None, hounsfield=False, progress=True)
    return lambda found: check_datalist(found, progress=True)


def _absolute(item: Mapping[str, Any], root: Path, keys: Sequence[str]) -> dict[str, Any]:
    def place(file: Any) -> Any:
        if isinstance(file, list):
            return [place(one) for one in file]
        return str(root / file) if isinstance(file, str) else file

    return {key: place(value) if key in keys else value for key, value in item.items()}
