"""Hints by direction: the student's features point where the teacher's do, whatever their length."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd.losses._common import check_same_shape, masked_mean, promote

_SHORTEST = 1e-6  # shorter vectors count as 0; also the bound of the gradient, 1 / _SHORTEST


def normalized_hint_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of features scaled to unit length along the channels, one value per position.

    Args:
        student: features, shape (B, C, *spatial).
        teacher: features, same shape; receives no gradient.

    Returns:
        Errors, shape (B, *spatial), in [0, 4]: twice one minus the cosine.

    Raises:
        ValueError: when the shapes differ.
    """
    check_same_shape(student, teacher, "features")
    ours, theirs = (F.normalize(promote(x), dim=1, eps=_SHORTEST) for x in (student, teacher))
    return (ours - theirs.detach()).square().sum(dim=1)


class NormalizedHintLoss(nn.Module):
    """Squared distance of features of unit length, averaged over valid positions: hints [0] that see directions alone.

    Networks of different families differ in the scale of their features, from position to position too; it is taken
    out. The distance is summed over the channels, as [1] has it, so that one weight fits any number of them (a mean
    squared error would be smaller by that number). The adapter goes before this loss, as for ``HintLoss``.

    [0] Romero et al., FitNets: Hints for Thin Deep Nets, 2015, https://arxiv.org/abs/1412.6550
    [1] Grill et al., Bootstrap Your Own Latent, 2020, https://arxiv.org/abs/2006.07733

    Example:
        >>> import torch
        >>> student, teacher = torch.randn(2, 2, 8, 16, 16)
        >>> NormalizedHintLoss()(student, teacher).shape
        torch.Size([])
    """

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of features (B, C, *spatial); ``mask`` at their resolution, (B, *spatial) or (B, 1, *spatial)."""
        return masked_mean(normalized_hint_error(student, teacher), mask)
