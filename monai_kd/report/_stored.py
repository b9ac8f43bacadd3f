"""Stored results, read or refused by the file's name."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from monai_kd._json import read_json

Kind = TypeVar("Kind")
_LARGEST = 1 << 30  # bytes


def read_object(path: Path) -> dict[str, Any]:
    """What a JSON file holds by name.

    Raises:
        ValueError: it holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"'{path}' holds a {type(found).__name__}, not an object.")
    return found


def read_rows(path: Path) -> list[list[str]]:
    """The rows of a CSV file.

    Raises:
        ValueError: it is no table of text in UTF-8.
    """
    if not os.path.isfile(path) or os.path.getsize(path) > _LARGEST:
        raise ValueError(f"'{path}' cannot be read: it is no regular file, or far too large for a table.")
    try:
        text = path.read_text(encoding="utf-8")
        if "\0" in text:
            raise ValueError(f"'{path}' cannot be read: it holds zero bytes.")
        with io.StringIO(text, newline="") as file:
            return list(csv.reader(file))
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"'{path}' cannot be read: {error}.") from None


def expect(right: object, path: Path, what: str, got: Any) -> None:
    """Raise ``ValueError`` where a stored value is not what it must be."""
    if not right:
        raise ValueError(f"'{path}' cannot be used: {what}, got {repr(got)[:200]}.")


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and not ``true``."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> bool:
    """Whether it is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def measured(kind: Callable[..., Kind], raw: Any, path: Path, whose: str) -> Kind:
    """A dataclass of numbers from 0, whole ones where it says ``int``.

    Raises:
        ValueError: one is missing, unknown or no such number.
    """
    known = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]
    expect(isinstance(raw, Mapping) and raw.keys() == known.keys(), path, f"{whose} has {', '.join(known)}", raw)
    for name, sort in known.items():
        right = is_count(raw[name]) if sort == "int" else is_number(raw[name]) and raw[name] >= 0
        expect(right, path, f"'{name}' of {whose} is a {'whole ' * (sort == 'int')}number from 0", raw[name])
    return kind(**raw)
