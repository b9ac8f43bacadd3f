"""Hints: the student's features match the teacher's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd.losses._common import masked_mean, promote


def hint_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of features, averaged over channels, one value per position.

    Args:
        student: features, shape (B, C, *spatial).
        teacher: features, same shape; receives no gradient.

    Returns:
        Errors, shape (B, *spatial).

    Raises:
        ValueError: when the shapes differ.
    """
    _check_shapes(student, teacher)
    return (promote(student) - promote(teacher).detach()).square().mean(dim=1)


class HintLoss(nn.Module):
    """Mean squared error of features [0] over channels and valid positions.

    The paper's regressor, which maps the student's channels to the teacher's, is the adapter in front of this loss.

    [0] Romero et al., FitNets: Hints for Thin Deep Nets, 2015, https://arxiv.org/abs/1412.6550

    Example:
        >>> student, teacher = torch.randn(2, 2, 8, 16, 16)
        >>> HintLoss()(student, teacher).shape
        torch.Size([])
    """

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of features (B, C, *spatial); ``mask`` at their resolution, (B, *spatial) or (B, 1, *spatial)."""
        if mask is not None:
            return masked_mean(hint_error(student, teacher), mask)
        _check_shapes(student, teacher)
        teacher = promote(teacher).detach()
        # What was made in inference mode cannot be kept for the backward pass.
        return F.mse_loss(promote(student), teacher.clone() if teacher.is_inference() else teacher)


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"features differ in shape: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}. "
            "Map the student's features to the teacher's with an adapter (a convolution, resampling)."
        )
