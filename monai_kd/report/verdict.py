"""One plain sentence: did distillation help?"""

from __future__ import annotations

from monai_kd.report.statistics import Difference, GapShare, PairedTest

__all__ = ["verdict"]


def verdict(
    score: str, seeds: Difference, cases: PairedTest, share: GapShare | None = None, seed_count: int = 1
) -> str:
    """What may be said of a distilled student beside the baseline.

    A difference counts as shown when the 95 % interval over cases lies on one side of 0, and the one over seeds does so
    too, where there are several. Otherwise the sentence says that no difference was shown, whatever the means are.

    Args:
        score: name of the score, higher is better.
        seeds: difference of the means over seeds.
        cases: the paired comparison over cases.
        share: of the gap; ``None`` where no teacher was scored.
        seed_count: seeds of the students.

    Example:
        >>> cases = PairedTest(40, 0.05, 0.02, 0.08, 0.001, 30, 2, 8)
        >>> print(verdict("meanDice", Difference(0.05, 0.01, 0.09), cases, GapShare(0.5, 0.3, 0.7, 0.1, 0.06), 3))
        Distillation helped: meanDice is 0.050 higher (95 % interval over 3 seeds 0.010 to 0.090, over 40 cases 0.020 to 0.080). It closed 50 % of the gap to the teacher (30 to 70 %).
    """
    direction = _shown(seeds, cases, seed_count)
    amount = abs(seeds.mean)
    intervals = _intervals(seeds, cases, seed_count)
    if direction > 0:
        text = f"Distillation helped: {score} is {amount:.3f} higher ({intervals})."
    elif direction < 0:
        text = f"Distillation hurt: {score} is {amount:.3f} lower than that of the student alone ({intervals})."
    else:
        text = f"No difference was shown: {score} differs by {seeds.mean:+.3f} ({intervals})."
    if seed_count == 1:
        text += " One seed says nothing of another training; run several."
    return f"{text} {_gap(share, direction)}".rstrip()


def _shown(seeds: Difference, cases: PairedTest, seed_count: int) -> int:
    """1 or -1 for a difference that was shown, 0 for none."""
    intervals = [(cases.low, cases.high)] + [(seeds.low, seeds.high)] * (seed_count > 1)
    for sign in (1, -1):
        if all(low is not None and high is not None and min(sign * low, sign * high) > 0 for low, high in intervals):
            return sign
    return 0


def _intervals(seeds: Difference, cases: PairedTest, seed_count: int) -> str:
    parts = []
    if seeds.low is not None and seed_count > 1:
        parts.append(f"over {seed_count} seeds {seeds.low:.3f} to {seeds.high:.3f}")
    if cases.low is not None:
        parts.append(f"over {cases.cases} cases {cases.low:.3f} to {cases.high:.3f}")
    return "95 % interval " + ", ".join(parts) if parts else "one case and one seed, so without an interval"


def _gap(share: GapShare | None, direction: int) -> str:
    if share is None:
        return ""
    if share.share is None:
        if share.gap <= 0:
            return f"The teacher is no better than the student alone ({share.gap:+.3f}): there was nothing to distil."
        return "The teacher was not shown to be better than the student alone, so no share of a gap is given."
    if direction <= 0:
        return ""
    return (
        f"It closed {100 * share.share:.0f} % of the gap to the teacher "
        f"({100 * share.low:.0f} to {100 * share.high:.0f} %)."  # type: ignore[operator]
    )
