"""A check of the teachers that a configuration chooses by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["check_teacher_names"]


def check_teacher_names(names: Sequence[str], known: Iterable[str]) -> None:
    """Raise ``ValueError`` unless ``names`` are one or more different ones of ``known``.

    Args:
        names: the chosen teachers.
        known: all teachers, such as a mapping by their names.

    Raises:
        ValueError: a text in place of a list, no name, one that is not known, or one that comes twice.

    Example:
        >>> check_teacher_names(["densenet121"], {"resnet50": "a.pt", "densenet121": "b.pt"})
    """
    listed = list(known)
    if isinstance(names, str):
        raise ValueError(f"expected a list of teachers, such as {[names]}, got the text {names!r}.")
    if unknown := [name for name in names if name not in listed]:
        raise ValueError(f"no teacher is named {', '.join(map(repr, unknown))}; known: {', '.join(listed)}.")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"expected one or more teachers, each of them once, of {', '.join(listed)}; got {names}.")
