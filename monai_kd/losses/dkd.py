"""Decoupled knowledge distillation: the target class and the other classes are weighted apart."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd.losses._common import (
    check_same_shape,
    check_softmax_channels,
    check_temperature,
    masked_mean,
    promote,
    valid_positions,
)
from monai_kd.losses.soft_target import soft_target_kl


def decoupled_kl(student: Tensor, teacher: Tensor, label: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The two parts of KL(teacher || student) seen from the true class, one value per position each.

    All sums over the other classes are taken in log space, so a class at probability 1 - 1e-30 loses nothing.

    Args:
        student: logits, shape (B, C, *spatial).
        teacher: logits, same shape; receives no gradient.
        label: class indices in [0, C), shape (B, *spatial), an integer type.
        temperature: values above 1 flatten all distributions.

    Returns:
        The divergence of "true class or not", and the divergence among the other classes, both scaled by
        ``temperature ** 2`` and of shape (B, *spatial).

    Raises:
        ValueError: when the shapes differ, or for one channel.
    """
    check_same_shape(student, teacher)
    check_softmax_channels(student)
    student, teacher = promote(student) / temperature, promote(teacher).detach() / temperature
    is_target = torch.zeros_like(student, dtype=torch.bool).scatter_(1, label.unsqueeze(1), True)
    target = _kl(_target_or_not(student, is_target), _target_or_not(teacher, is_target))
    nontarget = _kl(_among_others(student, is_target), _among_others(teacher, is_target))
    return target * temperature**2, nontarget * temperature**2


class DKDLoss(nn.Module):
    """``alpha`` times the target-class part plus ``beta`` times the other-classes part of [0], averaged over positions.

    Positions whose label is no class (an ignore index, -1 for unlabelled images) do not count. Two classes have no part
    among the others: only ``alpha`` acts. So it is for the Bernoulli form (``sigmoid=True``), a two-class problem a
    channel: the loss is then ``alpha`` times the Bernoulli soft-target divergence, which is the same for either label;
    ``label`` is not read.

    [0] Zhao et al., Decoupled Knowledge Distillation, 2022, https://arxiv.org/abs/2203.08679

    Args:
        temperature: values above 1 flatten all distributions; the loss is scaled by its square.
        alpha: weight of the target-class part.
        beta: weight of the part among the other classes (the paper's 8 for CIFAR-100; tune it).
        sigmoid: channels are independent yes/no questions instead of exclusive classes.

    Raises:
        ValueError: when ``temperature`` is not positive or a weight is negative.

    Example:
        >>> student, teacher = torch.randn(2, 4, 5)
        >>> DKDLoss()(student, teacher, label=torch.tensor([0, 4, 2, 1])).shape
        torch.Size([])
    """

    def __init__(self, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0, sigmoid: bool = False) -> None:
        super().__init__()
        if not (alpha >= 0 and beta >= 0):
            raise ValueError(f"weights must not be negative, got alpha {alpha}, beta {beta}.")
        self.temperature = check_temperature(temperature)
        self.alpha = alpha
        self.beta = beta
        self.sigmoid = sigmoid

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of logits (B, C, *spatial).

        Args:
            student: logits, shape (B, C, *spatial).
            teacher: logits, same shape; receives no gradient.
            label: class indices, shape (B, *spatial) or (B, 1, *spatial).
            mask: valid positions (non-zero), shape as ``label``; all positions if ``None``.
        """
        if self.sigmoid:
            divergence = soft_target_kl(student, teacher, self.temperature, sigmoid=True)
            return self.alpha * masked_mean(divergence, mask)
        label = _class_indices(label, student)
        is_class = (label >= 0) & (label < student.shape[1])
        target, nontarget = decoupled_kl(student, teacher, torch.where(is_class, label, 0), self.temperature)
        valid = is_class & valid_positions(mask, student)[:, 0]
        return masked_mean(self.alpha * target + self.beta * nontarget, valid)


def _class_indices(label: Tensor, logits: Tensor) -> Tensor:
    label = label.as_subclass(Tensor)
    expected = (logits.shape[0], *logits.shape[2:])
    if label.ndim == logits.ndim and label.shape[1] == 1:
        label = label[:, 0]
    if label.shape != expected:
        raise ValueError(
            f"label must hold one class index a position: expected {expected} (a channel axis of 1 is allowed), "
            f"got {tuple(label.shape)}. Turn one-hot labels into indices with argmax(dim=1)."
        )
    return label.long()


def _target_or_not(logits: Tensor, is_target: Tensor) -> Tensor:
    """Log-probabilities of the target class and of all others together, shape (B, 2, *spatial)."""
    log_p = F.log_softmax(logits, dim=1)
    target = torch.where(is_target, log_p, 0.0).sum(dim=1)
    others = log_p.masked_fill(is_target, -math.inf).logsumexp(dim=1)
    return torch.stack((target, others), dim=1)


def _among_others(logits: Tensor, is_target: Tensor) -> Tensor:
    """Log-probabilities of the other classes given that the target is none; -inf stands at the target."""
    return F.log_softmax(logits.masked_fill(is_target, -math.inf), dim=1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(q || p) over the channels; classes of probability 0 in both add nothing."""
    absent = log_q == -math.inf
    difference = log_q.masked_fill(absent, 0.0) - log_p.masked_fill(absent, 0.0)
    return (log_q.exp() * difference).sum(dim=1)
