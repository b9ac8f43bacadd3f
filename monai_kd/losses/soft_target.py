"""Soft targets: the student learns the teacher's softened class probabilities."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from monai_kd.losses._common import check_same_shape, check_softmax_channels, check_temperature, masked_mean, promote


def soft_target_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, sigmoid: bool = False) -> Tensor:
    """KL(teacher || student) between softened class distributions, one value per position.

    Args:
        student: logits, shape (B, C, *spatial).
        teacher: logits, same shape; receives no gradient.
        temperature: values above 1 flatten both distributions.
        sigmoid: one Bernoulli distribution a channel (binary and multi-label outputs), averaged over the channels,
            instead of one softmax distribution over the channels.

    Returns:
        Divergence scaled by ``temperature ** 2``, shape (B, *spatial).

    Raises:
        ValueError: when the shapes differ, or for softmax over one channel.
    """
    check_same_shape(student, teacher)
    if not sigmoid:
        check_softmax_channels(student)
    student, teacher = promote(student), promote(teacher).detach()
    if sigmoid:
        return _bernoulli_kl(student / temperature, teacher / temperature) * temperature**2
    return categorical_kl(student, teacher, temperature, dim=1)


def categorical_kl(student: Tensor, teacher: Tensor, temperature: float, dim: int, mean: bool = False) -> Tensor:
    """KL(teacher || student) between softmax distributions along ``dim``, times ``temperature ** 2``.

    With ``mean`` it is averaged over all of them. Once differentiable: the gradient, the difference of both
    distributions, is computed with the value, and is all that is kept.
    """
    divergence: Tensor = _CategoricalKL.apply(student, teacher, temperature, dim, mean)
    return divergence


class SoftTargetLoss(nn.Module):
    """Soft targets of [0], averaged over valid positions so that one weight fits any patch size, in 2D and 3D.

    Binary and multi-label outputs, for which a softmax is constant or wrong, take the Bernoulli form, ``sigmoid=True``.

    [0] Hinton et al., Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531

    Args:
        temperature: values above 1 flatten both distributions; the loss is scaled by its square.
        sigmoid: channels are independent yes/no questions instead of exclusive classes.

    Raises:
        ValueError: when ``temperature`` is not positive.

    Example:
        >>> student, teacher = torch.randn(2, 2, 3, 16, 16, 16)
        >>> SoftTargetLoss(temperature=4.0)(student, teacher).shape
        torch.Size([])
    """

    def __init__(self, temperature: float = 4.0, sigmoid: bool = False) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.sigmoid = sigmoid

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of logits (B, C, *spatial) where ``mask``, (B, *spatial) or (B, 1, *spatial), is not 0."""
        if mask is not None or self.sigmoid:
            return masked_mean(soft_target_kl(student, teacher, self.temperature, self.sigmoid), mask)
        check_same_shape(student, teacher)
        check_softmax_channels(student)
        return categorical_kl(promote(student), promote(teacher).detach(), self.temperature, dim=1, mean=True)


class _CategoricalKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float, dim: int, mean: bool) -> Tensor:
        log_p = (student / temperature).log_softmax(dim)
        log_q = (teacher / temperature).log_softmax(dim)
        difference = log_q - log_p
        q = log_q.exp_()
        count = max(q.numel() // q.shape[dim], 1) if mean else 1
        if ctx.needs_input_grad[0]:
            ctx.dim = None if mean else dim
            ctx.save_for_backward(log_p.exp_().sub_(q).mul_(temperature / count))
        products = difference.mul_(q)
        return (products.sum() if mean else products.sum(dim=dim)).mul_(temperature**2 / count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return (gradient if ctx.dim is None else gradient.unsqueeze(ctx.dim)) * slope, None, None, None, None


def _bernoulli_kl(student: Tensor, teacher: Tensor) -> Tensor:
    yes = torch.sigmoid(teacher) * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = torch.sigmoid(-teacher) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (yes + no).mean(dim=1)
