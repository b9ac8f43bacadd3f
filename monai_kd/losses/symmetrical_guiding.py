"""Symmetrical guiding of KDAS: student and teacher agree in the symmetric part of their logit maps."""

from __future__ import annotations

from torch import Tensor, nn

from monai_kd.losses._common import check_same_shape, promote


def symmetrical_guiding(student: Tensor, teacher: Tensor, sigmoid: bool = False) -> Tensor:
    """Squared error between ``P + P^T`` of both maps, one value a position.

    Args:
        student: logits, shape (B, C, *spatial); the last two axes are of one size.
        teacher: logits, same shape.
        sigmoid: compare probabilities, so that the error is at most 4.

    Returns:
        Squared errors in float32 (float64 stays), same shape.

    Raises:
        ValueError: shapes differ, are not 2D or 3D, or the last two axes differ in size.
    """
    check_same_shape(student, teacher)
    if student.ndim not in (4, 5):
        raise ValueError(f"expected logits of shape (B, C, H, W) or (B, C, D, H, W), got {tuple(student.shape)}.")
    if student.shape[-1] != student.shape[-2]:
        raise ValueError(
            f"P + P^T needs square maps, got height {student.shape[-2]} and width {student.shape[-1]}; "
            "resize or crop the images to a square."
        )
    student, teacher = promote(student), promote(teacher).detach()
    if sigmoid:
        student, teacher = student.sigmoid(), teacher.sigmoid()
    # Q is linear: Q(student) - Q(teacher) = Q(student - teacher).
    difference = student - teacher
    return (difference + difference.transpose(-1, -2)).square()


class SymmetricalGuidingLoss(nn.Module):
    """Mean of ``(Q(student) - Q(teacher)) ** 2`` with ``Q(P) = P + P^T`` over height and width [0].

    What is antisymmetric in the difference of both maps is left free. On raw logits the loss has no bound and, with
    confident teachers, outweighs the other terms; ``sigmoid=True`` bounds it.

    [0] Nguyen et al., KDAS: Knowledge Distillation via Attention Supervision Framework for Polyp Segmentation, 2023,
    https://arxiv.org/abs/2312.08555

    Args:
        sigmoid: compare probabilities instead of logits.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
        >>> SymmetricalGuidingLoss()(student, teacher)
        tensor(4.)
    """

    def __init__(self, sigmoid: bool = False) -> None:
        super().__init__()
        self.sigmoid = sigmoid

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """
        Args:
            student: logits, shape (B, C, H, W), or (B, C, D, H, W) where every slice is a map; H = W.
            teacher: logits, same shape.

        Returns:
            Mean over all positions, a scalar.

        Raises:
            ValueError: shapes differ, are not 2D or 3D, or the maps are not square.
        """
        return symmetrical_guiding(student, teacher, self.sigmoid).mean()
