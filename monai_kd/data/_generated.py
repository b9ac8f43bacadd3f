"""Generated folders: written whole or not at all, and never over anything else; what goes into them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_MARKER = "phantoms.json"


def generate_folder(
    root: str | os.PathLike[str],
    made: dict[str, Any],
    contents: str,
    write: Callable[[Path, dict[str, Any]], None],
    damage: Callable[[Path, dict[str, Any]], str],
) -> str:
    """Write a folder whole or not at all; one that holds the same generation already is left as it is.

    Args:
        root: folder to write; it may not exist yet, or be empty.
        made: everything the contents depend on, as JSON holds it.
        contents: what they are, for messages, such as "frames".
        write: makes the folder it is given from ``made`` and ends with :func:`mark_generated`.
        damage: what happened to the files of a folder since it was written, such as "lost files"; "" if nothing.

    Returns:
        ``root``.

    Raises:
        FileExistsError: ``root`` holds anything else.
    """
    target = Path(root)
    if _is_free(target, made, contents, damage):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
            draft = Path(temporary, contents)
            write(draft, made)
            try:
                if target.is_dir():
                    target.rmdir()
                draft.rename(target)
            except OSError:  # another process may have been faster
                if _is_free(target, made, contents, damage):
                    raise
    return str(root)


def mark_generated(folder: Path, made: dict[str, Any]) -> None:
    """Say in ``folder`` what it was made from."""
    (folder / _MARKER).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


def height_width(size: int | Sequence[int]) -> tuple[int, int]:
    """Of one number or two, at least 32 each."""
    pair = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(pair) != 2 or min(pair) < 32:
        raise ValueError(f"pictures must be at least 32 pixels high and wide, got size {size}.")
    return int(pair[0]), int(pair[1])


def scenes(classes: int, twice: float, seed: int) -> Iterator[tuple[int, int, int]]:
    """Scene, class and view, one picture after the other without end; that share of the scenes comes twice."""
    scene = 0
    while True:
        views = 1 + (np.random.default_rng([seed, scene, 3]).random() < twice)
        yield from ((scene, scene % classes, view) for view in range(views))
        scene += 1


def _is_free(target: Path, made: dict[str, Any], contents: str, damage: Callable[[Path, dict[str, Any]], str]) -> bool:
    """Whether to write; ``False`` if it is written already, an error if something else is there."""
    if target.is_dir() and not any(target.iterdir()):
        return True
    marker = target / _MARKER
    if marker.is_file():
        found = json.loads(marker.read_text(encoding="utf-8"))
        if found != made:
            raise FileExistsError(f"{target} holds other generated {contents}: {found}, asked for {made}.")
        if what := damage(target, made):
            raise FileExistsError(f"{target} has {what} since it was generated; remove it first.")
        return False
    if target.exists():
        raise FileExistsError(f"{target} exists and was not generated here; give a new or an empty folder.")
    return True
