"""``0,1,2`` on the command line."""

from __future__ import annotations

import re

import typer

__all__ = ["parse_seeds"]

_END = 2**32


def parse_seeds(text: str) -> tuple[int, ...]:
    """Whole numbers from 0 to 2**32 - 1, which is what NumPy takes, between commas or blanks.

    Raises:
        typer.BadParameter: no number, one that is no seed, or something else.

    Example:
        >>> parse_seeds("0,1,2"), parse_seeds("0 1 2")
        ((0, 1, 2), (0, 1, 2))
    """
    words = re.split(r"[,\s]+", text.strip())
    if not all(re.fullmatch("[0-9]+", word) for word in words):
        raise typer.BadParameter(f"expected whole numbers with commas between them, as 0,1,2; got '{text}'")
    if large := [word for word in words if len(word.lstrip("0")) > 10 or int(word) >= _END]:
        raise typer.BadParameter(f"expected seeds below 2**32 = {_END}; got {', '.join(large)}")
    return tuple(int(word) for word in words)
