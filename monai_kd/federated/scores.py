"""The table of a federation: what the students scored at each site after each round."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_kd._files import write_whole

__all__ = ["COLUMNS", "read_scores", "show_scores", "with_means", "write_scores"]

COLUMNS = ("round", "site", "cases", "validation_cases", "site_score", "global_score")
_ALL = "all"
Row = Mapping[str, Any]


def with_means(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows with one for all sites behind those of each round, its scores the means over all validation cases.

    A mean is left out where a site has no score.

    Args:
        rows: of each round and site; ``site_score`` is of the site's own student after the round, ``global_score`` of
            the average that the server made of it, both on the site's validation cases.

    Example:
        >>> a = dict(round=1, site="a", cases=30, validation_cases=1, site_score=0.25, global_score=0.5)
        >>> b = dict(round=1, site="b", cases=10, validation_cases=3, site_score=0.75, global_score=None)
        >>> with_means([a, b])[-1]
        {'round': 1, 'site': 'all', 'cases': 40, 'validation_cases': 4, 'site_score': 0.625, 'global_score': None}
    """
    found: list[dict[str, Any]] = []
    for number in dict.fromkeys(row["round"] for row in rows):
        own = [dict(row) for row in rows if row["round"] == number]
        counts = {name: sum(row[name] for row in own) for name in ("cases", "validation_cases")}
        means = {name: _mean(own, name) for name in ("site_score", "global_score")}
        found += [*own, {"round": number, "site": _ALL, **counts, **means}]
    return found


def write_scores(path: Path, rows: Sequence[Row]) -> None:
    """Write the table as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _text(row[name]) for name in COLUMNS} for row in with_means(rows))
    write_whole(path, text.getvalue())


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, with what is not there as ``None``."""
    kinds = {"site": str, "site_score": float, "global_score": float}
    with open(path, encoding="utf-8", newline="") as file:
        return [
            {name: kinds.get(name, int)(word) if word else None for name, word in row.items()}
            for row in csv.DictReader(file)
        ]


def show_scores(path: Path) -> str:
    """The table of a file as text, its columns aligned."""
    with open(path, encoding="utf-8", newline="") as file:
        lines = [[word or "-" for word in line] for line in csv.reader(file)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(word.rjust(width) for word, width in zip(line, widths)) for line in lines)


def _mean(rows: Sequence[Row], name: str) -> float | None:
    total = sum(row["validation_cases"] for row in rows)
    if not total or any(row[name] is None for row in rows):
        return None
    return float(sum(row[name] * row["validation_cases"] for row in rows) / total)


def _text(value: Any) -> Any:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
