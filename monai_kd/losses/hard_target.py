"""Hard targets: the student learns the class that the teacher decides for."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd.losses._common import check_same_shape, check_softmax_channels, masked_mean, promote


def hard_target_cross_entropy(student: Tensor, teacher: Tensor, sigmoid: bool = False) -> Tensor:
    """Cross-entropy of the student against the teacher's decision, one value per position.

    Args:
        student: logits, shape (B, C, *spatial).
        teacher: logits, same shape; receives no gradient.
        sigmoid: one decision a channel (binary and multi-label outputs), averaged over the channels, instead of one
            among the channels.

    Returns:
        Cross-entropies, shape (B, *spatial).

    Raises:
        ValueError: when the shapes differ, or for softmax over one channel.
    """
    check_same_shape(student, teacher)
    student, teacher = promote(student), promote(teacher).detach()
    if sigmoid:
        decision = (teacher > 0).to(student.dtype)
        return F.binary_cross_entropy_with_logits(student, decision, reduction="none").mean(dim=1)
    check_softmax_channels(student)
    return F.cross_entropy(student, teacher.argmax(dim=1), reduction="none")


class HardTargetLoss(nn.Module):
    """Hard-label distillation of [0]: the teacher's decision as label, averaged over valid positions.

    Unlike the other losses it is not 0 when both sides agree, only when the student is as sure as can be.

    [0] Touvron et al., Training Data-Efficient Image Transformers and Distillation Through Attention, 2021,
    https://arxiv.org/abs/2012.12877

    Args:
        sigmoid: channels are independent yes/no questions instead of exclusive classes.

    Example:
        >>> student, teacher = torch.randn(2, 4, 7)
        >>> HardTargetLoss()(student, teacher).shape
        torch.Size([])
    """

    def __init__(self, sigmoid: bool = False) -> None:
        super().__init__()
        self.sigmoid = sigmoid

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of logits (B, C, *spatial) where ``mask``, (B, *spatial) or (B, 1, *spatial), is not 0."""
        return masked_mean(hard_target_cross_entropy(student, teacher, self.sigmoid), mask)
