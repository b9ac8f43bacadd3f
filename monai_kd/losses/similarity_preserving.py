"""Similarity-preserving distillation: items that are alike for the teacher are alike for the student."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from monai_kd.losses._common import promote


def batch_similarity(features: Tensor) -> Tensor:
    """Inner products between the items of a batch, each row with unit length.

    Args:
        features: shape (B, C, *spatial).

    Returns:
        Similarities, shape (B, B). Rows of items far shorter than the rest of the batch (a thousandth) fade to 0.
    """
    products: Tensor = _InnerProducts.apply(promote(features).flatten(1))
    # Rows do not depend on the common scale: dividing by it keeps squares from overflowing and eps meaningful.
    scale = products.detach().diagonal().mean()
    return F.normalize(products / scale.clamp(min=1e-24), dim=1, eps=1e-3)


class SimilarityPreservingLoss(nn.Module):
    """Squared difference of the similarities within a batch [0], averaged over the B x B pairs.

    Student and teacher may differ in channels and spatial size. It compares items: a batch of one item has a single
    similarity of 1 in both networks, so the loss is 0 and teaches nothing. Give each step (each process, each
    accumulation step) several images.

    [0] Tung and Mori, Similarity-Preserving Knowledge Distillation, 2019, https://arxiv.org/abs/1907.09682

    Example:
        >>> student, teacher = torch.randn(4, 8, 16, 16), torch.randn(4, 32, 8, 8)
        >>> SimilarityPreservingLoss()(student, teacher).shape
        torch.Size([])
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of features (B, ...) and (B, ...)."""
        if student.shape[0] != teacher.shape[0]:
            raise ValueError(
                f"features must come from one batch, got {student.shape[0]} items of the student and "
                f"{teacher.shape[0]} of the teacher."
            )
        return (batch_similarity(student) - batch_similarity(teacher.detach())).square().mean()


class _InnerProducts(torch.autograd.Function):
    """``items @ items.T``, whose gradient is one product instead of two and their sum."""

    @staticmethod
    def forward(ctx: Any, items: Tensor) -> Tensor:
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(items)
        with torch.autocast(device_type=items.device.type, enabled=False):
            return items @ items.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (items,) = ctx.saved_tensors
        with torch.autocast(device_type=items.device.type, enabled=False):
            return (gradient + gradient.T) @ items
