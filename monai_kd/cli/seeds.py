"""``0,1,2`` on the command line."""

from __future__ import annotations

import re

import typer

__all__ = ["parse_seeds"]


def parse_seeds(text: str) -> tuple[int, ...]:
    """Whole numbers between commas or blanks.

    Raises:
        typer.BadParameter: no number, or something else.

    Example:
        >>> parse_seeds("0,1,2"), parse_seeds("0 1 2")
        ((0, 1, 2), (0, 1, 2))
    """
    try:
        seeds = tuple(int(word) for word in re.split(r"[,\s]+", text.strip()))
    except ValueError:
        raise typer.BadParameter(f"expected whole numbers with commas between them, as 0,1,2; got '{text}'") from None
    return seeds
