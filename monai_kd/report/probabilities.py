"""Confusion, ROC and reliability of predicted classes over seeds, in plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from monai_kd.report.statistics import Array

__all__ = ["calibration_error", "confusion_of", "reliability_of", "roc_of"]

BINS = 10
_GRID = np.linspace(0, 1, 51)

Labels = NDArray[np.int64]


def confusion_of(labels: Labels, probabilities: Sequence[Array]) -> list[list[int]]:
    """Number of images by true (row) and predicted class (column), summed over seeds.

    Args:
        labels: true classes, shape (N,).
        probabilities: of each seed, shape (N, C).

    Example:
        >>> confusion_of(np.array([0, 1]), [np.array([[0.9, 0.1], [0.6, 0.4]])])
        [[1, 0], [1, 0]]
    """
    classes = np.arange(probabilities[0].shape[1])
    matrices = [confusion_matrix(labels, one.argmax(axis=1), labels=classes) for one in probabilities]
    return np.sum(matrices, axis=0).tolist()


def roc_of(labels: Labels, probabilities: Sequence[Array]) -> dict[int, dict[str, Any]]:
    """ROC of every class against all others, by class index, where images of both are there.

    Args:
        labels: true classes, shape (N,).
        probabilities: of each seed, shape (N, C).

    Returns:
        Per class ``false_positive_rate`` and the mean over seeds of the ``true_positive_rate`` there, and the mean
        ``auc`` of the seeds' own curves.
    """
    found = {}
    for index in range(probabilities[0].shape[1]):
        true = labels == index
        if not true.any() or true.all():
            continue
        curves = [roc_curve(true, one[:, index]) for one in probabilities]
        rates = np.mean([np.interp(_GRID, fpr, tpr) for fpr, tpr, _ in curves], axis=0)
        rates[0] = 0.0
        found[index] = {
            "false_positive_rate": _GRID.tolist(),
            "true_positive_rate": rates.tolist(),
            "auc": float(np.mean([roc_auc_score(true, one[:, index]) for one in probabilities])),
        }
    return found


def reliability_of(labels: Labels, probabilities: Sequence[Array], bins: int = BINS) -> list[dict[str, float]]:
    """How often the predicted class was right, by how probable it was said to be; the images of all seeds together.

    Args:
        labels: true classes, shape (N,).
        probabilities: of each seed, shape (N, C).
        bins: of equal width; those without an image are left out.

    Returns:
        Per bin ``confidence`` and ``accuracy``, means over its images, and its number of ``images``.
    """
    confidence = np.concatenate([one.max(axis=1) for one in probabilities]).clip(0, 1)
    right = np.concatenate([one.argmax(axis=1) == labels for one in probabilities])
    accuracy, mean = calibration_curve(right, confidence, n_bins=bins, strategy="uniform")
    # The bins of calibration_curve, which does not tell how many there are in each.
    places = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    counts = np.bincount(places, minlength=bins)
    return [
        {"confidence": float(c), "accuracy": float(a), "images": int(n)}
        for c, a, n in zip(mean, accuracy, counts[counts > 0])
    ]


def calibration_error(labels: Labels, probabilities: Array, bins: int = BINS) -> float:
    """Expected calibration error of one seed: mean distance of confidence and accuracy, weighted by images.

    Example:
        >>> round(calibration_error(np.array([0, 1]), np.array([[0.75, 0.25], [0.75, 0.25]])), 3)
        0.25
    """
    parts = reliability_of(labels, [probabilities], bins)
    return sum(part["images"] * abs(part["confidence"] - part["accuracy"]) for part in parts) / len(labels)
