"""Decoupled knowledge distillation: the target class and the other classes are weighted apart."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from monai_kd.losses._common import (
    check_same_shape,
    check_softmax_channels,
    check_temperature,
    masked_mean,
    promote,
    valid_positions,
)
from monai_kd.losses.soft_target import soft_target_kl


def decoupled_kl(
    student: Tensor, teacher: Tensor, label: Tensor, temperature: float = 1.0, alpha: float = 1.0, beta: float = 1.0
) -> Tensor:
    """The two parts of KL(teacher || student) seen from the true class, weighted and added, one value per position.

    All sums over the other classes are taken in log space, so a class at probability 1 - 1e-30 loses nothing. Once
    differentiable: the gradient is computed with the value, and is all that is kept.

    Args:
        student: logits, shape (B, C, *spatial).
        teacher: logits, same shape; receives no gradient.
        label: class indices in [0, C), shape (B, *spatial), an integer type.
        temperature: values above 1 flatten all distributions.
        alpha: weight of the divergence of "true class or not".
        beta: weight of the divergence among the other classes.

    Returns:
        Divergence scaled by ``temperature ** 2``, shape (B, *spatial).

    Raises:
        ValueError: when the shapes differ, or for one channel.
    """
    check_same_shape(student, teacher)
    check_softmax_channels(student)
    student, teacher = promote(student), promote(teacher).detach()
    divergence: Tensor = _DecoupledKL.apply(student, teacher, label.unsqueeze(1), temperature, alpha, beta)
    return divergence


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
        clamped = label.clamp(0, student.shape[1] - 1)
        is_class = clamped == label
        divergence = decoupled_kl(student, teacher, clamped, self.temperature, self.alpha, self.beta)
        valid = is_class if mask is None else is_class & valid_positions(mask, student)[:, 0]
        return masked_mean(divergence, valid)


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


class _DecoupledKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, label: Tensor, temperature: float, alpha: float, beta: float
    ) -> Tensor:
        probability, log_probability, odds = _among_others(torch.stack((student, teacher)).div_(temperature), label)
        (p, q), (log_p, log_q) = probability, log_probability
        absent = q == 0  # the target, and what adds nothing
        others = log_q.sub_(log_p).masked_fill_(absent, 0.0).mul_(q).sum(dim=1, keepdim=True)
        yes, no = F.logsigmoid(odds), F.logsigmoid(-odds)
        yes_apart, no_apart = yes[1] - yes[0], no[1] - no[0]
        (yes_p, yes_q), no_q = yes.exp_(), no[1].exp_()
        target = yes_apart.mul_(yes_q).add_(no_apart.mul_(no_q))
        if ctx.needs_input_grad[0]:
            change = yes_p.sub_(yes_q).mul_(alpha * temperature)
            slope = (p * change).neg_().add_(p.sub_(q), alpha=beta * temperature)
            ctx.save_for_backward(slope.scatter_(1, label, change))
        return target.mul_(alpha * temperature**2).add_(others, alpha=beta * temperature**2)[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient.unsqueeze(1) * slope, None, None, None, None, None


def _among_others(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities of the other classes given that the target is none, their logarithms, and the target's log-odds.

    At the target stand 0 and -inf. Of the logits (2, B, C, *spatial), of student and teacher, the memory is used.
    ``label`` has shape (B, 1, *spatial), the log-odds (2, B, 1, *spatial).
    """
    label = label.expand(2, *label.shape)
    odds = logits.gather(2, label)
    largest = logits.scatter_(2, label, -math.inf).amax(dim=2, keepdim=True)
    probability = logits.sub_(largest).exp()
    total = probability.sum(dim=2, keepdim=True)
    probability.div_(total)
    total.log_()
    return probability, logits.sub_(total), odds.sub_(largest).sub_(total)
