"""The figures of a report, each from the summary alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from monai_kd.report.svg import GRID, INK, MUTED, Style, draw, styles

__all__ = [
    "class_dots",
    "confusion_matrix",
    "gap_bar",
    "has_gap",
    "reliability",
    "roc",
    "scatter",
    "training_curve",
]

Summary = dict[str, Any]

_BOUNDED = ("Dice", "recall", "auc", "precision", "specificity", "f1")


def gap_bar(summary: Summary, name: str = "gap") -> str:
    """Score of every network with its interval and seeds; the gap from the baseline up to the teacher is shaded."""
    networks, look = summary["networks"], styles(summary)
    score = summary["score"]

    def paint(axes: Any) -> None:
        ends = _gap(summary)
        if has_gap(summary):
            axes.axvspan(ends["baseline"], ends["teacher"], color=GRID, alpha=0.35, linewidth=0)
        for mean in ends.values():
            axes.axvline(mean, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        for row, (one, network) in enumerate(networks.items()):
            found = network["scores"][score]
            _dot(axes, found, row, look[one], size=7)
            values = [value for value in found["values"].values() if value is not None]
            if len(values) > 1:
                axes.plot(
                    values, [row + 0.27] * len(values), "|", color=look[one].colour, markersize=5, markeredgewidth=1
                )
        axes.set_yticks(range(len(networks)), [_short(one, 24) for one in networks])
        axes.set_ylim(len(networks) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(score)

    height = 0.7 + 0.4 * len(networks)
    return draw(name, f"{score} of every network, with 95 % intervals over seeds", (4.2, height), paint)


def has_gap(summary: Mapping[str, Any]) -> bool:
    """Whether the teacher's mean score is above the baseline's."""
    ends = _gap(summary)
    return "teacher" in ends and ends["teacher"] > ends["baseline"]


def training_curve(summary: Summary, column: str, name: str) -> str:
    """One loss or validation score over the epochs, a line a seed."""
    look = styles(summary)

    def paint(axes: Any) -> None:
        for network, seeds in summary["histories"].items():
            label = _label(network, 18)
            for history in seeds.values():
                points = [
                    (epoch, value)
                    for epoch, value in zip(history.get("epoch", []), history.get(column, []))
                    if epoch is not None and value is not None
                ]
                if not points:
                    continue
                style = look[network]
                dot = style.marker if len(points) == 1 else None
                axes.plot(
                    *zip(*points), color=style.colour, linestyle=style.dashes, linewidth=1.2, marker=dot, label=label
                )
                label = "_"
        axes.set_title(_short(column, 40), loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            axes.legend(loc="best")

    return draw(name, f"{column} over the epochs, every seed", (3.5, 2.4), paint)


def scatter(summary: Summary, student: str, name: str) -> str:
    """A dot a test case: the baseline's score against the student's; above the diagonal the student is better.

    For a classification it is the probability of the true class.
    """
    rows = summary["comparisons"][student]["by_case"]
    key = "probability_of_truth" if summary["classification"] else "scores"
    baseline = _baseline(summary)
    pairs = np.array(
        [[row[key][baseline], row[key][student]] for row in rows if None not in (row[key][baseline], row[key][student])]
    ).reshape(-1, 2)
    what = "probability of the true class" if summary["classification"] else summary["score"]

    def paint(axes: Any) -> None:
        low, high = (float(pairs.min()), float(pairs.max())) if len(pairs) else (0.0, 1.0)
        margin = 0.04 * (high - low) or 0.02
        ends = (low - margin, high + margin)
        axes.plot(ends, ends, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        alpha = 0.75 if len(pairs) < 200 else 0.4
        axes.scatter(
            *pairs.T, s=14 if len(pairs) < 200 else 6, color=styles(summary)[student].colour, alpha=alpha, linewidths=0
        )
        axes.set_xlim(ends)
        axes.set_ylim(ends)
        axes.locator_params(nbins=5)
        axes.set_xlabel(_short(baseline, 30))
        axes.set_ylabel(_short(student, 30))
        axes.set_title(what, loc="left")

    return draw(name, f"{what} of every case, {baseline} against {student}", (3.3, 3.4), paint, square=True)


def class_dots(summary: Summary, kind: str, name: str) -> str:
    """One score of every class or region: a dot a network, with its interval over seeds."""
    scores = summary["per_class"]["kinds"][kind]
    networks, look = summary["networks"], styles(summary)
    step = 0.5 / max(1, len(networks) - 1) if len(networks) > 1 else 0.0

    def paint(axes: Any) -> None:
        for place, (one, network) in enumerate(networks.items()):
            label = _label(one, 18)
            for row, score in enumerate(scores.values()):
                found = network["scores"].get(score, {"mean": None})
                if found["mean"] is not None:
                    _dot(axes, found, row - 0.25 + place * step, look[one], size=4.5, label=label)
                    label = "_"
        axes.set_xlim(*_limits(networks, list(scores.values()), bounded=kind in _BOUNDED))
        axes.set_yticks(range(len(scores)), [_short(one, 22) for one in scores])
        axes.set_ylim(len(scores) - 0.45, -0.55)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_title(kind.replace("_", " "), loc="left")
        axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)

    height = 1.0 + len(scores) * (0.14 + 0.13 * len(networks))
    return draw(name, f"{kind} by class, with 95 % intervals over seeds", (4.2, height), paint)


def confusion_matrix(summary: Summary, network: str, name: str) -> str:
    """Share of each true class that was predicted as each class, in percent, over all seeds."""
    matrix = np.array(summary["classification"]["confusion"][network], dtype=float)
    classes = summary["classification"]["class_names"]
    total = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, total, out=np.zeros_like(matrix), where=total > 0)

    def paint(axes: Any) -> None:
        colour = styles(summary)[network].colour
        size = len(classes)
        for row in range(size):
            for column in range(size):
                share = float(shares[row, column])
                axes.fill_between(
                    [column - 0.5, column + 0.5], row - 0.5, row + 0.5, color=colour, alpha=0.6 * share, linewidth=0
                )
                if size <= 12 and total[row] > 0:
                    text = f"{100 * share:.0f}"
                    muted = text == "0"
                    axes.text(column, row, text, ha="center", va="center", color=MUTED if muted else INK, fontsize=8)
        labels = [_short(one, 14) for one in classes]
        axes.set_xticks(range(size), labels, rotation=90 if size > 3 else 0)
        axes.set_yticks(range(size), labels)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(_short(network, 30), loc="left")

    side = 3.3 if len(classes) <= 8 else 4.2
    title = f"confusion matrix of {network}, percent of the true class"
    return draw(name, title, (side, side), paint, square=True)


def roc(summary: Summary, of_class: str, name: str) -> str:
    """ROC of one class against all others, mean over seeds, of every network."""
    curves = {
        network: classes[of_class]
        for network, classes in summary["classification"]["roc"].items()
        if of_class in classes
    }
    look = styles(summary)

    def paint(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        for network, curve in curves.items():
            style = look[network]
            axes.plot(
                curve["false_positive_rate"],
                curve["true_positive_rate"],
                color=style.colour,
                linestyle=style.dashes,
                linewidth=1.4,
                label=f"{_label(network, 14)} {curve['auc']:.3f}",
            )
        _unit(axes)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.set_title(_short(of_class, 32), loc="left")
        axes.legend(loc="lower right", title="AUC")

    return draw(name, f"ROC of {of_class}", (3.0, 3.1), paint, square=True)


def reliability(summary: Summary, network: str, name: str) -> str:
    """How often the predicted class was right, by how probable it was said to be."""
    bins = summary["classification"]["reliability"][network]
    images = sum(one["images"] for one in bins)
    found = summary["networks"][network]["scores"].get("calibration_error", {"mean": None})

    def paint(axes: Any) -> None:
        colour = styles(summary)[network].colour
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        x, y = [one["confidence"] for one in bins], [one["accuracy"] for one in bins]
        axes.plot(x, y, color=colour, linewidth=1.2)
        axes.scatter(x, y, s=[8 + 120 * one["images"] / images for one in bins], color=colour, alpha=0.6, linewidths=0)
        _unit(axes)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.set_title(_short(network, 18), loc="left")
        if found["mean"] is not None:
            axes.set_title(f"error {found['mean']:.3f}", loc="right", fontsize=8)

    return draw(name, f"reliability of {network}", (3.0, 3.1), paint, square=True)


def _dot(axes: Any, found: dict[str, Any], row: float, style: Style, size: float, label: str = "_") -> None:
    if found.get("low") is not None:
        axes.plot([found["low"], found["high"]], [row, row], color=style.colour, linewidth=1.6, solid_capstyle="round")
    axes.plot([found["mean"]], [row], style.marker, color=style.colour, markersize=size, label=label, linestyle="none")


def _limits(networks: Summary, scores: list[str], bounded: bool) -> tuple[float, float]:
    """Ends of an axis: room for the intervals, but not for what a share cannot be."""
    found = [one["scores"][score] for one in networks.values() for score in scores if score in one["scores"]]
    ends = [value for one in found for value in (one["mean"], one["low"], one["high"]) if value is not None] or [0, 1]
    low, high = (max(0.0, min(ends)), min(1.0, max(ends))) if bounded else (min(ends), max(ends))
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin


def _unit(axes: Any) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)


def _gap(summary: Mapping[str, Any]) -> dict[str, float]:
    """Mean scores of the baseline and of the teacher, where there is one."""
    score = summary["score"]
    networks = [one for one in summary["networks"].values() if one["role"] in ("teacher", "baseline")]
    return {one["role"]: one["scores"][score]["mean"] for one in networks}


def _baseline(summary: Summary) -> str:
    return next(name for name, one in summary["networks"].items() if one["role"] == "baseline")


def _label(text: str, length: int) -> str:
    """For a legend, which leaves out what begins with an underscore."""
    return _short(f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text, length)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
