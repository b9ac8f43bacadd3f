"""What a spreadsheet would make of a table's cells."""

from __future__ import annotations


def as_text(name: str) -> str:
    """A name that a spreadsheet does not take for a formula: behind an apostrophe, which it takes as "this is text".

    Names of files come from others. What a bundle's configuration names is code of the user's own, and is not changed.
    """
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else name
