"""Soft Dice against the teacher's probabilities: small structures weigh as much as large ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from monai_kd.losses._common import (
    check_same_shape,
    check_softmax_channels,
    check_temperature,
    masked_mean,
    probabilities,
    valid_positions,
)


def teacher_dice(student: Tensor, teacher: Tensor, mask: Tensor | None = None, smooth: float = 1e-5) -> Tensor:
    """Dice distance with squared denominators, ``1 - 2pq / (p^2 + q^2)``, one value per item and channel.

    It is computed in the equal form ``(p - q)^2 / (p^2 + q^2)`` with means over positions: exactly zero where both
    agree, also where both are empty, and ``smooth`` has the same effect on any patch size.

    Args:
        student: probabilities, shape (B, C, *spatial).
        teacher: probabilities, same shape.
        mask: valid positions (non-zero), shape (B, *spatial) or (B, 1, *spatial); all positions if ``None``.
        smooth: added to the denominator; channels with a mean square well below it count as empty.

    Returns:
        Distances from 0 to 1, shape (B, C); 0 for an item without a valid position.
    """
    valid = valid_positions(mask, student)
    difference, size = (student - teacher).square(), student.square() + teacher.square()
    count = valid.flatten(1).sum(dim=1, keepdim=True).clamp(min=1)
    difference, size = (
        torch.where(valid, x, 0.0).reshape(*student.shape[:2], -1).sum(dim=2) / count for x in (difference, size)
    )
    return difference / (size + smooth)


class TeacherDiceLoss(nn.Module):
    """Soft Dice [0] between the student's and the teacher's probabilities, averaged over items and channels.

    An average over positions is ruled by the background; Dice weighs every class alike, so rare foreground classes
    survive. The squared denominators make the loss zero at equality; the plain soft Dice is not, for soft labels [1].

    [0] Milletari et al., V-Net, 2016, https://arxiv.org/abs/1606.04797
    [1] Wang et al., Dice Semimetric Losses, 2023, https://arxiv.org/abs/2303.16296

    Args:
        sigmoid: channels are independent yes/no questions instead of exclusive classes.
        include_background: ``False`` leaves channel 0 out.
        temperature: values above 1 flatten both distributions; overlap is usually wanted at 1.
        smooth: keeps empty channels finite, see :func:`teacher_dice`.

    Raises:
        ValueError: when ``temperature`` or ``smooth`` is not positive.

    Example:
        >>> student, teacher = torch.randn(2, 2, 3, 16, 16, 16)
        >>> TeacherDiceLoss()(student, teacher).shape
        torch.Size([])
    """

    def __init__(
        self,
        sigmoid: bool = False,
        include_background: bool = True,
        temperature: float = 1.0,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        if not 0 < smooth < math.inf:
            raise ValueError(f"smooth must be positive, otherwise empty channels divide 0 by 0, got {smooth}.")
        self.sigmoid = sigmoid
        self.include_background = include_background
        self.temperature = check_temperature(temperature)
        self.smooth = smooth

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of logits (B, C, *spatial); items in which ``mask`` has no valid position do not count."""
        check_same_shape(student, teacher)
        if not self.sigmoid:
            check_softmax_channels(student)
        if not self.include_background and student.shape[1] == 1:
            raise ValueError("nothing is left of 1 channel without the background; use include_background=True.")
        student, teacher = self._probabilities(student), self._probabilities(teacher).detach()
        distance = teacher_dice(student, teacher, mask, self.smooth).mean(dim=1)
        return masked_mean(distance, valid_positions(mask, student).flatten(1).any(dim=1))

    def _probabilities(self, logits: Tensor) -> Tensor:
        channels = probabilities(logits, self.temperature, self.sigmoid)
        return channels if self.include_background else channels[:, 1:]
