"""Numbers, times and lists of a report in words; a dash for what is not there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Any

__all__ = [
    "MINUS",
    "NONE",
    "byte_count",
    "case_name",
    "cell",
    "count",
    "duration",
    "in_words",
    "interval",
    "moment",
    "number",
    "percent",
    "probability",
    "signed",
    "significant",
]

NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
_MOST_WORDS = 12


def number(value: float | None) -> str:
    """Three decimals; large ones without."""
    return NONE if value is None else (f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}").replace("-", MINUS)


def signed(value: float | None) -> str:
    """A difference with its sign."""
    return NONE if value is None else f"{value:+.3f}".replace("-", MINUS)


def interval(found: Mapping[str, Any]) -> str:
    """The two ends of an interval."""
    return NONE if found.get("low") is None else f"{number(found['low'])} to {number(found['high'])}"


def percent(value: float | None) -> str:
    """A share of 1 in percent."""
    return NONE if value is None else f"{100 * value:.0f} %".replace("-", MINUS)


def probability(value: float | None) -> str:
    """A test's p."""
    return NONE if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: int | None) -> str:
    """A count in thousands or millions."""
    if value is None:
        return NONE
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.1f} k" if value >= 1e4 else f"{value:,}"


def significant(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def byte_count(value: int | None) -> str:
    """A size in memory or on disk."""
    if value is None:
        return NONE
    return f"{value / 1e6:,.1f} MB" if value >= 1e5 else f"{value / 1e3:,.1f} kB"


def duration(value: float | None) -> str:
    """Seconds, minutes or hours."""
    if value is None:
        return NONE
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def cell(text: str) -> str:
    """Text that is no markup in a table of Markdown."""
    text = re.sub(r"[\\|<&`*\[~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)
    return " ".join(text.split())


def case_name(case: str) -> str:
    """A file by its folder and name alone."""
    return "/".join(PurePosixPath(case.removeprefix("'")).parts[-2:])


def moment(value: Any) -> str:
    """A time as it is read, in UTC; other text as it is."""
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        return in_words(value)
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC" if time.tzinfo else f"{time:%Y-%m-%d %H:%M}"


def in_words(value: Any) -> str:
    """Text of plain data; long lists by their length."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {in_words(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        if len(value) > _MOST_WORDS:
            return f"{len(value)} of them"
        return ", ".join(in_words(one) for one in value)
    return "" if value is None else str(value)
