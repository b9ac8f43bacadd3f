"""Splits, committed or seeded, and the labels that are kept: what the data lists share."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Pair(NamedTuple):
    """An image, its label, and a key that is equal for images with equal bytes."""

    image: Path
    label: Path
    content: str


def check_fractions(val_fraction: float, test_fraction: float, labelled_fraction: float) -> None:
    """Raise ``ValueError`` for shares out of range."""
    if not (0 <= val_fraction < 1 and 0 <= test_fraction < 1 and val_fraction + test_fraction < 1):
        raise ValueError(
            "val_fraction and test_fraction must be 0 or more and leave images for training, "
            f"got {val_fraction} and {test_fraction}."
        )
    if not 0 < labelled_fraction <= 1:
        raise ValueError(f"labelled_fraction must be above 0 and at most 1, got {labelled_fraction}.")


def keep_labels(items: Sequence[dict[str, str]], labelled_fraction: float, seed: int) -> None:
    """Drop ``"label"`` from all but a share of the labelled items, at least one; subsets of one seed are nested."""
    labelled = [item for item in items if "label" in item]
    keep = max(1, round(labelled_fraction * len(labelled)))
    for index in np.random.default_rng([seed, 1]).permutation(len(labelled))[keep:]:
        del labelled[index]["label"]


def content_keys(paths: Iterable[Path]) -> dict[Path, str]:
    """One key a file, equal for files with equal bytes; only files that share their size with another are read."""
    sizes = {path: path.stat().st_size for path in paths}
    shared = {size for size, count in Counter(sizes.values()).items() if count > 1}
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() if size in shared else f"size {size}"
        for path, size in sizes.items()
    }


def share(fraction: float, pairs: Sequence[Pair]) -> int:
    """How many pairs a fraction is: at least one, unless it is 0."""
    return max(1, round(fraction * len(pairs))) if fraction > 0 else 0


def split_off(pairs: list[Pair], wanted: int, generator: np.random.Generator) -> tuple[list[Pair], list[Pair]]:
    """``wanted`` of the pairs and the rest; images with equal bytes together, so there may be a few more."""
    sizes = Counter(pair.content for pair in pairs)  # in the order of first use, so sorted by path
    taken: set[str] = set()
    count = 0
    contents = list(sizes)
    for index in generator.permutation(len(contents)):
        if count >= wanted:
            break
        taken.add(contents[index])
        count += sizes[contents[index]]
    return [pair for pair in pairs if pair.content in taken], [pair for pair in pairs if pair.content not in taken]


def to_items(pairs: Iterable[Pair]) -> list[dict[str, str]]:
    """The pairs as items of a data list, sorted by path."""
    return [{"image": str(pair.image), "label": str(pair.label)} for pair in sorted(pairs)]


def committed(name: str) -> Any:
    """The content of ``splits/<name>.json``."""
    return json.loads((files("monai_kd.data") / "splits" / f"{name}.json").read_text(encoding="utf-8"))


def arrange(
    cases: Mapping[int, dict[str, str]], split: Mapping[str, Sequence[int]], root: Path
) -> dict[str, list[dict[str, str]]]:
    """Items by the split's list that has their id, in its order; cases on none of the lists, unlabelled, train.

    Warns once, with counts, if listed cases are not there.
    """
    names = ("training", "validation", "test")
    parts = {name: [cases[case] for case in split[name] if case in cases] for name in names}
    if any(len(items) < len(split[name]) for name, items in parts.items()):
        counts = ", ".join(f"{name} {len(items)} of {len(split[name])}" for name, items in parts.items())
        warnings.warn(f"{root} holds part of the published cases: {counts}.", stacklevel=3)
    listed = {case for name in names for case in split[name]}
    parts["training"] += [cases[case] for case in sorted(cases.keys() - listed)]
    return parts


def held_out(split: Mapping[str, Sequence[int]]) -> set[int]:
    """Ids that must not be trained on, labelled or not."""
    return {*split["validation"], *split["test"]}
