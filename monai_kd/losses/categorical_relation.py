"""Categorical relation preserving: how an image relates to each class, the same in student and teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_kd.losses._common import check_temperature
from monai_kd.losses.contrast_memory import ContrastMemory
from monai_kd.losses.soft_target import soft_target_kl

__all__ = ["CategoricalRelationLoss"]


class CategoricalRelationLoss(nn.Module):
    """Categorical relation preserving (CRP) of [0]: KL divergence between the softmax of an embedding's cosines to the
    class centroids, of the teacher in its bank and of the student in its own.

    Each class counts once, however many images it has; a class without images is left out. The centroids are those of
    the banks as they are: list this term after the one that writes them, ``ClassContrastiveLoss`` or ``CRDLoss``, as
    [0] has it, or let it write them itself.

    [0] Xing et al., Categorical Relation-Preserving Contrastive Knowledge Distillation for Medical Image
        Classification, 2021, https://arxiv.org/abs/2107.03225

    Args:
        memory: heads, banks and labels.
        temperature: of the cosines; the divergence is not scaled by its square.
        rectify: set negative entries of the rows to 0 before a class's mean is taken, as released.
        writes: write the batch into the banks first, in training, where no other term does; ``index`` is needed then.

    Raises:
        ValueError: fewer than two classes with images, or a temperature that is not positive.

    Example:
        >>> loss = CategoricalRelationLoss(ContrastMemory([0, 0, 1, 2], student_channels=8))
        >>> student, teacher = torch.rand(2, 2, 8)
        >>> loss(student, teacher).shape
        torch.Size([])
    """

    def __init__(
        self, memory: ContrastMemory, temperature: float = 0.07, rectify: bool = True, writes: bool = False
    ) -> None:
        super().__init__()
        if len(memory.membership) < 2:
            raise ValueError(f"relations to classes need two classes with images, got {len(memory.membership)}.")
        self.memory = memory
        self.temperature = check_temperature(temperature)
        self.rectify = rectify
        self.writes = writes

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor | None = None) -> Tensor:
        """The loss of features (B, C, *spatial) or (B, C); ``index`` (B,), the rows of the images, to write them."""
        ours, theirs = self.memory.embed(student, teacher)
        if self.writes and self.training:
            if index is None:
                raise ValueError("this loss writes the banks, so it needs index: set batch={'index': 'index'}.")
            self.memory.update(index, ours, theirs)
        student_centroids, teacher_centroids = self.memory.centroids(self.rectify)
        with torch.autocast(ours.device.type, enabled=False):
            student_relation = ours @ student_centroids.mT / self.temperature
            teacher_relation = theirs @ teacher_centroids.mT / self.temperature
        return soft_target_kl(student_relation, teacher_relation).mean()
