"""Attention supervision of KDAS: the student's logit map follows the teacher's after the teacher attended to itself."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd.losses._common import check_same_shape, check_temperature, masked_mean, promote, valid_positions


def row_attention(logits: Tensor) -> Tensor:
    """Self-attention with the rows of a map as tokens: ``softmax(z z^T / sqrt(W)) z``, without parameters.

    Args:
        logits: shape (B, C, H, W), or (B, C, D, H, W): every channel and every slice attends on its own.

    Returns:
        Attended logits in float32 (float64 stays), same shape.

    Example:
        >>> row_attention(torch.ones(1, 1, 2, 4))
        tensor([[[[1., 1., 1., 1.],
                  [1., 1., 1., 1.]]]])
    """
    z = promote(logits)
    with torch.autocast(z.device.type, enabled=False):
        similarity = z @ z.transpose(-1, -2) / math.sqrt(z.shape[-1])
        return similarity.softmax(dim=-1) @ z


def attention_supervision(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 2.0,
    sigmoid: bool = True,
    both_sides: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """KL(attended teacher || student) between maps; see :class:`AttentionSupervisionLoss` for arguments and shapes."""
    check_same_shape(student, teacher)
    if student.ndim not in (4, 5):
        raise ValueError(f"expected logits of shape (B, C, H, W) or (B, C, D, H, W), got {tuple(student.shape)}.")
    student = promote(row_attention(student) if both_sides else student) / temperature
    with torch.no_grad():
        teacher = row_attention(teacher) / temperature
    divergence = _bernoulli_kl if sigmoid else _spatial_kl
    return divergence(student, teacher, mask) * temperature**2


class AttentionSupervisionLoss(nn.Module):
    """KL divergence of [0] from the teacher's attended logit map to the student's, times ``temperature ** 2``.

    The released code hands raw attended logits, which may be negative, to ``KLDivLoss`` as a distribution and takes the
    student's softmax over an axis of size 1: its gradient is exactly 0. This is the corrected form.

    [0] Nguyen et al., KDAS: Knowledge Distillation via Attention Supervision Framework for Polyp Segmentation, 2023,
    https://arxiv.org/abs/2312.08555

    Args:
        temperature: divides the logits of both sides; values above 1 flatten.
        sigmoid: every pixel a foreground probability, averaged over pixels. ``False``: softmax over the positions of
            a map, summed over them.
        both_sides: let the student attend to itself too, as the figure of the paper shows it.

    Raises:
        ValueError: ``temperature`` is not positive.

    Example:
        >>> student, teacher = torch.randn(2, 2, 1, 32, 32)
        >>> AttentionSupervisionLoss()(student, teacher).shape
        torch.Size([])
    """

    def __init__(self, temperature: float = 2.0, sigmoid: bool = True, both_sides: bool = False) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.sigmoid = sigmoid
        self.both_sides = both_sides

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """
        Args:
            student: logits, shape (B, C, H, W), or (B, C, D, H, W) where rows attend within their slice; every channel
                is a map of its own.
            teacher: logits, same shape.
            mask: positions to compare (non-zero), shape (B, *spatial) or (B, 1, *spatial). The teacher attends to the
                whole map either way.

        Returns:
            A scalar: mean over valid positions and channels, or mean over maps with ``sigmoid=False``.

        Raises:
            ValueError: shapes differ, are not 2D or 3D, or the mask does not fit.
        """
        return attention_supervision(student, teacher, self.temperature, self.sigmoid, self.both_sides, mask)


def _bernoulli_kl(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    q = teacher.sigmoid()
    foreground = q * (F.logsigmoid(teacher) - F.logsigmoid(student))
    background = (1 - q) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return masked_mean((foreground + background).mean(dim=1), mask)


def _spatial_kl(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        valid = valid_positions(mask, student)
        lowest = torch.finfo(student.dtype).min
        student, teacher = student.where(valid, lowest), teacher.where(valid, lowest)
    log_p = student.flatten(2).log_softmax(dim=2)
    log_q = teacher.flatten(2).log_softmax(dim=2)
    return (log_q.exp() * (log_q - log_p)).sum(dim=2).mean()
