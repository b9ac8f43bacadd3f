"""Weights of a distillation term as functions of the epoch (1, 2, ...)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

__all__ = ["Schedule", "linear", "sigmoid_ramp_up", "silent_before", "starts_at", "weight_at"]

Schedule = Callable[[int], float]


def sigmoid_ramp_up(length: int, weight: float = 1.0) -> Schedule:
    """``weight * exp(-5 (1 - t)^2)`` with t growing from 0 to 1 over ``length`` epochs, then ``weight``.

    Laine and Aila, Temporal Ensembling for Semi-Supervised Learning, 2017, https://arxiv.org/abs/1610.02242

    Example:
        >>> round(sigmoid_ramp_up(10)(1), 4), sigmoid_ramp_up(10)(11)
        (0.0067, 1.0)
    """
    _check_length(length)
    return partial(_sigmoid_ramp_up, length=length, weight=weight)


def linear(start: float, stop: float, length: int) -> Schedule:
    """From ``start`` in the first epoch to ``stop`` after ``length`` epochs, then ``stop``.

    Example:
        >>> schedule = linear(0.0, 1.0, length=4)
        >>> [schedule(epoch) for epoch in (1, 3, 5, 9)]
        [0.0, 0.5, 1.0, 1.0]
    """
    _check_length(length)
    return partial(_linear, start=start, stop=stop, length=length)


def starts_at(epoch: int, weight: float | Schedule = 1.0) -> Schedule:
    """0 before ``epoch``, then ``weight``; a schedule begins at ``epoch`` as if that were epoch 1.

    Example:
        >>> [starts_at(3, 0.5)(epoch) for epoch in (1, 2, 3)]
        [0.0, 0.0, 0.5]
    """
    if epoch < 1:
        raise ValueError(f"epochs are counted from 1, got a start at {epoch}.")
    weight_at(weight, 1)
    return partial(_starts_at, start=epoch, weight=weight)


def silent_before(epoch: int, weight: float | Schedule = 1.0) -> Schedule:
    """0 before ``epoch``, then what ``weight`` is by then: a schedule goes on silently, it does not begin anew.

    Example:
        >>> schedule = silent_before(3, linear(0.0, 1.0, length=4))
        >>> [schedule(epoch) for epoch in (1, 2, 3, 4)]
        [0.0, 0.0, 0.5, 0.75]
    """
    if epoch < 1:
        raise ValueError(f"epochs are counted from 1, got {epoch}.")
    weight_at(weight, epoch)
    return partial(_silent_before, start=epoch, weight=weight)


def weight_at(weight: float | Schedule, epoch: int) -> float:
    """The value of a number or schedule at ``epoch``."""
    value = float(weight(epoch)) if callable(weight) else float(weight)
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"a weight must be finite and not negative, got {value} in epoch {epoch}.")
    return value


def _sigmoid_ramp_up(epoch: int, length: int, weight: float) -> float:
    t = min(max(epoch - 1, 0) / length, 1.0)
    return weight * math.exp(-5.0 * (1.0 - t) ** 2)


def _linear(epoch: int, start: float, stop: float, length: int) -> float:
    t = min(max(epoch - 1, 0) / length, 1.0)
    return start + (stop - start) * t


def _starts_at(epoch: int, start: int, weight: float | Schedule) -> float:
    return 0.0 if epoch < start else weight_at(weight, epoch - start + 1)


def _silent_before(epoch: int, start: int, weight: float | Schedule) -> float:
    return 0.0 if epoch < start else weight_at(weight, epoch)


def _check_length(length: int) -> None:
    if length < 1:
        raise ValueError(f"a schedule needs a length of at least 1 epoch, got {length}.")
