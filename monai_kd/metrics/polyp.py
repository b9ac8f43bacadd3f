"""Scores of the polyp segmentation benchmarks, over 256 thresholds, on top of pysodmetrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced
from numpy.typing import NDArray
from torch import Tensor

from monai_kd._processes import rank
from monai_kd.metrics._cases import case_name, gather_cases, write_cases

Array = NDArray[np.float64]

POLYP_SCORES = (
    "meanDice",
    "maxDice",
    "meanIoU",
    "maxIoU",
    "wFmeasure",
    "Smeasure",
    "meanEmeasure",
    "maxEmeasure",
    "MAE",
)
"""Names of the scores, all in [0, 1] (E-measures up to N / (N - 1)); the higher the better, but for ``MAE``."""

_THRESHOLDS = np.linspace(1, 0, 256)[::-1]
_CURVES = ("Dice", "IoU", "Emeasure")
_SCALARS = ("wFmeasure", "Smeasure", "MAE")
_ROW = 256 * len(_CURVES) + len(_SCALARS)


def polyp_scores(
    pred: Tensor | Array | Sequence[Tensor | Array],
    label: Tensor | Array | Sequence[Tensor | Array],
    minmax: bool = False,
) -> dict[str, float]:
    """Scores of one image, or of a set of images as the benchmarks report them.

    The protocol is the Python one of PraNet's and UACANet's evaluation: predictions in 8 bits, 256 thresholds, a mean
    over images at every threshold, then the mean or the maximum over thresholds. It differs from pysodmetrics (which
    follows the MATLAB originals) in these points, so expect the third decimal to differ between the two:

    * a pixel belongs to the prediction where it is at least ``linspace(1, 0, 256)[i]``, compared in float64;
      pysodmetrics compares truncated 8-bit levels.
    * S-measure: quadrants meet at the centroid (pysodmetrics: one pixel below and to the right of it), and the
      deviation in the object score is that of the population (pysodmetrics: n - 1).
    * Weighted F-measure: errors are smoothed with the border repeated (pysodmetrics: zeros outside).
    * pysodmetrics stretches every prediction to [0, 1]; here only with ``minmax``.

    An image without a polyp has Dice, IoU and weighted F-measure 0, whatever the prediction (the released code gives
    NaN for the last): the benchmarks hold none, and these scores do not suit sets that do.

    Args:
        pred: foreground probabilities, shape (H, W) or (1, H, W), or a sequence of such (of any sizes).
        label: masks with values in [0, 1], cut at 0.5; shapes as those of ``pred``.
        minmax: stretch every prediction to [0, 1] first, as the released inference does. A prediction without
            foreground is impossible then.

    Returns:
        The scores :data:`POLYP_SCORES` by name.

    Raises:
        ImportError: pysodmetrics is not installed.
        ValueError: no images, shapes that do not fit, or values outside [0, 1].

    Example:
        >>> label = torch.zeros(1, 32, 32)
        >>> label[:, 8:20, 10:25] = 1
        >>> polyp_scores(label, label)["maxDice"]
        1.0
    """
    if isinstance(pred, (Tensor, np.ndarray)) and isinstance(label, (Tensor, np.ndarray)):
        return _aggregate(image_row(pred, label, minmax)[None])
    if len(pred) != len(label) or len(pred) == 0:
        raise ValueError(f"expected one label for every prediction, got {len(pred)} predictions, {len(label)} labels.")
    return _aggregate(np.stack([image_row(p, g, minmax) for p, g in zip(pred, label)]))


class PolypMetrics(Metric):
    """The scores of :func:`polyp_scores` over the images of an evaluation, computed once for all of them.

    Attached under a name, as key metric or additional metric of a MONAI evaluator, it stores the chosen score in
    ``engine.state.metrics`` under that name, all scores beside it under ``prefix`` and their own names, and the scores
    of every image, shape (images, 9), in ``engine.state.metric_details``. With several processes the scores of all
    images are gathered first, so maxima over thresholds are exact.

    Args:
        score: the score that stands under the attached name, one of :data:`POLYP_SCORES`.
        minmax: stretch every prediction to [0, 1] first, as the released inference does.
        prefix: put before the scores' own names, so that several of these can be attached to one engine.
        cases_path: a CSV file, written whole at the end of the evaluation, with one row an image, sorted by name
            (folder and file of the label): the scores that it has alone. Beside it ``*_summary.csv``.
        output_transform: takes ``(pred, label)`` from the engine's output, e.g. ``from_engine(["pred", "label"])``;
            foreground probabilities and masks, as batches of shape (B, 1, H, W) or lists of (1, H, W).

    Raises:
        ImportError: pysodmetrics is not installed.
        ValueError: no such score.

    Example:
        >>> metric = PolypMetrics(score="maxDice")
        >>> label = torch.zeros(2, 1, 32, 32)
        >>> label[:, :, 8:20, 10:25] = 1
        >>> metric.update((label, label))
        >>> metric.compute()
        1.0
    """

    def __init__(
        self,
        score: str = "meanDice",
        minmax: bool = False,
        prefix: str = "",
        cases_path: str | Path | None = None,
        output_transform: Callable[..., Any] = lambda x: x,
    ) -> None:
        if score not in POLYP_SCORES:
            raise ValueError(f"unknown score {score!r}, expected one of {', '.join(POLYP_SCORES)}.")
        _pysodmetrics()
        self.score = score
        self.minmax = minmax
        self.prefix = prefix
        self.cases_path = None if cases_path is None else Path(cases_path)
        self._names: list[str] = []
        self._rows: list[Tensor] = []
        super().__init__(output_transform)

    @reinit__is_reduced
    def reset(self) -> None:
        self._names, self._rows = [], []

    @reinit__is_reduced
    def update(self, output: Sequence[Any]) -> None:
        """
        Args:
            output: ``(pred, label)``, batches of shape (B, 1, H, W) or sequences of (1, H, W).

        Raises:
            ValueError: not as many labels as predictions, shapes that do not fit, or values outside [0, 1].
        """
        pred, label = output
        if len(pred) != len(label):
            raise ValueError(f"expected one label for every prediction, got {len(pred)} and {len(label)}.")
        for p, g in zip(pred, label):
            self._names.append(case_name(len(self._rows), g, p))
            self._rows.append(torch.from_numpy(image_row(p, g, self.minmax)))

    def scores(self) -> dict[str, float]:
        """All scores over the images of all processes, by name.

        Raises:
            NotComputableError: there were no images.
        """
        return _aggregate(self._gather()[1])

    def compute(self) -> float:
        """The chosen score."""
        return self.scores()[self.score]

    def completed(self, engine: Engine, name: str) -> None:
        names, rows = self._gather()
        scores = _aggregate(rows)
        engine.state.metrics.update({self.prefix + key: value for key, value in scores.items()})
        engine.state.metrics[name] = scores[self.score]
        details = vars(engine.state).setdefault("metric_details", {})
        images = np.array([list(_aggregate(row[None]).values()) for row in rows])
        details[name] = torch.from_numpy(images).float()
        if self.cases_path is not None and rank() == 0:
            write_cases(self.cases_path, names, POLYP_SCORES, images)

    def _gather(self) -> tuple[list[str], Array]:
        """Names and rows of the images of all processes, sorted by name."""
        names, rows = gather_cases(self._names, self._rows, _ROW)
        if len(rows) == 0:
            raise NotComputableError("PolypMetrics saw no images; was the evaluator run?")
        return names, rows


def image_row(pred: Tensor | Array, label: Tensor | Array, minmax: bool = False) -> Array:
    """One image's curves over thresholds (Dice, IoU, E-measure) and its other scores, one after the other."""
    sod = _pysodmetrics()
    probability, truth = _as_image(pred, "pred"), _as_image(label, "label") > 0.5
    if probability.shape != truth.shape:
        raise ValueError(
            f"pred and label differ in size: {probability.shape} and {truth.shape}; resize the logits to the label "
            "(bilinear), then take the sigmoid."
        )
    if minmax:
        low, high = probability.min(), probability.max()
        probability = (probability - low) / (high - low + 1e-8)
    probability = np.round(probability * 255) / 255

    # pysodmetrics cuts at k / 255: hand it the number of thresholds passed instead of the probability.
    passed = np.searchsorted(_THRESHOLDS, probability, side="right") - 1
    levels = np.minimum((passed + 0.5) / 255, 1.0)
    handlers = {name: handler(True, False) for name, handler in (("dice", sod.DICEHandler), ("iou", sod.IOUHandler))}
    overlap, alignment = sod.FmeasureV2(handlers), sod.Emeasure()
    overlap.step(levels, truth, normalize=False)
    alignment.step(levels, truth, normalize=False)
    curves = [
        handlers["dice"].dynamic_results[0],
        handlers["iou"].dynamic_results[0],
        alignment.get_results()["em"]["curve"],
    ]
    scalars = [
        _weighted_f(probability, truth, sod.WeightedFmeasure()),
        _s_measure(probability, truth, sod.Smeasure()),
        np.abs(probability - truth).mean(),
    ]
    return np.concatenate([*curves, scalars])


def _aggregate(rows: Array) -> dict[str, float]:
    mean = rows.mean(axis=0)
    scores = dict(zip(_SCALARS, mean[-len(_SCALARS) :]))
    for name, curve in zip(_CURVES, mean[: -len(_SCALARS)].reshape(len(_CURVES), 256)):
        scores[f"mean{name}"], scores[f"max{name}"] = curve.mean(), curve.max()
    return {name: float(scores[name]) for name in POLYP_SCORES}


def _s_measure(pred: Array, truth: NDArray[np.bool_], reference: Any) -> float:
    share = truth.mean()
    if share in (0, 1):
        return float(pred.mean() if share else 1 - pred.mean())
    objects = share * _object_score(pred[truth]) + (1 - share) * _object_score(1 - pred[~truth])

    row, column = (int(centre) for centre in np.argwhere(truth).mean(axis=0).round())
    regions = 0.0
    for rows in (slice(0, row), slice(row, None)):
        for columns in (slice(0, column), slice(column, None)):
            part = truth[rows, columns]
            if part.size:
                regions += part.size / truth.size * reference.ssim(pred[rows, columns], part)
    return float(max(0.0, (objects + regions) / 2))


def _object_score(values: Array) -> float:
    mean = values.mean()
    return float(2 * mean / (mean**2 + 1 + values.std() + np.spacing(1)))


def _weighted_f(pred: Array, truth: NDArray[np.bool_], reference: Any) -> float:
    from scipy.ndimage import convolve, distance_transform_edt

    if not truth.any():
        return 0.0
    distance, nearest = distance_transform_edt(~truth, return_indices=True)
    error = np.abs(pred - truth)
    smooth = convolve(error[tuple(nearest)], reference.matlab_style_gauss2D((7, 7), sigma=5), mode="nearest")
    foreground = np.minimum(error, smooth)[truth]
    background = (error * (2 - np.exp(np.log(0.5) / 5 * distance)))[~truth]

    hits = truth.sum() - foreground.sum()
    recall = 1 - foreground.mean()
    precision = hits / (hits + background.sum() + np.spacing(1))
    return float(2 * recall * precision / (recall + precision + np.spacing(1)))


def _as_image(image: Tensor | Array, what: str) -> Array:
    if isinstance(image, Tensor):
        image = image.detach().as_subclass(Tensor).cpu().double().numpy()
    array = np.asarray(image, dtype=np.float64)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{what} must be one image of shape (H, W) or (1, H, W), got {array.shape}.")
    if not (array.min() >= 0 and array.max() <= 1):
        advice = "apply a sigmoid to logits" if what == "pred" else "scale masks to 0 and 1"
        raise ValueError(f"{what} must lie in [0, 1], got {array.min():.4g} to {array.max():.4g}; {advice}.")
    return array


def _pysodmetrics() -> ModuleType:
    try:
        import py_sod_metrics
    except ImportError as error:
        raise ImportError('the polyp scores need pysodmetrics: pip install "monai-kd[polyp]"') from error
    return py_sod_metrics
