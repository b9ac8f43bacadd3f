"""Class-guided contrastive distillation: images of a class are positives of one another."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from monai_kd.losses.contrast_memory import ContrastMemory
from monai_kd.losses.noise_contrastive import NoiseContrastiveLoss

__all__ = ["ClassContrastiveLoss"]


class ClassContrastiveLoss(NoiseContrastiveLoss):
    """Class-guided contrastive distillation (CCD) of [0]: as :class:`CRDLoss`, with positives of the anchor's class.

    The student's embedding is drawn to the teacher's embeddings of images of its class and away from those of other
    classes, and the teacher's head likewise. One of the P positives is the image itself, the others are any of its
    class.

    [0] Xing et al., Categorical Relation-Preserving Contrastive Knowledge Distillation for Medical Image
        Classification, 2021, https://arxiv.org/abs/2107.03225

    Args:
        memory: heads, banks and labels.
        positives: P, positives of an anchor.
        negatives: K, negatives of an anchor, of the other classes.
        temperature: of the cosines.
        noise: what a negative is assumed to be drawn from: of all images ("uniform", as released), or of the images of
            other classes ("class"), from which it is.
        sampled: draw positives and negatives in each step instead of the expectation over all draws; ``None`` draws for
            banks above 100,000 rows.

    Raises:
        ValueError: no positive or negative, a temperature that is not positive, an unknown noise.

    Example:
        >>> import torch
        >>> loss = ClassContrastiveLoss(ContrastMemory([0, 0, 1, 2], student_channels=8), positives=2, negatives=4)
        >>> student, teacher = torch.rand(2, 2, 8)
        >>> loss(student, teacher, label=torch.tensor([0, 2]), index=torch.tensor([1, 3])).shape
        torch.Size([])
    """

    def __init__(
        self,
        memory: ContrastMemory,
        positives: int = 20,
        negatives: int = 4096,
        temperature: float = 0.07,
        noise: Literal["uniform", "class"] = "uniform",
        sampled: bool | None = None,
    ) -> None:
        super().__init__(memory, positives, negatives, temperature, noise, sampled)

    def forward(
        self, student: Tensor, teacher: Tensor, label: Tensor, index: Tensor, table: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch.

        Args:
            student: features (B, C, *spatial) or (B, C).
            teacher: features of the same images; only its head learns from them.
            label: class of each image (B,); one of unknown class, -1, has no positive but itself.
            index: row of each image in the banks (B,).
            table: rows to compare with, P positives and then K negatives, (B, P + K); the first becomes ``index``.
        """
        return self.contrast(student, teacher, index, label, table)
