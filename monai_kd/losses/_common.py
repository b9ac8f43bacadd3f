"""What every loss checks and how every dense loss averages."""

from __future__ import annotations

import torch
from torch import Tensor


def promote(x: Tensor) -> Tensor:
    """``x`` as a plain tensor in float32 (float64 stays): half precision and autocast must not reach a distillation term."""
    x = x.as_subclass(Tensor)
    return x if x.dtype == torch.float64 else x.float()


def check_same_shape(student: Tensor, teacher: Tensor, what: str = "logits") -> None:
    """Raise ``ValueError`` unless both tensors have one shape."""
    if student.shape != teacher.shape:
        raise ValueError(f"{what} differ in shape: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}.")


def check_softmax_channels(logits: Tensor) -> None:
    """Raise ``ValueError`` for one-channel logits: their softmax is constant, so the loss and its gradient would be 0."""
    if logits.shape[1] == 1:
        raise ValueError(
            f"softmax over 1 channel is constant, the loss would always be 0; got logits {tuple(logits.shape)}. "
            "Use sigmoid=True for binary and multi-label outputs."
        )


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of ``values`` over valid positions, so that one weight fits every patch and batch size.

    Args:
        values: one value a position, shape (B, *spatial), or (B,) for classification.
        mask: valid positions (non-zero), shape (B, *spatial) or (B, 1, *spatial); all positions if ``None``.

    Returns:
        A scalar; 0 (still part of the graph) when no position is valid.
    """
    if mask is None:
        return values.mean()
    mask = mask.as_subclass(Tensor)
    if mask.ndim == values.ndim + 1 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.shape != values.shape:
        raise ValueError(
            f"mask must have one value a position: expected {tuple(values.shape)} "
            f"(a channel axis of 1 is allowed), got {tuple(mask.shape)}."
        )
    valid = mask != 0
    return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)
