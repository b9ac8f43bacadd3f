"""``key=value`` on the command line."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import typer

__all__ = ["parse_overrides"]

_WORDS = {"true": True, "false": False, "null": None}


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Overrides by key: numbers, lists, ``true``, ``false``, ``null`` as what they are, all else as text.

    Example:
        >>> parse_overrides(["epochs=5", "amp=false", "train#dataset#cache_rate=0.5", "dataset_dir=/data/KiTS19"])
        {'epochs': 5, 'amp': False, 'train#dataset#cache_rate': 0.5, 'dataset_dir': '/data/KiTS19'}
    """
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"expected KEY=VALUE, got '{word}'")
        found[key] = _value(text)
    return found


def _value(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
