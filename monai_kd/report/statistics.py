"""Scores of several seeds and cases: means with intervals, paired tests, the share of the gap with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from monai_kd.report.sign_tests import SIGN_FLIPS, WILCOXON, class_mean_test, signed_rank_test

__all__ = [
    "CaseScores",
    "Difference",
    "GapShare",
    "PairedTest",
    "SeedSummary",
    "distinct_seeds",
    "gap_share",
    "over_seeds",
    "paired_test",
    "seed_difference",
]

Array = NDArray[np.float64]
RESAMPLES = 4000
_ROUNDING = 1e-12


@dataclass(frozen=True)
class SeedSummary:
    """Mean of the seeds' scores; spread and Student's t interval of the mean, which need two seeds.

    Seeds that all have exactly the same score say no more than one: they have no interval.
    """

    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Difference:
    """Difference of two means over seeds, with Welch's t interval; ``low`` and ``high`` need two seeds of each.

    Seeds that all have exactly the same score count as one.
    """

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairedTest:
    """The same cases scored by two networks: mean difference with its bootstrap interval, and the p of a test.

    ``test`` is the test's name, and ``direction`` where it points: 1 for better, -1 for worse, 0 for neither.
    Wilcoxon's may point where the mean does not. ``p`` and the interval are ``None`` where they cannot be had: fewer
    than two cases, or no case that differs (no p).
    """

    cases: int
    mean: float
    low: float | None
    high: float | None
    p: float | None
    better: int
    equal: int
    worse: int
    direction: int
    test: str = WILCOXON


@dataclass(frozen=True)
class GapShare:
    """Share of the gap between teacher and baseline that a student closed, with its bootstrap interval.

    All are ``None`` where the gap is not larger than chance: ``gap_low``, the lower end of the gap's own interval, is
    then 0 or less.
    """

    share: float | None
    low: float | None
    high: float | None
    gap: float
    gap_low: float


@dataclass(frozen=True)
class CaseScores:
    """Scores of one kind of network: a row a seed, a column a case.

    Args:
        values: shape (seeds, cases). NaN where a case has no score (no tumour to find).
        strata: class of each case, shape (cases,), for scores that are means of class means, such as balanced accuracy
            of "was it right?"; ``None`` for the mean over cases.

    Raises:
        ValueError: shapes that do not fit, infinite scores, or a seed without any score.

    Example:
        >>> CaseScores(np.array([[1.0, 1.0, 0.0, 1.0]]), np.array([0, 0, 0, 1])).means()
        array([0.83333333])
    """

    values: Array
    strata: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or (self.strata is not None and self.strata.shape != self.values.shape[1:]):
            raise ValueError(
                f"expected values of shape (seeds, cases) and one stratum a case, got {self.values.shape} and "
                f"{None if self.strata is None else self.strata.shape}."
            )
        if np.isinf(self.values).any():
            raise ValueError("scores of cases must be finite, or NaN for cases that have none.")
        if np.isnan(self.values).all(axis=1).any():
            raise ValueError("a seed has no score for any case.")

    def means(self, columns: NDArray[np.int64] | None = None) -> Array:
        """The score of each seed over all cases, or over some of them (repeats allowed)."""
        values = self.values if columns is None else self.values[:, columns]
        if self.strata is None:
            return _nan_mean(values)
        strata = self.strata if columns is None else self.strata[columns]
        return _nan_mean(np.stack([_nan_mean(values[:, strata == one]) for one in np.unique(strata)], axis=1))


def over_seeds(scores: Sequence[float], confidence: float = 0.95) -> SeedSummary:
    """Mean, standard deviation (n - 1) and Student's t interval of the mean over seeds.

    Raises:
        ValueError: no score.

    Example:
        >>> over_seeds([0.5])
        SeedSummary(mean=0.5, deviation=None, low=None, high=None, seeds=1)
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise ValueError("expected the score of one seed at least.")
    mean = float(values.mean())
    if values.size == 1:
        return SeedSummary(mean, None, None, None, 1)
    if _all_equal(values):
        return SeedSummary(mean, 0.0, None, None, values.size)
    deviation = float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, values.size - 1)) * deviation / math.sqrt(values.size)
    return SeedSummary(mean, deviation, mean - half, mean + half, values.size)


def seed_difference(baseline: Sequence[float], distilled: Sequence[float], confidence: float = 0.95) -> Difference:
    """Mean of ``distilled`` less mean of ``baseline``, with Welch's t interval.

    Example:
        >>> seed_difference([0.5, 0.52, 0.51], [0.6, 0.61, 0.62]).low > 0
        True
    """
    mean = float(np.mean(distilled) - np.mean(baseline))
    if min(distinct_seeds(baseline), distinct_seeds(distilled)) < 2:
        return Difference(mean, None, None)
    interval = stats.ttest_ind(distilled, baseline, equal_var=False).confidence_interval(confidence)
    return Difference(mean, float(interval.low), float(interval.high))


def distinct_seeds(scores: Sequence[float]) -> int:
    """How many seeds these are worth: one where all have exactly the same score.

    Example:
        >>> distinct_seeds([0.5, 0.5]), distinct_seeds([0.5, 0.5, 0.6])
        (1, 3)
    """
    return 1 if _all_equal(scores) else len(scores)


def paired_test(baseline: CaseScores, distilled: CaseScores, seed: int = 0, resamples: int = RESAMPLES) -> PairedTest:
    """Compare two kinds of networks on the same cases, each case by its mean over the seeds.

    Without strata the test is Wilcoxon's signed-rank test, which treats cases that are equal as Pratt does; with strata
    it is a permutation test of the mean over strata, which flips signs (:mod:`monai_kd.report.sign_tests`). The
    interval is the percentile bootstrap over cases, within strata where there are some. Both speak of other cases, not
    of other trainings.

    Args:
        baseline: scores of the baseline.
        distilled: scores of the student, the same cases in the same order.
        seed: of the resampling and the flips.
        resamples: of the bootstrap.

    Raises:
        ValueError: another number of cases, other strata, or no case that both have a score for.
    """
    _check_same_cases(baseline, distilled)
    difference = _nan_mean(distilled.values.T) - _nan_mean(baseline.values.T)
    difference[np.abs(difference) < _ROUNDING] = 0.0  # means over seeds in another order
    scored = np.flatnonzero(~np.isnan(difference))
    if scored.size == 0:
        raise ValueError("no case has a score of both networks.")
    strata = None if baseline.strata is None else baseline.strata[scored]
    both = CaseScores(difference[None, scored], strata)
    counts = [int((both.values > 0).sum()), int((both.values == 0).sum()), int((both.values < 0).sum())]
    low = high = p = None
    direction, test = 0, WILCOXON if strata is None else SIGN_FLIPS
    if scored.size > 1:
        generator = np.random.default_rng(seed)
        drawn = np.array([both.means(_resample(strata, scored.size, generator))[0] for _ in range(resamples)])
        low, high = (float(end) for end in np.percentile(drawn, [2.5, 97.5]))
    if counts[1] < scored.size and scored.size > 1:
        found = both.values[0]
        p, direction = signed_rank_test(found) if strata is None else class_mean_test(found, strata, seed)
    better, equal, worse = counts
    return PairedTest(scored.size, float(both.means()[0]), low, high, p, better, equal, worse, direction, test)


def gap_share(
    baseline: CaseScores, distilled: CaseScores, teacher: CaseScores, seed: int = 0, resamples: int = RESAMPLES
) -> GapShare:
    """``(distilled - baseline) / (teacher - baseline)`` of the means over seeds, with a 95 % bootstrap interval.

    Cases are drawn with repeats, the same for all three (within strata where there are some), and seeds of each. Where
    the gap is not above 0 in 97.5 % of the draws there is no share: a quotient by what may be nothing says nothing.

    Args:
        baseline: scores of the baseline.
        distilled: scores of the student.
        teacher: scores of the teacher, the same cases in the same order.
        seed: of the resampling.
        resamples: of the bootstrap.

    Raises:
        ValueError: another number of cases, or other strata.
    """
    networks = (baseline, distilled, teacher)
    _check_same_cases(*networks)
    generator = np.random.default_rng(seed)
    drawn = np.empty((resamples, 3))
    cases = baseline.values.shape[1]
    for row in drawn:
        columns = _resample(baseline.strata, cases, generator)
        for place, network in enumerate(networks):
            means = network.means(columns)
            row[place] = _nan_mean(means[generator.integers(len(means), size=len(means))][None])[0]
    low, middle, high = (float(np.mean(network.means())) for network in networks)
    gaps = drawn[:, 2] - drawn[:, 0]
    gap, gap_low = high - low, float(np.nanpercentile(gaps, 2.5))
    if gap_low <= 0 or gap <= 0:
        return GapShare(None, None, None, gap, gap_low)
    kept = gaps > 0
    ends = np.nanpercentile((drawn[kept, 1] - drawn[kept, 0]) / gaps[kept], [2.5, 97.5])
    return GapShare((middle - low) / gap, float(ends[0]), float(ends[1]), gap, gap_low)


def _all_equal(scores: Sequence[float] | Array) -> bool:
    return float(np.ptp(scores)) == 0.0


def _resample(strata: NDArray[np.int64] | None, cases: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Columns drawn with repeats; of each stratum as many as it has."""
    if strata is None:
        return generator.integers(cases, size=cases)
    members = [np.flatnonzero(strata == one) for one in np.unique(strata)]
    return np.concatenate([generator.choice(places, size=len(places)) for places in members])


def _nan_mean(values: Array) -> Array:
    """Mean along the second axis of what is there; NaN where nothing is."""
    there = ~np.isnan(values)
    count = there.sum(axis=1)
    total = np.where(there, values, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _check_same_cases(*networks: CaseScores) -> None:
    first = networks[0]
    for other in networks[1:]:
        same = (first.strata is None) == (other.strata is None)
        if same and first.strata is not None and other.strata is not None:
            same = np.array_equal(first.strata, other.strata)
        if other.values.shape[1] != first.values.shape[1] or not same:
            raise ValueError(
                "networks are compared on the same cases in the same order: "
                f"{[network.values.shape[1] for network in networks]} cases, or other classes, came."
            )
