"""Scores of a classification over classes of unequal size, computed by scikit-learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced
from monai.utils.dist import evenly_divisible_all_gather, string_list_all_gather
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    matthews_corrcoef,
    precision_recall_fscore_support,
    roc_auc_score,
)
from torch import Tensor

from monai_kd._processes import processes, rank
from monai_kd.metrics._cases import case_name, mean_of_known, write_table

Array = NDArray[np.float64]
Classes = NDArray[np.int64]

CLASS_SCORES = ("precision", "recall", "specificity", "f1", "auc")
"""The scores that every class has, each as ``<score>_<class>``."""

_MACRO = ("precision", "recall", "f1", "auc", "specificity")
_SCALARS = (
    "accuracy",
    "balanced_accuracy",
    *(f"macro_{kind}" for kind in _MACRO),
    "quadratic_kappa",
    "mcc",
    "classes_present",
    "images",
)
# bfloat16 rounds every probability by up to 1 / 512 of it.
_TOLERANCE = 4e-3


def classification_scores(
    probabilities: Tensor | Array, labels: Tensor | NDArray[Any], class_names: Sequence[str]
) -> dict[str, float]:
    """Scores of a set of images, each of one class.

    The predicted class is the most probable one. A class is present when an image of it is in ``labels``.

    * ``accuracy``; ``balanced_accuracy``, the mean recall of the classes present (so ``macro_recall`` by another name).
    * ``precision_*``, ``recall_*``, ``specificity_*``, ``f1_*``, ``auc_*`` of every class against all others, and
      ``macro_precision`` etc., their means over the classes present. A class present but never predicted has
      precision 0. What is undefined is NaN: the recall and AUC of a class not present, its precision and F1 when it was
      never predicted either, and AUC and specificity of a class that all images belong to.
    * ``quadratic_kappa``: Cohen's kappa with quadratic weights, for classes in an order such as grades; NaN when one
      single class is all there is in truth and prediction.
    * ``mcc``: Matthews' correlation coefficient over all classes; NaN where ``quadratic_kappa`` is.
    * ``classes_present``, ``images``: how many there are.

    Args:
        probabilities: shape (N, C); rows sum to 1.
        labels: class indices, shape (N,).
        class_names: one a class, in the order of the indices.

    Returns:
        The scores by name.

    Raises:
        ValueError: no images, shapes that do not fit, class names that are not C different ones, labels that are no
            class index, or rows that are not finite or no probabilities.

    Warns:
        UserWarning: a class is not present; it counts in no mean.

    Example:
        >>> probabilities = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.6, 0.4]])
        >>> scores = classification_scores(probabilities, torch.tensor([0, 0, 1, 1]), ["benign", "malignant"])
        >>> scores["accuracy"], scores["recall_malignant"], scores["specificity_malignant"], scores["macro_auc"]
        (0.75, 0.5, 1.0, 0.875)
    """
    _check_names(class_names)
    found, true = _as_array(probabilities), _as_array(labels)
    if true.ndim != 1 or len(found) != len(true) or len(true) == 0:
        raise ValueError(f"expected (N, C) probabilities and (N,) labels, N > 0; got {found.shape} and {true.shape}.")
    check_probabilities(found, class_names)
    classes = _checked_labels(true, class_names)
    _warn_missing(classes, class_names)
    return _scores(found, classes, class_names)


class ClassificationMetrics(Metric):
    """The scores of :func:`classification_scores` over the images of an evaluation, computed once for all of them.

    Attached under a name, as key metric or additional metric of a MONAI evaluator, it stores the chosen score in
    ``engine.state.metrics`` under that name, all scores beside it under ``prefix`` and their own names, and the
    confusion matrix, shape (C, C), truth by prediction, in ``engine.state.metric_details``. Nothing is copied from the
    device before the evaluation ends. With several processes the images of all are gathered first, and a file that
    several of them evaluated (samplers repeat images to give every process as many) counts once, where predictions
    carry their image's meta data.

    Args:
        class_names: one a class, in the order of the class indices.
        score: the score that stands under the attached name.
        prefix: put before the scores' own names, so that several of these can be attached to one engine.
        classes_path: a CSV file, written whole at the end of the evaluation, with one row a class; beside it
            ``*_confusion.csv`` has the confusion matrix, one row a true class, one column a predicted one.
        output_transform: takes ``(pred, label)`` from the engine's output, e.g. ``from_engine(["pred", "label"])``;
            probabilities and class indices, as batches of shape (B, C) and (B,) or (B, 1), or lists of their items.

    Raises:
        ValueError: class names that are not at least two different ones, or no such score.

    Example:
        >>> metric = ClassificationMetrics(["nevus", "melanoma"], score="accuracy")
        >>> metric.update((torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), torch.tensor([0, 1, 1])))
        >>> scores = metric.compute()
        >>> scores["balanced_accuracy"], scores["precision_melanoma"], metric.confusion_matrix().tolist()
        (0.75, 1.0, [[1, 0], [1, 1]])
    """

    def __init__(
        self,
        class_names: Sequence[str],
        score: str = "balanced_accuracy",
        prefix: str = "",
        classes_path: str | Path | None = None,
        output_transform: Callable[..., Any] = lambda x: x,
    ) -> None:
        _check_names(class_names)
        self.class_names = tuple(class_names)
        self._known = [*_SCALARS, *(f"{kind}_{name}" for name in self.class_names for kind in CLASS_SCORES)]
        if score not in self._known:
            raise ValueError(f"unknown score {score!r}, expected one of {', '.join(self._known)}.")
        self.score = score
        self.prefix = prefix
        self.classes_path = None if classes_path is None else Path(classes_path)
        self._names: list[str] = []
        self._rows: list[Tensor] = []
        self._labels: list[Tensor] = []
        super().__init__(output_transform)

    @reinit__is_reduced
    def reset(self) -> None:
        self._names, self._rows, self._labels = [], [], []

    @reinit__is_reduced
    def update(self, output: Sequence[Any]) -> None:
        """
        Args:
            output: ``(pred, label)``, batches of shape (B, C) and (B,) or (B, 1), or sequences of (C,) and () or (1,).

        Raises:
            ValueError: not as many labels as predictions, or shapes that do not fit.
        """
        pred, label = output
        if len(pred) != len(label):
            raise ValueError(f"expected one label for every prediction, got {len(pred)} and {len(label)}.")
        for row, index in zip(pred, label):
            self._names.append(case_name(len(self._rows), row))
            self._rows.append(as_row(row, self.class_names))
            self._labels.append(as_index(index))

    def compute(self) -> dict[str, float]:
        """All scores over the images of all processes, by name.

        Raises:
            NotComputableError: there were no images.
            ValueError: predictions that are not finite or no probabilities, or labels that are no class index.
        """
        return self._compute(*self._gather())

    def confusion_matrix(self) -> Classes:
        """Number of images by true and predicted class, shape (C, C), over all processes."""
        return _confusion(*self._gather())

    def attach(self, engine: Engine, name: str, *args: Any, **kwargs: Any) -> None:
        """Attach under ``name``; it must not be the name of another score than ``score``.

        Raises:
            ValueError: it is.
        """
        if name in {self.prefix + known for known in self._known} - {self.prefix + self.score}:
            raise ValueError(
                f"'{name}' would show {self.score}; give score='{name.removeprefix(self.prefix)}' or attach under "
                f"another name, such as '{self.prefix + self.score}'."
            )
        super().attach(engine, name, *args, **kwargs)

    def completed(self, engine: Engine, name: str) -> None:
        probabilities, labels = self._gather()
        scores = self._compute(probabilities, labels)
        confusion = _confusion(probabilities, labels)
        engine.state.metrics.update({self.prefix + key: value for key, value in scores.items()})
        engine.state.metrics[name] = scores[self.score]
        details = vars(engine.state).setdefault("metric_details", {})
        details[name] = torch.from_numpy(confusion)
        if self.classes_path is not None and rank() == 0:
            _write_classes(self.classes_path, self.class_names, scores, confusion)

    def _compute(self, probabilities: Array, labels: Classes) -> dict[str, float]:
        if rank() == 0:
            _warn_missing(labels, self.class_names)
        return _scores(probabilities, labels, self.class_names)

    def _gather(self) -> tuple[Array, Classes]:
        """Probabilities and labels of all processes; checked here, so that none is left waiting when others stop."""
        width = len(self.class_names)
        local = torch.empty(0, width + 1, dtype=torch.float64)
        if self._rows:
            probabilities, labels = (torch.stack(part).cpu().double() for part in (self._rows, self._labels))
            local = torch.cat([probabilities, labels[:, None]], dim=1)
        rows = evenly_divisible_all_gather(local, concat=True).cpu().numpy()
        if len(rows) == 0:
            raise NotComputableError("ClassificationMetrics saw no images; was the evaluator run?")
        # A process without images sends one empty name.
        names = [name for name in string_list_all_gather(self._names, delimiter="\0") if name]
        if processes() > 1:
            first = np.sort(np.unique(names, return_index=True)[1])
            names, rows = [names[index] for index in first], rows[first]
        check_probabilities(rows[:, :width], self.class_names, names)
        return rows[:, :width], _checked_labels(rows[:, width], self.class_names, names)


def check_probabilities(probabilities: Array, class_names: Sequence[str], images: Sequence[str] = ()) -> None:
    """Raise ``ValueError`` unless every row holds a probability a class; ``images`` are names for the message."""
    if probabilities.ndim != 2 or probabilities.shape[1] != len(class_names):
        raise ValueError(
            f"expected probabilities of shape (N, {len(class_names)}), one column a class ({', '.join(class_names)}), "
            f"got {probabilities.shape}."
        )
    if len(bad := np.flatnonzero(~np.isfinite(probabilities).all(axis=1))):
        raise ValueError(
            f"the predictions of {len(bad)} of {len(probabilities)} images are not finite, the first that of "
            f"{_image(bad[0], images)}; the network's weights, its input or its precision (amp) are at fault."
        )
    off = np.abs(probabilities.sum(axis=1) - 1)
    off = np.maximum(off, np.maximum(-probabilities, probabilities - 1).max(axis=1))
    if len(bad := np.flatnonzero(off > _TOLERANCE)):
        row = probabilities[bad[0]]
        raise ValueError(
            f"probabilities must lie in [0, 1] and sum to 1; those of {_image(bad[0], images)} go from {row.min():.4g} "
            f"to {row.max():.4g} and sum to {row.sum():.4g}. Apply a softmax to logits, such as "
            "Activationsd(keys='pred', softmax=True) in the postprocessing."
        )


def as_row(pred: Any, class_names: Sequence[str]) -> Tensor:
    """The scores of one image, shape (C,), on their device."""
    row = torch.as_tensor(pred).detach().as_subclass(Tensor)
    if row.shape != (len(class_names),):
        raise ValueError(
            f"expected one probability a class, shape ({len(class_names)},) for {', '.join(class_names)}; got a "
            f"prediction of shape {tuple(row.shape)}."
        )
    return row


def as_index(label: Any) -> Tensor:
    """A class index as a tensor of shape ()."""
    index = torch.as_tensor(label).detach().as_subclass(Tensor)
    if index.numel() != 1:
        raise ValueError(f"expected one class index an image, shape () or (1,); got a label of {tuple(index.shape)}.")
    return index.reshape(())


def _scores(probabilities: Array, labels: Classes, class_names: Sequence[str]) -> dict[str, float]:
    predicted = probabilities.argmax(axis=1)
    indices = np.arange(len(class_names))
    present = np.isin(indices, labels)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=indices, average=None, zero_division=np.nan
    )
    precision = np.where(present & np.isnan(precision), 0.0, precision)
    confusion = _confusion(probabilities, labels)
    negatives = len(labels) - confusion.sum(axis=1)
    false_positives = confusion.sum(axis=0) - confusion.diagonal()
    with np.errstate(invalid="ignore"):
        specificity = (negatives - false_positives) / negatives
    auc = [_auc(labels == index, probabilities[:, index]) for index in indices]
    values = dict(zip(CLASS_SCORES, (precision, recall, specificity, f1, np.array(auc))))
    scores = {
        "accuracy": float(accuracy_score(labels, predicted)),
        "balanced_accuracy": mean_of_known(recall[present]),
        **{f"macro_{kind}": mean_of_known(values[kind][present]) for kind in _MACRO},
        "quadratic_kappa": _quadratic_kappa(labels, predicted, indices),
        "mcc": _mcc(labels, predicted),
        "classes_present": int(present.sum()),
        "images": len(labels),
    }
    for index, name in enumerate(class_names):
        scores |= {f"{kind}_{name}": float(values[kind][index]) for kind in CLASS_SCORES}
    return scores


def _auc(true: NDArray[np.bool_], probability: Array) -> float:
    return float(roc_auc_score(true, probability)) if true.any() and not true.all() else math.nan


def _mcc(labels: Classes, predicted: Classes) -> float:
    return math.nan if len(np.union1d(labels, predicted)) == 1 else float(matthews_corrcoef(labels, predicted))


def _quadratic_kappa(labels: Classes, predicted: Classes, indices: Classes) -> float:
    if len(np.union1d(labels, predicted)) == 1:
        return math.nan
    return float(cohen_kappa_score(labels, predicted, labels=indices, weights="quadratic"))


def _confusion(probabilities: Array, labels: Classes) -> Classes:
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), labels=np.arange(probabilities.shape[1]))
    return np.asarray(matrix, dtype=np.int64)


def _warn_missing(labels: Classes, class_names: Sequence[str]) -> None:
    present = set(labels.tolist())
    if missing := [name for index, name in enumerate(class_names) if index not in present]:
        warnings.warn(
            f"no image is of class {', '.join(missing)}: its recall and AUC are NaN, and means over classes are over "
            f"the other {len(class_names) - len(missing)}.",
            stacklevel=3,
        )


def _checked_labels(labels: Array, class_names: Sequence[str], images: Sequence[str] = ()) -> Classes:
    bad = np.flatnonzero(~np.isin(labels, np.arange(len(class_names))))
    if len(bad):
        raise ValueError(
            f"labels must be class indices from 0 to {len(class_names) - 1} ({', '.join(class_names)}); "
            f"{_image(bad[0], images)} has {labels[bad[0]]:g}."
        )
    return labels.astype(np.int64)


def _check_names(class_names: Sequence[str]) -> None:
    if isinstance(class_names, str) or len(class_names) < 2 or len(set(class_names)) != len(class_names):
        raise ValueError(f"class_names must be two or more different names, got {class_names!r}.")


def _as_array(values: Tensor | NDArray[Any]) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().as_subclass(Tensor).cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _image(index: int, images: Sequence[str]) -> str:
    return f"'{images[index]}'" if images else f"image {index}"


def _write_classes(path: Path, class_names: Sequence[str], scores: dict[str, float], confusion: Classes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        [*counts, *(scores[f"{kind}_{name}"] for kind in CLASS_SCORES)]
        for name, counts in zip(class_names, zip(confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()))
    ]
    write_table(path, ["class", "true_images", "predicted_images", *CLASS_SCORES], class_names, rows)
    beside = path.with_name(f"{path.stem}_confusion.csv")
    write_table(beside, ["true_class", *class_names], class_names, confusion.tolist())
