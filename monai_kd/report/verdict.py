"""One plain sentence: did distillation help?"""

from __future__ import annotations

from monai_kd.report.statistics import Difference, GapShare, PairedTest

__all__ = ["verdict"]

_LEVEL = 0.05


def verdict(
    score: str, seeds: Difference, cases: PairedTest | None, share: GapShare | None = None, seed_count: int = 1
) -> str:
    """What may be said of a distilled student beside the baseline.

    A difference counts as shown when the 95 % interval over cases lies on one side of 0 and the test over cases points
    to the same side with a p below 0.05 (a bootstrap alone is too sure of few cases), and the interval over seeds lies
    there too, where there are several.
    Otherwise the sentence says that no difference was shown, whatever the means are. A score without single cases, such
    as an AUC, needs several seeds.

    Args:
        score: name of the score, higher is better.
        seeds: difference of the means over seeds.
        cases: the paired comparison over cases; ``None`` where the score is none of single cases.
        share: of the gap; ``None`` where there is nothing to say of it, as without a teacher.
        seed_count: seeds of the student and the baseline, the smaller number; those with equal scores count as one.

    Example:
        >>> cases = PairedTest(40, 0.05, 0.02, 0.08, 0.001, 30, 2, 8, direction=1)
        >>> share = GapShare(0.5, 0.3, 0.7, 0.1, 0.06)
        >>> verdict("meanDice", Difference(0.05, 0.01, 0.09), cases, share, 3).split(" (")[0]
        'Distillation helped: meanDice is 0.050 higher than that of the student alone'
    """
    direction = shown(seeds, cases, seed_count)
    amount = abs(seeds.mean)
    intervals = _intervals(seeds, cases, seed_count)
    if direction > 0:
        text = f"Distillation helped: {score} is {amount:.3f} higher than that of the student alone ({intervals})."
    elif direction < 0:
        text = f"Distillation hurt: {score} is {amount:.3f} lower than that of the student alone ({intervals})."
    else:
        text = f"No difference was shown: {score} differs by {seeds.mean:+.3f} ({intervals})."
        if _contradict(cases):
            text += " By their ranks the cases moved the other way: a few large differences rule the mean."
    if seed_count == 1:
        text += " One seed says nothing of another training; run several."
    return f"{text} {_gap(share, direction)}".rstrip()


def shown(seeds: Difference, cases: PairedTest | None, seed_count: int) -> int:
    """1 or -1 for a difference that was shown, 0 for none."""
    intervals = [(seeds.low, seeds.high)] * (seed_count > 1)
    if cases is not None:
        if cases.p is None or cases.p >= _LEVEL:
            return 0
        intervals.append((cases.low, cases.high))
    for sign in (1, -1) if intervals else ():
        if cases is not None and cases.direction != sign:
            continue
        if all(low is not None and high is not None and min(sign * low, sign * high) > 0 for low, high in intervals):
            return sign
    return 0


def _contradict(cases: PairedTest | None) -> bool:
    """Whether test and interval both show a difference, to opposite sides."""
    if cases is None or cases.p is None or cases.p >= _LEVEL or cases.low is None or cases.high is None:
        return False
    return min(-cases.direction * cases.low, -cases.direction * cases.high) > 0


def _intervals(seeds: Difference, cases: PairedTest | None, seed_count: int) -> str:
    parts = []
    if seeds.low is not None and seed_count > 1:
        parts.append(f"over {seed_count} seeds {seeds.low:.3f} to {seeds.high:.3f}")
    if cases is not None and cases.low is not None:
        p = "" if cases.p is None else ", p below 0.001" if cases.p < 0.001 else f", p = {cases.p:.3f}"
        parts.append(f"over {cases.cases} cases {cases.low:.3f} to {cases.high:.3f}{p}")
    if parts:
        return "95 % interval " + ", ".join(parts)
    return "one seed, so without an interval" if cases is None else "one case and one seed, so without an interval"


def _gap(share: GapShare | None, direction: int) -> str:
    if share is None:
        return ""
    if share.share is None:
        if share.gap <= 0:
            return f"The teacher was not better than the student alone here ({share.gap:+.3f}): no gap to close."
        return "The teacher was not shown to be better than the student alone, so no share of a gap is given."
    if direction <= 0:
        return ""
    interval = f"({100 * share.low:.0f} to {100 * share.high:.0f} %)"  # type: ignore[operator]
    if share.share > 1:
        return f"It came out above its teacher, at {100 * share.share:.0f} % of the gap {interval}."
    return f"It closed {100 * share.share:.0f} % of the gap to the teacher {interval}."
