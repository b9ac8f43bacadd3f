"""Teacher, baseline and distilled students side by side, with the share of the gap that was closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai_kd.report.evaluation import Evaluation
from monai_kd.report.words import cell

__all__ = ["NO_INTERVAL", "comparison_table", "gap_closed"]

NO_INTERVAL = (
    "The share of the gap is that of one run each and has no interval, so that the gap may be one of chance; "
    "`monai-kd compare` tests it."
)
TEACHER, BASELINE = "teacher", "baseline"
SMALLEST_GAP = 0.01


def gap_closed(baseline: float, distilled: float, teacher: float) -> float | None:
    """The share of the teacher-baseline gap that the distilled student closed; ``None`` where there is no gap to close.

    It has no interval; :func:`monai_kd.report.statistics.gap_share` has, and refuses gaps that may be chance.

    1 means as good as the teacher, 0 no better than the baseline, and less than 0 that distillation hurt.

    Example:
        >>> round(gap_closed(baseline=0.70, distilled=0.76, teacher=0.80), 2)
        0.6
    """
    gap = teacher - baseline
    return (distilled - baseline) / gap if gap > 0 else None


def comparison_table(evaluations: Mapping[str, Evaluation], score: str, others: Sequence[str] = ()) -> str:
    """A Markdown table of all evaluations, the teacher first, then the baseline.

    Below a table with a share of the gap stands that it is without an interval.

    Args:
        evaluations: by name; "teacher" and "baseline" are what the others are measured against.
        score: the score, higher is better, that the gap is measured in. A gap below 0.01 is told as such: a share of
            it would be one of chance.
        others: further scores to show.

    Raises:
        KeyError: an evaluation without one of the scores.
    """
    for name, one in evaluations.items():
        if missing := [key for key in (score, *others) if key not in one.scores]:
            raise KeyError(f"'{name}' has no score {missing}; it has {sorted(one.scores)}.")
    order = sorted(evaluations, key=lambda name: (name != TEACHER, name != BASELINE, name))
    head = ["model", cell(score), *map(cell, others), "parameters", "GMAC", "ms per frame", "gap closed"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name in order:
        one = evaluations[name]
        rows.append(
            [
                cell(name),
                *(f"{one.scores[key]:.4f}" for key in (score, *others)),
                f"{one.cost.parameters:,}",
                f"{one.cost.gmac:.3f}",
                f"{one.cost.milliseconds:.1f}",
                _gap(evaluations, name, score),
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = []
    for index, row in enumerate(rows):
        cells = [text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths))]
        if index == 1:
            cells = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
        lines.append("| " + " | ".join(cells) + " |")
    if any(row[-1].endswith("%") for row in rows):
        lines += ["", NO_INTERVAL]
    return "\n".join(lines)


def _gap(evaluations: Mapping[str, Evaluation], name: str, score: str) -> str:
    if name in (TEACHER, BASELINE) or not {TEACHER, BASELINE} <= set(evaluations):
        return "-"
    low, reached, high = (evaluations[key].scores[score] for key in (BASELINE, name, TEACHER))
    share = gap_closed(low, reached, high)
    if share is None:
        return "no gap"
    return f"gap < {SMALLEST_GAP}" if high - low < SMALLEST_GAP else f"{100 * share:.0f} %"
