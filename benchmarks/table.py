"""The page of all figures, made from the JSON files alone: ``python -m benchmarks.table [RESULTS] [PAGE]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.comparing import figure

HERE = Path(__file__).parent
BARS = {
    "P1": "a distillation step against the student's step and one frozen teacher forward",
    "P2": "a step against the same method as its released code computes it",
    "P3": "a step with a teacher ten times larger, served by a runtime in bf16",
    "P4": "a step with a cached teacher",
    "P5": "class-guided contrast against its sampled form",
    "P6": "the structure loss against a direct average",
    "P7": "the losses of HLFD against their literal form",
    "P8": "a window of a volume: student in a runtime against eager networks",
    "P9": "a CT to a mask: the whole chain",
    "P10": "windows that a coarse pass saves",
    "P11": "pictures from file to file",
    "P12": "preprocessing against MONAI's chain",
    "P13": "generic losses against their usual forms",
    "P14": "cold starts",
    "P15": "growth of the cost",
}
HEAD = """# Measured

Made by `python -m benchmarks.table` from the files in `benchmarks/results`; `make benchmark` writes both.

Forms of one computation run in turn, round after round, in one process on one thread. Ratios are taken round by round:
the median, and the quartiles in brackets. Times are CPU seconds of the process and of those it starts; they are for
orientation, ratios alone can be compared between machines. Memory is the growth of the largest resident size over one
step in a process of its own. Forms called "released", "usual" or "literal" were written for this comparison from the
papers' equations.
"""


def write_table(results: Path, page: Path) -> None:
    """Write the page of the JSON files in a folder."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    page.write_text(table(records), encoding="utf-8")


def table(records: list[dict[str, Any]]) -> str:
    """The page: the bars one after the other, then what every benchmark measured."""
    parts = [HEAD]
    if any(record["quick"] for record in records):
        parts.append("**Some of these are of a quick run, with small sizes and few rounds: no results.**\n")
    parts += ["## Bars\n", *_bars(records), "## All figures\n"]
    for record in records:
        parts += _benchmark(record)
    return "\n".join(parts).rstrip() + "\n"


def _bars(records: list[dict[str, Any]]) -> list[str]:
    lines = ["| | measured | ratio or figure | bar | reached |", "| --- | --- | ---: | ---: | --- |"]
    notes = []
    for key, title in BARS.items():
        bars = [(record, bar) for record in records for bar in record["bars"] if bar["bar"] == key]
        lines.append(f"| **{key}** | **{title}** | | | |")
        for record, bar in bars:
            met = {True: "yes", False: "**no**", None: "not measured"}[bar["met"]]
            name = f"{bar['what']} (`{record['benchmark']}`{', quick' if record['quick'] else ''})"
            lines.append(f"| | {name} | {bar['measured']} | {bar['limit']} | {met} |")
            if bar["note"] and bar["met"] is not True:
                notes.append(f"* **{key}, {bar['what']}.** {bar['note']}")
        if not bars:
            notes.append(f"* **{key}.** Its benchmark was not run.")
    if notes:
        lines += ["", "### Where a bar is not reached, or not measured", "", *notes]
    return ["\n".join(lines) + "\n"]


def _benchmark(record: dict[str, Any]) -> list[str]:
    versions = {key: value for key, value in record["machine"].items() if value is not None and key != "threads"}
    lines = [f"### {record['benchmark']}\n", record["about"] + "\n"]
    lines.append(", ".join(value if key == "cpu" else f"{key} {value}" for key, value in versions.items()) + ".\n")
    rows = ["| case | form | CPU seconds | quartiles | MB | value |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for row in record["rows"]:
        if row["seconds"] is row["megabytes"] is None and isinstance(row["value"], dict):
            continue  # all that it has comes below
        spread = "" if row["low"] in (None, row["high"]) else f"{figure(row['low'])} to {figure(row['high'])}"
        value = "" if isinstance(row["value"], dict) else _cell(row["value"])
        cells = (row["case"], row["form"], _cell(row["seconds"]), spread, _cell(row["megabytes"]), value)
        rows.append("| " + " | ".join(cells) + " |")
    shown = ["\n".join(rows) + "\n"] if len(rows) > 2 else []
    return [*lines, *shown, *_parts(record["rows"])]


def _parts(rows: list[dict[str, Any]]) -> list[str]:
    """Tables of values that have parts, such as the seconds of stages: a column a part; a table a first part."""
    several: dict[str, list[dict[str, Any]]] = {}
    for row in (row for row in rows if isinstance(row["value"], dict)):
        several.setdefault(next(iter(row["value"])), []).append(row)
    tables = []
    for alike in several.values():
        names = list(dict.fromkeys(name for row in alike for name in row["value"]))
        lines = [f"| case | form | {' | '.join(names)} |", "| --- | --- |" + " ---: |" * len(names)]
        for row in alike:
            cells = (row["case"], row["form"], *(_cell(row["value"].get(name)) for name in names))
            lines.append("| " + " | ".join(cells) + " |")
        tables.append("\n".join(lines) + "\n")
    return tables


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return figure(value)
    return "" if value is None else str(value)


if __name__ == "__main__":
    places = [Path(argument) for argument in sys.argv[1:]]
    write_table(*(places + [HERE / "results", HERE / "RESULTS.md"][len(places) :]))
