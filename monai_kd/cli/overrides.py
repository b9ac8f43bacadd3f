"""``key=value`` on the command line."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import typer

__all__ = ["parse_overrides"]

_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*|(?=\.))(\.[0-9]*)?([eE][+-]?[0-9]+)?")


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Overrides by key: what JSON has (numbers, lists, ``true``, ...) as what it is, all else as text.

    Quotes may be single or double, and Python's ``True``, ``False`` and ``None`` are known. Text that looks like a
    number is put in quotes.

    Raises:
        typer.BadParameter: a word without a key or without "=".

    Example:
        >>> parse_overrides(["epochs=5", "amp=false", "train#dataset#cache_rate=0.5", "dataset_dir=/data/KiTS19"])
        {'epochs': 5, 'amp': False, 'train#dataset#cache_rate': 0.5, 'dataset_dir': '/data/KiTS19'}
        >>> parse_overrides(["roi_size=[96, 96]", "dataset_dir='2024'", "run_name={1,2}"])
        {'roi_size': [96, 96], 'dataset_dir': '2024', 'run_name': '{1,2}'}
    """
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"expected KEY=VALUE, got '{word}'")
        found[key] = _value(text)
    return found


def _value(text: str) -> Any:
    stripped = text.strip()
    if stripped in _WORDS:
        return _WORDS[stripped]
    if not _NUMBER.fullmatch(stripped) and stripped[:1] not in ("[", "{", '"', "'"):
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(stripped)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if _is_json(value):
            return value
    return text


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_json, value.values()))
    if isinstance(value, list):
        return all(map(_is_json, value))
    return math.isfinite(value) if isinstance(value, float) else value is None or isinstance(value, bool | int | str)
