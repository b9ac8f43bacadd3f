"""The label that a network's answer means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from monai_kd.runtime.description import ExportDescription, ExportError

__all__ = ["activate", "decide", "probabilities", "undecided"]


def decide(
    export: ExportDescription, threshold: float | None = None, activated: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """A function of the network's answer (classes, ...) that gives labels (...), uint8.

    Several classes: the one with the largest answer. One: 1 where its probability reaches the threshold (0.5 if not
    given), else 0. With ``activated`` answers are probabilities already.

    Raises:
        ExportError: the classes overlap (several with a sigmoid or a threshold), so one label map cannot hold them;
            more of them than a label map can hold; a softmax of one; or a threshold that is no probability.
    """
    if export.out_channels == 1:
        threshold = 0.5 if threshold is None else threshold
        if not isinstance(threshold, int | float) or not 0 < threshold < 1:
            raise ExportError(f"the threshold of '{export.folder}' must be between 0 and 1, got {threshold!r}.")
        if export.activation == "softmax":
            raise ExportError("softmax over 1 channel is constant; export the bundle again with a sigmoid.")
        cut = np.float32(threshold) if activated else _before_activation(export, threshold)
        return lambda answer: (answer[0] >= cut).astype(np.uint8)
    if export.activation == "sigmoid" or threshold is not None:
        raise ExportError(
            f"the {export.out_channels} classes of '{export.folder}' may overlap, one label map cannot hold them; use "
            "the bundle's inference.json with inference_runtime.json."
        )
    if export.out_channels > 256:
        raise ExportError(f"a label map holds 256 classes at most, the network has {export.out_channels}.")
    return _largest


def activate(answer: np.ndarray, activation: str | None) -> None:
    """Make an answer (classes, ...) of float32 probabilities, in place."""
    if activation == "softmax":
        answer -= answer.max(axis=0)
        np.exp(answer, out=answer)
        answer /= answer.sum(axis=0)
    if activation == "sigmoid":
        np.exp(-np.logaddexp(0, -answer), out=answer)


def probabilities(answer: np.ndarray, activation: str | None) -> np.ndarray:
    """The probabilities (B, classes) of a network's answers, float64."""
    answer = answer.astype(np.float64)
    if activation == "softmax":
        answer = np.exp(answer - answer.max(axis=1, keepdims=True))
        return np.asarray(answer / answer.sum(axis=1, keepdims=True))
    if activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-answer)))
    return answer


def undecided(answer: np.ndarray, where: np.ndarray) -> None:
    """Make an answer (classes, *spatial) say background where the network saw nothing, in place."""
    answer[0][where] = 1 if len(answer) > 1 else -np.finfo(np.float32).max / 2


def _before_activation(export: ExportDescription, threshold: float) -> np.float32:
    return np.float32(np.log(threshold / (1 - threshold)) if export.activation == "sigmoid" else threshold)


def _largest(answer: np.ndarray) -> np.ndarray:
    """``argmax`` over the first axis, class by class: many times sooner."""
    best = answer[0]
    labels = np.zeros(answer.shape[1:], dtype=np.uint8)
    for index, one in enumerate(answer[1:], start=1):
        np.maximum(labels, (one > best) * np.uint8(index), out=labels)  # a later class has the larger number
        if index + 1 < len(answer):
            best = np.maximum(best, one)
    return labels
