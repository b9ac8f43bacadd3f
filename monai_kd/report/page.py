"""The report of a comparison: a page that needs nothing else, a Markdown table, and all numbers as JSON."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_kd._files import write_whole
from monai_kd.report import figures, words
from monai_kd.report.overlays import PREDICTION, TRUTH
from monai_kd.report.pictures import Panel, case_pictures
from monai_kd.report.study import load_study
from monai_kd.report.summary import summarise
from monai_kd.report.svg import styles

__all__ = ["markdown", "page", "write_report"]

_PICTURES = 3  # segmented cases that are drawn of those that gained most, and of those that lost most
_DOTS = ("Dice", "recall", "auc", "HD95_mm")
_MOST_ROCS = 12


def write_report(root: str | Path) -> Path:
    """Write ``report.html``, ``report.md`` and ``report.json`` of a comparison into its folder.

    Each file is there whole or not at all, and none is written before all could be made.

    Args:
        root: the folder, as :func:`monai_kd.report.study.load_study` reads it.

    Returns:
        The page.

    Raises:
        ImportError: jinja2 or matplotlib is not installed.
        FileNotFoundError, ValueError: what ``load_study`` refuses.
    """
    study = load_study(root)
    summary = summarise(study)
    most = None if summary["classification"] else _PICTURES
    chosen = [case for one in summary["comparisons"].values() for case in (*one["gained"][:most], *one["lost"][:most])]
    texts = {
        "report.json": json.dumps(summary, indent=2, allow_nan=False) + "\n",
        "report.md": markdown(summary),
        "report.html": page(summary, case_pictures(study, dict.fromkeys(chosen))),
    }
    for name, text in texts.items():
        write_whole(study.root / name, text)
    return study.root / "report.html"


def page(summary: Mapping[str, Any], pictures: Mapping[str, Sequence[Panel]] | None = None) -> str:
    """The page as one HTML text, which asks nothing of a network and runs no script.

    Args:
        summary: of :func:`monai_kd.report.summary.summarise`.
        pictures: panels by case.

    Raises:
        ImportError: jinja2 or matplotlib is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError('the report needs jinja2: pip install "monai-kd[report]"') from error
    environment = Environment(
        loader=PackageLoader("monai_kd.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(_FILTERS)
    per_class = {name for kind in summary["per_class"]["kinds"].values() for name in kind.values()}
    shown = {1: "helped", -1: "hurt", 0: "open"}
    verdicts = [
        {
            **one,
            "shown": shown[one["shown"]],
            "parts": _sentences(one["sentence"]),
            "cost": _typeset(one["cost"]),
        }
        for one in summary["verdicts"]
    ]
    cost = ""
    if len(verdicts) > 1 and len({one["cost"] for one in verdicts}) == 1:  # said once for all students
        cost, verdicts = verdicts[0]["cost"], [{**one, "cost": ""} for one in verdicts]
    return environment.get_template("report.html.jinja").render(
        s={**summary, "verdicts": verdicts},
        f=_figures(dict(summary)),
        keys=_keys(summary),
        shares=_shares(summary),
        roles={name: _role(name, one["role"]) for name, one in summary["networks"].items()},
        cost=cost,
        shaded=figures.has_gap(summary),
        tests={one["cases"]["test"] for one in summary["comparisons"].values() if one["cases"]},
        has_gap="teacher" in {one["role"] for one in summary["networks"].values()},
        colours={"truth": TRUTH, "prediction": PREDICTION},
        volumes=any(panel.planes > 1 for panels in (pictures or {}).values() for panel in panels),
        measured="peak_bytes" in next(iter(summary["networks"].values()))["cost"],
        overall=[name for name in summary["scores"] if name not in per_class and name != summary["score"]],
        rows={name: {row["case"]: row for row in one["by_case"]} for name, one in summary["comparisons"].items()},
        pictures=pictures or {},
        run=_what_was_run(summary),
        command=_command(summary["run"].get("command")),
    )


def _shares(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Shares of the gap, of the students whose difference to the baseline was shown."""
    shown = {one["network"] for one in summary["verdicts"] if one["shown"]}
    shares = {name: one["share"] for name, one in summary["comparisons"].items() if name in shown}
    return {name: share for name, share in shares.items() if share is not None and share["share"] is not None}


def markdown(summary: Mapping[str, Any]) -> str:
    """The verdicts and a table of scores and costs."""
    score = summary["score"]
    head = ["network", "seeds", score, "95 % interval", "share of the gap", "parameters", "GMAC", "ms"]
    rows, shares = [], _shares(summary)
    for name, network in summary["networks"].items():
        found, cost = network["scores"][score], network["cost"]
        share = shares.get(name)
        spread = "" if found["deviation"] is None else f" ± {words.number(found['deviation'])}"
        rows.append(
            [
                name + (f" ({role})" if (role := _role(name, network["role"])) else ""),
                str(len(network["seeds"])),
                f"{words.number(found['mean'])}{spread}",
                words.interval(found),
                words.NONE if share is None else _share(share),
                f"{cost['parameters']:,}",
                words.significant(cost["gmac"]),
                words.significant(cost["milliseconds"]),
            ]
        )
    lines = [f"# {words.cell(summary['bundle'])}", ""]
    for one in summary["verdicts"]:
        lines += [words.cell(f"{one['network']}: {one['sentence']}"), ""]
    lines += [f"| {' | '.join(words.cell(one) for one in head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(words.cell(one) for one in row)} |" for row in rows]
    lines += ["", f"{summary['cases']} test cases. Cost of one forward pass: {words.cell(summary['cost_measured'])}."]
    lines += [f"* {words.cell(note)}" for note in summary["notes"]]
    return "\n".join(lines) + "\n"


def _share(share: Mapping[str, Any]) -> str:
    return f"{words.percent(share['share'])} ({words.percent(share['low'])} to {words.percent(share['high'])})"


def _figures(summary: dict[str, Any]) -> dict[str, Any]:
    """SVG of every figure; markup that is as it is, since matplotlib has escaped what it was given."""
    from markupsafe import Markup

    def each(what: str, make: Callable[..., str], names: Sequence[str]) -> list[Markup]:
        return [Markup(make(summary, one, f"{what}{place}")) for place, one in enumerate(names)]  # noqa: S704

    found: dict[str, Any] = {
        "gap": Markup(figures.gap_bar(summary)),  # noqa: S704
        "classes": each("class", figures.class_dots, [one for one in _DOTS if one in summary["per_class"]["kinds"]]),
        "scatter": each("case", figures.scatter, [n for n, one in summary["comparisons"].items() if one["by_case"]]),
        "curves": each("curve", figures.training_curve, summary["curves"]),
    }
    if summary["classification"]:
        networks = list(summary["networks"])
        classes = [
            one
            for one in summary["classification"]["class_names"]
            if any(one in curves for curves in summary["classification"]["roc"].values())
        ]
        classes = classes[-1:] if len(classes) == 2 else classes[:_MOST_ROCS]  # two classes mirror each other
        found["confusion"] = each("confusion", figures.confusion_matrix, networks)
        found["roc"] = each("roc", figures.roc, classes)
        found["reliability"] = each("reliability", figures.reliability, networks)
    return found


def _keys(summary: Mapping[str, Any]) -> dict[str, str]:
    """The page's colour of every network, as the figures have it."""
    return {name: style.variable for name, style in styles(dict(summary)).items()}


def _sentences(text: str) -> list[str]:
    """The verdict without its intervals, for large print, and the rest of it."""
    first, bracket, rest = text.partition(" (95 % interval ")
    parts = [f"{first}.", f"95 % interval {rest.replace(').', '.', 1)}"] if bracket else [text]
    return [_typeset(part) for part in parts]


def _typeset(text: str) -> str:
    """Minus signs, and numbers on one line with their percent sign."""
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", re.sub(r"(?<=[ (])-(?=\d)", words.MINUS, text))


def _what_was_run(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    run = summary["run"]
    data = run.get("data") or {}
    facts = {
        "bundle": " ".join(str(run[key]) for key in ("bundle", "bundle_version") if run.get(key)),
        "networks": "; ".join(
            _recipe(name, one["role"], run["networks"].get(name) or {}) for name, one in summary["networks"].items()
        ),
        "seeds": "; ".join(f"{name} {', '.join(map(str, one['seeds']))}" for name, one in summary["networks"].items()),
        "config files": words.in_words(run.get("config_files")),
        "overrides": ", ".join(f"{key} = {words.in_words(one)}" for key, one in (run.get("overrides") or {}).items()),
        "data": words.in_words(data.get("dataset_dir")),
        "split": "; ".join(
            [
                words.in_words(_split(data.get("split"))),
                *(f"{name}: {words.in_words(_split(one))}" for name, one in (data.get("other_splits") or {}).items()),
            ]
        ),
        "versions": words.in_words(run.get("versions")),
        "git": _git(run.get("git")),
        "begun": words.moment(run.get("created")),
    }
    return [(key, value) for key, value in facts.items() if value]


def _split(value: Any) -> Any:
    """Without unlabelled data where there are none."""
    if not isinstance(value, dict):
        return value
    return {key: one for key, one in value.items() if (key, one) != ("unlabelled", 0)}


def _role(name: str, role: str) -> str:
    """What a network is, where its name does not say so; a student is distilled."""
    said = {"teacher": "teacher", "auxiliary": "further teacher", "baseline": "student alone"}
    return "" if name == role else said.get(role, "")


def _recipe(name: str, role: str, own: Mapping[str, Any]) -> str:
    """A network with its own files and overrides."""
    text = f"{name} ({word})" if (word := _role(name, role)) else name
    parts = [words.in_words(one) for one in (own.get("files"), own.get("overrides")) if one]
    return f"{text}: {', '.join(parts)}" if parts else text


def _git(value: Any) -> str:
    if not isinstance(value, dict) or "commit" not in value:
        return words.in_words(value)
    return f"commit {value['commit']}" + (", with changes that are not in it" if value.get("changed") else "")


def _command(value: Any) -> str:
    return shlex.join(map(str, value)) if isinstance(value, list) else str(value or "")


_FILTERS: dict[str, Callable[..., str]] = {
    "number": words.number,
    "signed": words.signed,
    "interval": words.interval,
    "percent": words.percent,
    "probability": words.probability,
    "count": words.count,
    "significant": words.significant,
    "bytes": words.byte_count,
    "duration": words.duration,
    "moment": words.moment,
    "case_name": words.case_name,
    "words": lambda text: str(text).replace("_", " "),
}
