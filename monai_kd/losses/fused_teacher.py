"""The losses around one fusion of teachers: what it learns from, and what the student learns of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monai_kd.losses._common import check_temperature
from monai_kd.losses.normalized_hint import NormalizedHintLoss
from monai_kd.losses.soft_target import SoftTargetLoss
from monai_kd.losses.teacher_fusion import MultiTeacherAttentionFusion

__all__ = ["FusionHintLoss", "FusionSoftTargetLoss", "FusionTaskLoss"]


class FusionTaskLoss(nn.Module):
    """The fusion's own task: class logits of the fused map against the label. Trains the fusion, never the student.

    Args:
        fusion: the fusion.
        task_loss: of logits (B, num_classes) and label; cross-entropy if ``None``. The trainer's own loss, with its
            class weights, is the natural choice.

    Example:
        >>> fusion = MultiTeacherAttentionFusion((32, 64), num_classes=3, dimension=16, positions=(4, 4))
        >>> student, teachers = torch.randn(2, 16, 4, 4), [torch.randn(2, 32, 4, 4), torch.randn(2, 64, 4, 4)]
        >>> FusionTaskLoss(fusion)(student, teachers, label=torch.tensor([0, 2])).shape
        torch.Size([])
    """

    def __init__(self, fusion: MultiTeacherAttentionFusion, task_loss: nn.Module | None = None) -> None:
        super().__init__()
        self.fusion = fusion
        self.task_loss = nn.CrossEntropyLoss() if task_loss is None else task_loss

    def forward(self, student: Tensor, teacher: Sequence[Tensor], label: Tensor) -> Tensor:
        """The loss of the student's map (B, d, *positions), maps of the teachers and the label (B,)."""
        value: Tensor = self.task_loss(self.fusion.logits(self.fusion(student, teacher)), label.as_subclass(Tensor))
        return value


class FusionHintLoss(nn.Module):
    """Hints of the fused map: :class:`NormalizedHintLoss` between the student's map and it. Trains the student alone.

    Args:
        fusion: the fusion, which ``FusionTaskLoss`` trains.

    Example:
        >>> fusion = MultiTeacherAttentionFusion((32, 64), num_classes=3, dimension=16, positions=(4, 4))
        >>> student, teachers = torch.randn(2, 16, 4, 4), [torch.randn(2, 32, 4, 4), torch.randn(2, 64, 4, 4)]
        >>> FusionHintLoss(fusion)(student, teachers).shape
        torch.Size([])
    """

    def __init__(self, fusion: MultiTeacherAttentionFusion) -> None:
        super().__init__()
        self.fusion = fusion
        self.hint = NormalizedHintLoss()

    def forward(self, student: Tensor, teacher: Sequence[Tensor]) -> Tensor:
        """The loss of the student's map (B, d, *positions) and maps of the teachers."""
        with torch.no_grad():
            fused = self.fusion(student, teacher)
        value: Tensor = self.hint(self.fusion.check_student(student), fused)
        return value


class FusionSoftTargetLoss(nn.Module):
    """Soft targets of the fused map: ``SoftTargetLoss`` to its class logits. Trains the student alone.

    Args:
        fusion: the fusion, which ``FusionTaskLoss`` trains.
        temperature: values above 1 flatten both distributions; the loss is scaled by its square.

    Raises:
        ValueError: when ``temperature`` is not positive.

    Example:
        >>> fusion = MultiTeacherAttentionFusion((32, 64), num_classes=3, dimension=16, positions=(4, 4))
        >>> student, teachers = torch.randn(2, 16, 4, 4), [torch.randn(2, 32, 4, 4), torch.randn(2, 64, 4, 4)]
        >>> FusionSoftTargetLoss(fusion)([student, torch.randn(2, 3)], teachers).shape
        torch.Size([])
    """

    def __init__(self, fusion: MultiTeacherAttentionFusion, temperature: float = 4.0) -> None:
        super().__init__()
        self.fusion = fusion
        self.soft_target = SoftTargetLoss(check_temperature(temperature))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The loss of the student's map and its logits (B, num_classes), and of maps of the teachers."""
        features, logits = student
        with torch.no_grad():
            targets = self.fusion.logits(self.fusion(features, teacher))
        value: Tensor = self.soft_target(logits, targets)
        return value
