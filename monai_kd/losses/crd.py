"""Contrastive representation distillation: an image is told from all others."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from monai_kd.losses.contrast_memory import ContrastMemory
from monai_kd.losses.noise_contrastive import NoiseContrastiveLoss

__all__ = ["CRDLoss"]


class CRDLoss(NoiseContrastiveLoss):
    """Contrastive representation distillation (CRD) [0]: the embeddings of one image in both networks are drawn to each
    other, and away from those of other images.

    With ``label`` the negatives are images of other classes, the paper's choice for labelled data; without, all others.

    [0] Tian et al., Contrastive Representation Distillation, 2020, https://arxiv.org/abs/1910.10699

    Args:
        memory: heads and banks.
        negatives: K, negatives of an anchor.
        temperature: of the cosines.
        noise: what a negative is assumed to be drawn from: of all images ("uniform"), or of those that are negatives
            ("class").
        sampled: draw negatives in each step instead of the expectation over all draws; ``None`` draws for banks above
            100,000 rows.

    Raises:
        ValueError: no negative, a temperature that is not positive, an unknown noise.

    Example:
        >>> import torch
        >>> loss = CRDLoss(ContrastMemory([-1] * 50, student_channels=8), negatives=16)
        >>> student, teacher = torch.rand(2, 4, 8)
        >>> loss(student, teacher, index=torch.tensor([1, 3, 20, 49])).shape
        torch.Size([])
    """

    def __init__(
        self,
        memory: ContrastMemory,
        negatives: int = 4096,
        temperature: float = 0.07,
        noise: Literal["uniform", "class"] = "uniform",
        sampled: bool | None = None,
    ) -> None:
        super().__init__(memory, 1, negatives, temperature, noise, sampled)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        index: Tensor,
        label: Tensor | None = None,
        table: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            student: features (B, C, *spatial) or (B, C).
            teacher: features of the same images; only its head learns from them.
            index: row of each image in the banks (B,).
            label: class of each image (B,); its negatives are of other classes then.
            table: rows to compare with, the image's own and K negatives, (B, 1 + K).
        """
        return self.contrast(student, teacher, index, label, table)
