"""Scores of every case of a 3D segmentation over nested regions, such as an organ with its tumour and the tumour."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced
from monai.data.meta_tensor import MetaTensor
from monai.metrics.utils import get_mask_edges, get_surface_distance
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects
from torch import Tensor

from monai_kd._processes import rank
from monai_kd.metrics._cases import case_name, gather_cases, mean_of_known, write_cases

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]

ORGAN_AND_TUMOUR: Mapping[str, Sequence[int]] = {"organ": (1, 2), "tumour": (2,)}
"""Labels of each region in KiTS19, LiTS and similar sets: the tumour is part of the organ."""

REGION_SCORES = (
    "Dice_{}",
    "ASSD_{}_mm",
    "HD95_{}_mm",
    "volume_error_{}_ml",
    "volume_error_{}_percent",
)
"""Names of the scores that every region has, with ``{}`` in the place of the region."""

SLICE_SCORES = ("sliceDice_{}", "sliceVOE_{}", "sliceRVD_{}")
"""Names of the slice-filtered scores, in the same way."""

_COUNTS = ("true_voxels_{}", "pred_voxels_{}", "common_voxels_{}")
_SLICE_THRESHOLD = 0.4
_CHUNK = 8
_DENSE = 0.05


def region_scores(
    pred: Tensor,
    label: Tensor,
    spacing: Sequence[float],
    regions: Mapping[str, Sequence[int]] = ORGAN_AND_TUMOUR,
    empty: Literal["nan", "one"] = "nan",
    slice_axis: int | None = None,
) -> dict[str, float]:
    """Scores of one case, for every region.

    * ``Dice_*``: 0 where only one of truth and prediction is empty; ``empty`` says what it is where both are.
    * ``ASSD_*_mm``, ``HD95_*_mm``: average symmetric surface distance (mean over both surfaces' voxels together) and
      95th percentile Hausdorff distance (the larger of the two directions) in mm; NaN where truth or prediction is
      empty. A surface is the voxels with a face outside the mask, as in MONAI.
    * ``volume_error_*_ml``, ``volume_error_*_percent``: predicted minus true volume; the latter NaN for empty truth.
    * ``true_voxels_*``, ``pred_voxels_*``, ``common_voxels_*``: the numbers of voxels behind them.
    * ``sliceDice_*``, ``sliceVOE_*``, ``sliceRVD_*``, with ``slice_axis`` only: what HLFD's released code reports, for
      comparison with its paper and nothing else. A voxel is foreground where the region's probability exceeds 0.4, and
      only slices whose truth holds the region are counted: *optimistic*, since false positives elsewhere go unseen.
      Dice is ``(2I + 1) / (P + G + 1)``, RVD ``P / G - 1``, and the "VOE" ``2 (P - I) / (P + G)`` is not the volumetric
      overlap error (it ignores false negatives; the true one is ``1 - Dice / (2 - Dice)``). NaN for empty truth.

    Args:
        pred: label map, shape (1, D, H, W), or probabilities of all classes, shape (K, D, H, W); the most probable
            class is taken then.
        label: true label map, shape (1, D, H, W), on the original grid of the image.
        spacing: size of a voxel in mm along each axis.
        regions: name and labels of each region; regions may overlap.
        empty: Dice where truth and prediction are both empty: ``"nan"`` leaves the case out of the mean (KiTS19's
            script gives NaN), ``"one"`` is what the evaluation of LiTS does.
        slice_axis: spatial axis (0, 1 or 2) along which slices are counted: 0 for KiTS19's files, 2 for LiTS'.

    Returns:
        The scores by name.

    Raises:
        ValueError: regions without labels, shapes that do not fit or are not 3D, values that are neither labels nor
            probabilities, a spacing that is not positive, or slice scores of a label map.

    Example:
        >>> label = torch.zeros(1, 16, 16, 16)
        >>> label[:, 4:12, 4:12, 4:12] = 1
        >>> label[:, 6:10, 6:10, 6:10] = 2
        >>> pred = label.clone()
        >>> pred[pred == 2] = 1
        >>> scores = region_scores(pred, label, spacing=(5.0, 0.8, 0.8))
        >>> scores["Dice_organ"], scores["Dice_tumour"], round(scores["volume_error_tumour_ml"], 3)
        (1.0, 0.0, -0.205)
    """
    _check_options(regions, empty, slice_axis)
    if label.ndim != 4 or label.shape[0] != 1:
        raise ValueError(f"label must be one 3D label map of shape (1, D, H, W), got {tuple(label.shape)}.")
    if pred.ndim != 4 or pred.shape[1:] != label.shape[1:]:
        raise ValueError(
            f"pred must have shape (1, D, H, W) or (K, D, H, W) on the grid of the label {tuple(label.shape)}, got "
            f"{tuple(pred.shape)}; undo the preprocessing of the prediction with Invertd."
        )
    voxel = np.asarray(spacing, dtype=np.float64)
    if voxel.shape != (3,) or not (np.isfinite(voxel).all() and (voxel > 0).all()):
        raise ValueError(f"spacing must be three positive numbers (mm), got {tuple(spacing)}.")

    pred, label = pred.detach().as_subclass(Tensor), label.detach().as_subclass(Tensor)
    truth = _label_map(label, "label")
    if pred.shape[0] == 1:
        if slice_axis is not None:
            raise ValueError("slice scores need the probabilities of all classes, shape (K, D, H, W), got a label map.")
        guess = _label_map(pred, "pred")
    else:
        if (highest := max(max(labels) for labels in regions.values())) >= pred.shape[0]:
            raise ValueError(f"the regions name label {highest}, but pred has only {pred.shape[0]} classes.")
        guess = _most_probable(pred)

    scores: dict[str, float] = {}
    box = _bounding_box((truth | guess) > 0)
    for region, labels in regions.items():
        true, found = np.isin(truth[box], labels), np.isin(guess[box], labels)
        scores |= _named(region, REGION_SCORES + _COUNTS, _volume_scores(found, true, voxel, empty))
        if slice_axis is not None:
            counts = _slice_counts(pred, np.isin(truth, labels), list(labels), slice_axis)
            scores |= _named(region, SLICE_SCORES, _slice_scores(*counts))
    return scores


class RegionMetrics(Metric):
    """The scores of :func:`region_scores` for the cases of an evaluation, and their aggregates over cases.

    Aggregates, NaN where no case has the score:

    * ``cases``: how many there are.
    * per region the mean of every score over the cases that have it (``Dice_tumour``, ``HD95_tumour_mm``, ...), and
      ``globalDice_*``, one Dice over the voxels of all cases, as in LiTS.
    * ``meanDice``: the mean of ``Dice_*`` over regions.
    * per region ``cases_without_*``: cases without it in truth; ``both_empty_*``: of these, those without it in the
      prediction as well; ``no_distance_*``: cases left out of ``ASSD_*_mm`` and ``HD95_*_mm``.

    The means of ``Dice_organ`` and ``Dice_tumour`` are the scores of KiTS19 and, with ``empty="one"``, the "Dice per
    case" of LiTS. For a case without tumour in truth and prediction KiTS19's script gives NaN; here it is left out of
    the mean and counted in ``both_empty_tumour``. Distances are those of a whole region; LiTS takes single lesions.

    Attached under a name, as key metric or additional metric of a MONAI evaluator, it stores the chosen score in
    ``engine.state.metrics`` under that name and all aggregates beside it under their own. With several processes the
    cases of all are gathered first, and a file that several of them evaluated (samplers repeat cases to give every
    process as many) counts once. What is kept of a case is one row of numbers.

    Args:
        regions: name and labels of each region; regions may overlap.
        empty: Dice where truth and prediction are both empty: ``"nan"`` leaves the case out, ``"one"`` counts 1.
        slice_axis: also give the slice-filtered scores, which need probabilities, along this spatial axis.
        score: the aggregate that stands under the attached name.
        cases_path: a CSV file, written whole at the end of the evaluation, with one row a case, sorted by name (folder
            and file of the label); beside it ``*_summary.csv`` has mean, median and number of cases of every column.
        output_transform: takes ``(pred, label)`` from the engine's output, e.g. ``from_engine(["pred", "label"])``;
            lists of label maps (1, D, H, W) or probabilities (K, D, H, W) and of true label maps (1, D, H, W). Spacing
            and name come from the label's meta data, or else the prediction's.

    Raises:
        ValueError: regions without labels, or no such score.

    Example:
        >>> metric = RegionMetrics(regions={"anterior": [1], "posterior": [2]})
        >>> label = MetaTensor(torch.zeros(1, 16, 16, 16), affine=torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0])))
        >>> label[:, 4:8, 4:12, 4:12] = 1
        >>> label[:, 8:12, 4:12, 4:12] = 2
        >>> metric.update(([label], [label]))
        >>> scores = metric.compute()
        >>> scores["meanDice"], scores["HD95_posterior_mm"], scores["cases"]
        (1.0, 0.0, 1)
    """

    def __init__(
        self,
        regions: Mapping[str, Sequence[int]] = ORGAN_AND_TUMOUR,
        empty: Literal["nan", "one"] = "nan",
        slice_axis: int | None = None,
        score: str = "meanDice",
        cases_path: str | Path | None = None,
        output_transform: Callable[..., Any] = lambda x: x,
    ) -> None:
        _check_options(regions, empty, slice_axis)
        self.regions = {name: tuple(labels) for name, labels in regions.items()}
        self.empty = empty
        self.slice_axis = slice_axis
        self.score = score
        self.cases_path = None if cases_path is None else Path(cases_path)
        self._means = REGION_SCORES + (() if slice_axis is None else SLICE_SCORES)
        self._columns = [kind.format(name) for name in self.regions for kind in self._means + _COUNTS]
        known = self._aggregate(np.empty((0, len(self._columns))))
        if score not in known:
            raise ValueError(f"unknown score {score!r}, expected one of {', '.join(known)}.")
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
            output: ``(pred, label)``, sequences of (1, D, H, W) or (K, D, H, W), and of (1, D, H, W).

        Raises:
            ValueError: not as many labels as predictions, a case of unknown spacing, or what :func:`region_scores`
                refuses, with the name of the case.
        """
        preds, labels = output
        if len(preds) != len(labels):
            raise ValueError(f"expected one label for every prediction, got {len(preds)} and {len(labels)}.")
        for pred, label in zip(preds, labels):
            name = case_name(len(self._rows), label, pred)
            try:
                scores = region_scores(pred, label, _spacing(pred, label), self.regions, self.empty, self.slice_axis)
            except ValueError as error:
                raise ValueError(f"case '{name}': {error}") from error
            self._names.append(name)
            self._rows.append(torch.tensor([scores[column] for column in self._columns], dtype=torch.float64))

    def compute(self) -> dict[str, float]:
        """All aggregates over the cases of all processes, by name.

        Raises:
            NotComputableError: there were no cases.
        """
        return self._aggregate(self._gather()[1])

    def attach(self, engine: Engine, name: str, *args: Any, **kwargs: Any) -> None:
        """Attach under ``name``; it must not be the name of another aggregate than ``score``.

        Raises:
            ValueError: it is.
        """
        if name != self.score and name in self._aggregate(np.empty((0, len(self._columns)))):
            raise ValueError(
                f"'{name}' would show {self.score}; give score='{name}' or attach under another name, such as "
                f"'{self.score}'."
            )
        super().attach(engine, name, *args, **kwargs)

    def completed(self, engine: Engine, name: str) -> None:
        names, rows = self._gather()
        scores = self._aggregate(rows)
        engine.state.metrics.update(scores)
        engine.state.metrics[name] = scores[self.score]
        if self.cases_path is not None and rank() == 0:
            write_cases(self.cases_path, names, self._columns, rows)

    def _gather(self) -> tuple[list[str], NDArray[np.float64]]:
        """Names and rows of the cases of all processes, sorted by name."""
        names, rows = gather_cases(self._names, self._rows, len(self._columns))
        if len(rows) == 0:
            raise NotComputableError("RegionMetrics saw no cases; was the evaluator run?")
        return names, rows

    def _aggregate(self, rows: NDArray[np.float64]) -> dict[str, float]:
        column = dict(zip(self._columns, rows.T))
        scores: dict[str, float] = {}
        for name in self.regions:
            true, pred, common = (column[kind.format(name)] for kind in _COUNTS)
            scores |= {kind.format(name): mean_of_known(column[kind.format(name)]) for kind in self._means}
            scores[f"globalDice_{name}"] = _ratio(2 * common.sum(), true.sum() + pred.sum())
            scores[f"cases_without_{name}"] = int((true == 0).sum())
            scores[f"both_empty_{name}"] = int((true + pred == 0).sum())
            scores[f"no_distance_{name}"] = int(np.isnan(column[f"ASSD_{name}_mm"]).sum())
        mean_dice = sum(scores[f"Dice_{name}"] for name in self.regions) / len(self.regions)
        return {"meanDice": mean_dice, **scores, "cases": len(rows)}


def _volume_scores(found: Mask, true: Mask, voxel: NDArray[np.float64], empty: str) -> list[float]:
    g, p, common = (int(np.count_nonzero(mask)) for mask in (true, found, true & found))
    dice = 2 * common / (p + g) if p + g else {"nan": math.nan, "one": 1.0}[empty]
    assd, hd95 = _surface_distances(found, true, voxel) if p and g else (math.nan, math.nan)
    error_ml = (p - g) * float(voxel.prod()) / 1000
    return [dice, assd, hd95, error_ml, 100 * _ratio(p - g, g), g, p, common]


def _surface_distances(found: Mask, true: Mask, voxel: NDArray[np.float64]) -> tuple[float, float]:
    box = _bounding_box(found | true)
    edges_pred, edges_true = get_mask_edges(found[box], true[box], crop=False)
    to_true, to_pred = _distances(edges_pred, edges_true, voxel), _distances(edges_true, edges_pred, voxel)
    assd = np.concatenate([to_true, to_pred]).mean(dtype=np.float64)
    return float(assd), float(max(np.percentile(to_true, 95), np.percentile(to_pred, 95)))


def _distances(surface: Mask, other: Mask, voxel: NDArray[np.float64]) -> NDArray[np.floating[Any]]:
    """Distance of every voxel of ``surface`` to the nearest one of ``other``."""
    # MONAI's search tree takes many minutes for a noisy prediction on a large image, where every voxel is surface.
    if np.count_nonzero(surface | other) > _DENSE * surface.size:
        return distance_transform_edt(~other, sampling=voxel)[surface]
    return np.asarray(get_surface_distance(surface, other, spacing=tuple(voxel)))


def _slice_counts(probability: Tensor, true: Mask, labels: list[int], axis: int) -> tuple[int, int, int]:
    """Common, predicted and true voxels in the slices that hold the region."""
    common = pred = 0
    for index in np.flatnonzero(true.any(axis=tuple({0, 1, 2} - {axis}))):
        found = probability.select(axis + 1, int(index))[labels].float().sum(0) > _SLICE_THRESHOLD
        pred += int(found.sum())
        common += int((found.cpu().numpy() & true.take(index, axis)).sum())
    return common, pred, int(true.sum())


def _slice_scores(common: int, pred: int, true: int) -> list[float]:
    if true == 0:
        return [math.nan] * 3
    return [
        (2 * common + 1) / (pred + true + 1),
        2 * (pred - common) / (pred + true + 1e-7),
        pred / (true + 1e-7) - 1,
    ]


def _label_map(values: Tensor, what: str) -> Labels:
    labels = values[0].to(torch.uint8)
    # Slice by slice: comparing all of an int or float map at once would need several times its memory.
    if not all(torch.equal(one.to(full.dtype), full) for one, full in zip(labels, values[0])):
        raise ValueError(
            f"{what} must hold labels, whole numbers from 0 to 255; got others (probabilities? take all K)."
        )
    return labels.cpu().numpy()


def _most_probable(probability: Tensor) -> Labels:
    low, high = (float(value) for value in torch.aminmax(probability))
    # Interpolation back to the original grid may overshoot a little.
    if not (low >= -0.01 and high <= 1.01):
        raise ValueError(f"pred must hold probabilities, got {low:.4g} to {high:.4g}; apply a softmax to logits.")
    labels = torch.zeros(probability.shape[1:], dtype=torch.uint8, device=probability.device)
    # ``argmax`` over few channels is ten times slower on a CPU, and its int64 result larger than the probabilities.
    for part in (slice(start, start + _CHUNK) for start in range(0, len(labels), _CHUNK)):
        best = probability[0, part].clone()
        for channel in range(1, len(probability)):
            labels[part].masked_fill_(probability[channel, part] > best, channel)
            torch.maximum(best, probability[channel, part], out=best)
    return labels.cpu().numpy()


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    found = find_objects(mask.view(np.uint8))
    return found[0] if found else (slice(0, 0),) * mask.ndim


def _spacing(pred: Tensor, label: Tensor) -> list[float]:
    for image in (label, pred):
        if isinstance(image, MetaTensor):
            return [float(size) for size in image.pixdim]
    raise ValueError(
        f"unknown voxel spacing: neither label ({type(label).__name__}) nor pred ({type(pred).__name__}) is a "
        "MetaTensor; load the label with LoadImaged and leave set_track_meta on."
    )


def _named(region: str, kinds: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    return {kind.format(region): float(value) for kind, value in zip(kinds, values)}


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def _check_options(regions: Mapping[str, Sequence[int]], empty: str, slice_axis: int | None) -> None:
    if not regions or not all(regions.values()):
        raise ValueError(f"regions need at least one label each, such as {{'tumour': [2]}}; got {dict(regions)}.")
    for name, labels in regions.items():
        if not all(isinstance(label, int) and 1 <= label <= 255 for label in labels):
            raise ValueError(f"labels must be whole numbers from 1 to 255 (0 is background), got '{name}': {labels}.")
        if len(set(labels)) != len(labels):
            raise ValueError(f"a region names each label once, got '{name}': {labels}.")
    if empty not in ("nan", "one"):
        raise ValueError(f"empty must be 'nan' or 'one', got {empty!r}.")
    if slice_axis not in (None, 0, 1, 2):
        raise ValueError(f"slice_axis must be a spatial axis 0, 1 or 2, or None for no slice scores, got {slice_axis}.")
