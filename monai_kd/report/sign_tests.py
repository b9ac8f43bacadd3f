"""Tests of paired differences by the signs that they might as well have had: p, and where it points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["SIGN_FLIPS", "WILCOXON", "class_mean_test", "signed_rank_test"]

Array = NDArray[np.float64]

WILCOXON, SIGN_FLIPS = "Wilcoxon", "sign flips"  # names of the tests
_EXACT = 13  # differences up to which all signs are tried
_FLIPS = 10_000
_BATCH = 500


def signed_rank_test(differences: Array) -> tuple[float, int]:
    """Wilcoxon's signed-rank test, two-sided; cases that are equal are ranked and then dropped, as Pratt does.

    Up to 13 differences that are not 0, all their signs are tried, also with ties, so that 5 or fewer never give a p
    below 0.05. More are left to scipy.

    Args:
        differences: one a case, shape (cases,); one at least is not 0.

    Returns:
        p, and the sign of the rank sum: 1, -1, or 0.

    Raises:
        ValueError: all differences are 0.

    Example:
        >>> signed_rank_test(np.array([1.0, 1.0, 1.0, 1.0, *[0.0] * 10]))
        (0.125, 1)
    """
    there = _not_zero(differences)
    ranks = (stats.rankdata(np.abs(differences)) * np.sign(differences))[there]
    direction = int(np.sign(ranks.sum()))
    if ranks.size <= _EXACT:
        return _flipped(ranks), direction
    return float(stats.wilcoxon(differences, zero_method="pratt").pvalue), direction


def class_mean_test(differences: Array, strata: NDArray[np.int64], seed: int = 0) -> tuple[float, int]:
    """Permutation test of the mean over classes of the class means, two-sided, such as that of a balanced accuracy.

    Signs of the differences are flipped, each case's alone: all ways up to 13 differences that are not 0, otherwise
    10,000 at random.

    Args:
        differences: one a case, shape (cases,); one at least is not 0.
        strata: class of each case, shape (cases,).
        seed: of the flips.

    Returns:
        p, and the sign of the mean: 1, -1, or 0.

    Raises:
        ValueError: all differences are 0.

    Example:
        >>> class_mean_test(np.array([1.0, 0.0, 0.0, -1.0]), np.array([0, 0, 0, 1]))
        (1.0, -1)
    """
    there = _not_zero(differences)
    _, place, counts = np.unique(strata, return_inverse=True, return_counts=True)
    weights = (differences / (counts[place] * counts.size))[there]
    return _flipped(weights, seed), int(np.sign(weights.sum()))


def _not_zero(differences: Array) -> NDArray[np.bool_]:
    there = differences != 0
    if not there.any():
        raise ValueError("no case differs, so there is nothing to test.")
    return there


def _flipped(weights: Array, seed: int = 0) -> float:
    """How often a sum with other signs is as far from 0: the p of a permutation test."""
    if weights.size == 1:  # scipy wants two; both signs of one are as far
        return 1.0
    test = stats.permutation_test(
        (weights,), np.sum, permutation_type="samples", n_resamples=_FLIPS, vectorized=True, batch=_BATCH, rng=seed
    )
    return float(test.pvalue)
