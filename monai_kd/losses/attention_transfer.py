"""Attention transfer: the student looks where the teacher looks."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd.losses._common import promote
from monai_kd.losses._power_sum import largest, power_sum


def attention_map(features: Tensor, p: float = 2.0) -> Tensor:
    """Where the activations are: ``sum_c |x_c|^p`` as a vector over positions with unit length.

    Args:
        features: shape (B, C, *spatial).
        p: larger values favour the strongest activations.

    Returns:
        One unit vector an item, shape (B, positions); 0 for an item whose features are all 0.
    """
    features = promote(features)
    # The unit vector does not depend on the scale, so dividing by the largest value only keeps |x|^p from overflowing.
    return unit_vectors(power_sum(features, largest(features.detach()), features.shape[2:], p))


def unit_vectors(strength: Tensor) -> Tensor:
    """Positive values (B, 1, *spatial) as vectors (B, positions) of unit length, whatever their scale."""
    strength = strength.flatten(1)
    strength = strength / strength.detach().amax(dim=1, keepdim=True).clamp(min=1e-12)
    return F.normalize(strength, dim=1)


class AttentionTransferLoss(nn.Module):
    """Squared distance between the attention maps of [0], averaged over the batch: from 0 to 2 on any feature size.

    The maps have unit length over their positions, so the squared distance is summed over positions. (The released code
    averages it, which makes the weight depend on the feature size.) Student and teacher may differ in channels.

    [0] Zagoruyko and Komodakis, Paying More Attention to Attention, 2017, https://arxiv.org/abs/1612.03928

    Args:
        p: power of the activations, at least 1.

    Raises:
        ValueError: when ``p`` is below 1.

    Example:
        >>> student, teacher = torch.randn(2, 8, 16, 16), torch.randn(2, 32, 16, 16)
        >>> AttentionTransferLoss()(student, teacher).shape
        torch.Size([])
    """

    def __init__(self, p: float = 2.0) -> None:
        super().__init__()
        if not 1 <= p < math.inf:
            raise ValueError(f"p must be at least 1 and finite (below 1 the gradient at 0 is infinite), got {p}.")
        self.p = p

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of features (B, C, *spatial) and (B, D, *spatial)."""
        if student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
            raise ValueError(
                f"attention maps need one batch and spatial size, got student {tuple(student.shape)}, teacher "
                f"{tuple(teacher.shape)}. Tap layers of equal stride or resample the student's with an adapter."
            )
        if student.shape[2:].numel() == 1:
            raise ValueError(
                f"the attention map of 1 position is constant, the loss would always be 0; got features "
                f"{tuple(student.shape)}. Tap a layer with a spatial size."
            )
        difference = attention_map(student, self.p) - attention_map(teacher.detach(), self.p)
        return difference.square().sum(dim=1).mean()
