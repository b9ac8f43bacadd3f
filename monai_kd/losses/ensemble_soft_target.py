"""Soft targets of several teachers: the mean of their softened class probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd.losses._common import check_same_shape, check_temperature, masked_mean, promote
from monai_kd.losses.soft_target import soft_target_kl


def ensemble_logits(
    teachers: Sequence[Tensor], temperature: float = 1.0, weights: Sequence[float] | None = None, sigmoid: bool = False
) -> Tensor:
    """Logits whose softened probabilities are the weighted mean of the teachers' softened probabilities.

    Args:
        teachers: logits of each teacher, shape (B, C, *spatial).
        temperature: softens each teacher, and is to soften the result.
        weights: one a teacher, summing to 1; equal ones if ``None``.
        sigmoid: channels are independent yes/no questions instead of exclusive classes.

    Returns:
        Logits, shape (B, C, *spatial), in float32 (float64 stays).

    Raises:
        ValueError: no teacher, shapes that differ, or not one weight a teacher.
    """
    if not teachers or (weights is not None and len(weights) != len(teachers)):
        raise ValueError(
            f"expected one weight a teacher and one teacher at least, got {len(teachers)} teachers and "
            f"{'no' if weights is None else len(weights)} weights."
        )
    for teacher in teachers[1:]:
        if teacher.shape != teachers[0].shape:
            raise ValueError(
                f"the teachers' logits differ in shape: {[tuple(x.shape) for x in teachers]}; bring them to one "
                "size and one order of the classes first."
            )
    shares = [1 / len(teachers)] * len(teachers) if weights is None else weights
    logits = [promote(teacher) / temperature for teacher in teachers]
    if sigmoid:
        mean = _log_mean([F.logsigmoid(z) for z in logits], shares) - _log_mean(
            [F.logsigmoid(-z) for z in logits], shares
        )
    else:
        mean = _log_mean([F.log_softmax(z, dim=1) for z in logits], shares)
    return mean * temperature


class EnsembleSoftTargetLoss(nn.Module):
    """Soft targets [0] of several teachers: the student learns the mean of their softened class probabilities.

    With one teacher it is ``SoftTargetLoss``. With several it differs from the weighted mean of a ``SoftTargetLoss`` to
    each by how much the teachers differ from one another; the student's gradient is the same. One pass over the
    student instead of one a teacher, and 0 is the least value that can be reached.

    [0] Hinton et al., Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531

    Args:
        temperature: values above 1 flatten all distributions; the loss is scaled by its square.
        weights: of the teachers, in their order; divided by their sum. Equal ones if ``None``.
        sigmoid: channels are independent yes/no questions instead of exclusive classes.

    Raises:
        ValueError: a ``temperature`` that is not positive, or weights that are negative or all 0.

    Example:
        >>> student, *teachers = torch.randn(4, 2, 3, 16, 16)
        >>> EnsembleSoftTargetLoss(temperature=4.0)(student, teachers).shape
        torch.Size([])
    """

    def __init__(self, temperature: float = 4.0, weights: Sequence[float] | None = None, sigmoid: bool = False) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.weights = None if weights is None else _shares(weights)
        self.sigmoid = sigmoid

    def forward(self, student: Tensor, teacher: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """
        Args:
            student: logits, shape (B, C, *spatial).
            teacher: logits of each teacher, a list of that shape, or of the only one; receive no gradient.
            mask: valid positions (non-zero), shape (B, *spatial) or (B, 1, *spatial); all positions if ``None``.

        Returns:
            A scalar.
        """
        teachers = [teacher] if isinstance(teacher, Tensor) else list(teacher)
        for one in teachers:
            check_same_shape(student, one)
        with torch.no_grad():
            target = ensemble_logits(teachers, self.temperature, self.weights, self.sigmoid)
        return masked_mean(soft_target_kl(student, target, self.temperature, self.sigmoid), mask)


def _shares(weights: Sequence[float]) -> list[float]:
    total = math.fsum(weights)
    if not all(weight >= 0 for weight in weights) or not 0 < total < math.inf:
        raise ValueError(f"the teachers' weights must be 0 or more, one of them positive, got {list(weights)}.")
    return [weight / total for weight in weights]


def _log_mean(logarithms: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Logarithm of the weighted mean of what these are logarithms of; nothing is stacked, maps may be large."""
    weighted = [x + math.log(share) for x, share in zip(logarithms, shares) if share > 0]
    return reduce(torch.logaddexp, weighted)
