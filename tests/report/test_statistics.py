"""Intervals, tests and shares against scipy, closed forms and hand-made cases."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from monai_kd.report.statistics import CaseScores, Difference, gap_share, over_seeds, paired_test, seed_difference
from monai_kd.report.verdict import shown, verdict


def scores(*rows, strata=None):
    return CaseScores(np.array(rows, dtype=float), None if strata is None else np.array(strata))


# --- over seeds -----------------------------------------------------------------------------------------------------


def test_mean_and_interval_of_three_seeds_are_those_of_scipy():
    values = [0.61, 0.65, 0.60]
    found = over_seeds(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.mean, found.deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_intervals_are_those_of_statsmodels():
    """Golden numbers of statsmodels 0.15: ``DescrStatsW.tconfint_mean`` and ``CompareMeans.tconfint_diff``."""
    mean = over_seeds([0.61, 0.65, 0.60])
    assert (mean.low, mean.high) == pytest.approx((0.5542758939227157, 0.6857241060772843), rel=1e-9)
    difference = seed_difference([0.50, 0.55, 0.52], [0.60, 0.58, 0.66, 0.61])
    assert (difference.low, difference.high) == pytest.approx((0.03161304361380369, 0.14672028971952955), rel=1e-9)


def test_one_seed_has_no_interval():
    found = over_seeds([0.4])
    assert (found.mean, found.deviation, found.low, found.high) == (0.4, None, None, None)


def test_no_seed_is_refused():
    with pytest.raises(ValueError, match="one seed at least"):
        over_seeds([])


def test_difference_of_seeds_is_welchs():
    baseline, distilled = [0.50, 0.55, 0.52], [0.60, 0.58, 0.66, 0.61]
    expected = stats.ttest_ind(distilled, baseline, equal_var=False)
    found = seed_difference(baseline, distilled)
    assert found.mean == pytest.approx(np.mean(distilled) - np.mean(baseline))
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.low > 0) == (expected.pvalue < 0.05)


def test_difference_of_one_seed_has_no_interval():
    assert seed_difference([0.5], [0.6, 0.7]).low is None


@pytest.mark.parametrize(("baseline", "distilled"), [([0.5] * 3, [0.625] * 3), ([0.5, 0.51], [0.625, 0.625])])
def test_seeds_with_equal_scores_say_no_more_than_one(baseline, distilled):
    """A bundle may ignore its seed: no spread is then no certainty."""
    found = seed_difference(baseline, distilled)
    assert (found.low, found.high) == (None, None)
    one = over_seeds(distilled)
    assert (one.mean, one.deviation, one.low, one.high) == (0.625, 0.0, None, None)


# --- scores of cases ------------------------------------------------------------------------------------------------


def test_mean_over_cases_leaves_out_those_without_a_score():
    assert scores([0.5, math.nan, 1.0], [0.0, 0.5, 1.0]).means() == pytest.approx([0.75, 0.5])


def test_balanced_accuracy_is_the_mean_over_classes():
    from sklearn.metrics import balanced_accuracy_score

    generator = np.random.default_rng(0)
    true, predicted = generator.integers(3, size=50), generator.integers(3, size=50)
    found = scores((true == predicted).astype(float), strata=true).means()
    assert found == pytest.approx([balanced_accuracy_score(true, predicted)])


@pytest.mark.parametrize(
    ("values", "strata", "message"),
    [
        ([0.5, 0.6], None, r"shape \(seeds, cases\)"),
        ([[0.5, 0.6]], [0], "one stratum a case"),
        ([[0.5, math.inf]], None, "finite"),
        ([[0.5], [math.nan]], None, "no score for any case"),
    ],
)
def test_bad_scores_are_refused(values, strata, message):
    with pytest.raises(ValueError, match=message):
        CaseScores(np.array(values), None if strata is None else np.array(strata))


# --- paired over cases ----------------------------------------------------------------------------------------------


def test_wilcoxon_is_scipys_on_the_means_over_seeds():
    generator = np.random.default_rng(1)
    baseline, distilled = generator.random((3, 30)), generator.random((2, 30)) + 0.2
    found = paired_test(CaseScores(baseline), CaseScores(distilled))
    difference = distilled.mean(axis=0) - baseline.mean(axis=0)
    assert found.p == pytest.approx(stats.wilcoxon(difference, zero_method="pratt").pvalue)
    assert found.mean == pytest.approx(difference.mean())
    assert (found.better, found.worse, found.equal) == ((difference > 0).sum(), (difference < 0).sum(), 0)


def test_bootstrap_interval_is_near_scipys():
    difference = np.random.default_rng(2).normal(0.03, 0.1, 60)
    found = paired_test(CaseScores(np.zeros((1, 60))), CaseScores(difference[None]))
    expected = stats.bootstrap((difference,), np.mean, method="percentile", rng=np.random.default_rng(3))
    interval = expected.confidence_interval
    assert (found.low, found.high) == pytest.approx(
        (interval.low, interval.high), abs=0.1 * (interval.high - interval.low)
    )


def test_ties_are_counted_and_ranked_as_pratt_does():
    baseline, distilled = scores([0.5] * 6), scores([0.5, 0.5, 0.6, 0.7, 0.4, 0.9])
    found = paired_test(baseline, distilled)
    assert (found.better, found.equal, found.worse) == (3, 2, 1)
    assert found.p == pytest.approx(stats.wilcoxon([0, 0, 0.1, 0.2, -0.1, 0.4], zero_method="pratt").pvalue, abs=1e-9)
    assert (found.test, found.direction) == ("Wilcoxon", 1)


@pytest.mark.parametrize("equal", [0, 2, 10, 40])
@pytest.mark.parametrize("strata", [False, True])
@pytest.mark.parametrize("differing", [2, 4, 5, 6])
def test_fewer_than_six_cases_that_differ_show_nothing(differing, equal, strata):
    """All signs the same is the rarest of 2^n ways, and has a p of 2 / 2^n however many are equal."""
    one_class = [0] * (differing + equal) if strata else None
    found = paired_test(
        scores([0.0] * (differing + equal), strata=one_class),
        scores([1.0] * differing + [0.0] * equal, strata=one_class),
        resamples=400,
    )
    assert found.p == pytest.approx(2.0 ** (1 - differing))
    assert shown(Difference(found.mean, None, None), found, 1) == (differing == 6)


def test_a_test_that_points_elsewhere_shows_nothing():
    """54 of 60 cases slightly worse, 6 much better: ranks and mean contradict each other."""
    difference = -0.001 - 1e-6 * np.arange(60)
    difference[:6] += 0.25
    for sign in (1, -1):
        found = paired_test(CaseScores(np.full((1, 60), 0.5)), CaseScores(0.5 + sign * difference[None]))
        assert found.p < 0.001
        assert min(sign * found.low, sign * found.high) > 0
        assert (np.sign(found.mean), found.direction) == (sign, -sign)
        seeds = Difference(found.mean, None, None)
        assert shown(seeds, found, 1) == 0
        assert "a few large differences rule the mean" in verdict("Dice", seeds, found)


def test_class_means_are_tested_as_the_interval_has_them():
    """30 of 200 common images lost, 8 of 10 rare ones won: the p of the balanced accuracy is not that of the images."""
    true = np.array([0] * 200 + [1] * 10)
    baseline, distilled = np.ones(210), np.ones(210)
    distilled[:30], baseline[200:208] = 0, 0
    found = paired_test(CaseScores(baseline[None], true), CaseScores(distilled[None], true))
    # The 8 rare ones alone rule the sum: all their signs the same, or one other, in 2 * 9 of 256 ways at the most.
    assert (found.test, found.direction) == ("sign flips", 1)
    assert 1 / 256 < found.p < 18 / 256
    mirrored = paired_test(CaseScores(distilled[None], true), CaseScores(baseline[None], true))
    assert (mirrored.direction, mirrored.p) == (-1, found.p)


def test_sign_flips_are_counted_one_by_one():
    """Nine images of three classes, against every combination of signs."""
    generator = np.random.default_rng(8)
    true, difference = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2]), generator.normal(0.4, 1, 9).round(2)

    def balanced(values):
        return np.mean([values[true == k].mean() for k in range(3)])

    every = [abs(balanced(difference * np.array(signs))) for signs in product((1, -1), repeat=9)]
    found = paired_test(CaseScores(np.zeros((1, 9)), true), CaseScores(difference[None], true))
    assert found.p == pytest.approx(np.mean(np.array(every) >= abs(balanced(difference)) - 1e-12))


def test_sign_flips_reject_chance_as_seldom_as_they_say():
    """Of 100 comparisons without a difference 5 are expected below 0.05; more than 13 have a probability of 0.05 %."""
    generator, true = np.random.default_rng(9), np.array([0] * 40 + [1] * 8)
    rejected = 0
    for _ in range(100):
        right = (generator.random((2, 48)) < 0.7).astype(float)
        found = paired_test(CaseScores(right[:1], true), CaseScores(right[1:], true), resamples=10)
        rejected += found.p < 0.05
    assert rejected <= 13


def test_nothing_differs():
    found = paired_test(scores([0.5, 0.7]), scores([0.5, 0.7]))
    assert (found.mean, found.low, found.high, found.p, found.equal) == (0, 0, 0, None, 2)


def test_the_same_scores_of_seeds_in_another_order_are_ties():
    found = paired_test(scores([0.1, 0.5], [0.2, 0.6], [0.3, 0.7]), scores([0.2, 0.7], [0.3, 0.5], [0.1, 0.6]))
    assert (found.better, found.equal, found.worse, found.p) == (0, 2, 0, None)


def test_one_case_has_neither_interval_nor_p():
    found = paired_test(scores([0.5]), scores([0.7]))
    assert (found.cases, found.low, found.p, found.better) == (1, None, None, 1)


def test_case_without_a_score_of_one_network_is_left_out():
    found = paired_test(scores([0.5, 0.5, math.nan]), scores([0.6, math.nan, 0.9]))
    assert found.cases == 1
    with pytest.raises(ValueError, match="no case"):
        paired_test(scores([0.5, math.nan]), scores([math.nan, 0.5]))


@pytest.mark.parametrize("strata", [None, [0, 0, 1]])
def test_other_cases_are_refused(strata):
    with pytest.raises(ValueError, match="same cases"):
        paired_test(scores([0.5, 0.6]), scores([0.5, 0.6, 0.7], strata=strata))


def test_strata_are_kept_in_each_draw():
    """One picture of a class: drawn without regard to classes it would be missing from a third of the draws."""
    true = [0] * 20 + [1]
    found = paired_test(scores([0.0] * 21, strata=true), scores([0.0] * 20 + [1.0], strata=true))
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


# --- share of the gap -----------------------------------------------------------------------------------------------


def test_share_of_the_gap_is_its_formula():
    generator = np.random.default_rng(4)
    cases = generator.normal(0, 0.02, 200)
    baseline, distilled, teacher = (CaseScores((level + cases)[None]) for level in (0.5, 0.575, 0.6))
    found = gap_share(baseline, distilled, teacher)
    assert (found.share, found.gap) == pytest.approx((0.75, 0.1))
    # The cases move all three alike, so that the share does not move with them.
    assert (found.low, found.high) == pytest.approx((0.75, 0.75))


def test_interval_of_the_share_covers_the_truth_as_often_as_it_says():
    generator, covered = np.random.default_rng(5), 0
    for _ in range(60):
        cases = generator.normal(0, 0.1, 40)
        networks = [CaseScores((level + cases + generator.normal(0, 0.1, 40))[None]) for level in (0.3, 0.5, 0.7)]
        found = gap_share(*networks, resamples=400)
        covered += found.low <= 0.5 <= found.high
    assert 51 <= covered <= 60  # 57 of 60 expected; fewer than 51 has a probability of 0.2 %


def test_seeds_widen_the_interval():
    cases = np.random.default_rng(6).normal(0, 0.02, 100)
    baseline, teacher = CaseScores((0.5 + cases)[None]), CaseScores((0.7 + cases)[None])
    steady = CaseScores(np.stack([0.6 + cases] * 3))
    moved = CaseScores(np.stack([level + cases for level in (0.55, 0.6, 0.65)]))
    widths = [found.high - found.low for found in (gap_share(baseline, one, teacher) for one in (steady, moved))]
    assert widths[1] > widths[0] + 0.2


@pytest.mark.parametrize("teacher", [0.5, 0.4])
def test_no_share_without_a_gap(teacher):
    found = gap_share(scores([0.5] * 5), scores([0.6] * 5), scores([teacher] * 5))
    assert (found.share, found.low, found.high) == (None, None, None)
    assert found.gap == pytest.approx(teacher - 0.5)


def test_no_share_where_the_gap_may_be_chance():
    noise = np.random.default_rng(7).normal(0, 0.3, 12)
    baseline, teacher = CaseScores(np.full((1, 12), 0.5)), CaseScores((0.52 + noise)[None])
    found = gap_share(baseline, scores([0.6] * 12), teacher)
    assert found.share is None
    assert found.gap_low <= 0


def test_a_student_better_than_its_teacher_closed_more_than_the_gap():
    found = gap_share(scores([0.5] * 8), scores([0.8] * 8), scores([0.7] * 8))
    assert found.share == pytest.approx(1.5)


def test_a_harmed_student_closed_less_than_nothing():
    assert gap_share(scores([0.5] * 8), scores([0.4] * 8), scores([0.7] * 8)).share == pytest.approx(-0.5)
