"""Channel-wise distillation: where each channel is active, as a distribution over positions."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd.losses._common import check_same_shape, check_temperature, masked_mean, promote, valid_positions
from monai_kd.losses.soft_target import categorical_kl


def channel_wise_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """KL(teacher || student) between each channel's distributions over positions.

    Args:
        student: features or logits, shape (B, C, *spatial).
        teacher: same shape; receives no gradient.
        temperature: values above 1 flatten both distributions.
        mask: valid positions (non-zero), shape (B, *spatial) or (B, 1, *spatial); all positions if ``None``.

    Returns:
        Divergence scaled by ``temperature ** 2``, shape (B, C); 0 for an item without a valid position.

    Raises:
        ValueError: when the shapes differ, or for one position.
    """
    check_same_shape(student, teacher, "features")
    if student.shape[2:].numel() == 1:
        raise ValueError(
            f"the softmax over 1 position is constant, the loss would always be 0; got {tuple(student.shape)}. "
            "Tap a layer with a spatial size."
        )
    if mask is None:
        return categorical_kl(promote(student).flatten(2), promote(teacher).detach().flatten(2), temperature, dim=2)
    excluded = ~valid_positions(mask, student).flatten(2)
    # An item without a valid position keeps all of them here, because a softmax over nothing is not a number.
    excluded_from_softmax = excluded & ~excluded.all(dim=2, keepdim=True)
    log_p, log_q = (
        F.log_softmax((x.flatten(2) / temperature).masked_fill(excluded_from_softmax, -math.inf), dim=2)
        for x in (promote(student), promote(teacher).detach())
    )
    difference = log_q.masked_fill(excluded, 0.0) - log_p.masked_fill(excluded, 0.0)
    return (log_q.exp() * difference).sum(dim=2) * temperature**2


class ChannelWiseLoss(nn.Module):
    """Channel-wise distillation [0], averaged over channels and batch.

    It takes features as well as logits. Student and teacher need equal shapes: the paper's 1x1 convolution is the
    adapter in front of this loss. Items in which the mask has no valid position do not count.

    [0] Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, 2021, https://arxiv.org/abs/2011.13256

    Args:
        temperature: values above 1 flatten the distributions over positions; the loss is scaled by its square.

    Raises:
        ValueError: when ``temperature`` is not positive.

    Example:
        >>> student, teacher = torch.randn(2, 2, 8, 16, 16)
        >>> ChannelWiseLoss()(student, teacher).shape
        torch.Size([])
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of tensors (B, C, *spatial) where ``mask``, (B, *spatial) or (B, 1, *spatial), is not 0."""
        divergence = channel_wise_kl(student, teacher, self.temperature, mask).mean(dim=1)
        return masked_mean(divergence, None if mask is None else valid_positions(mask, student).flatten(1).any(dim=1))
