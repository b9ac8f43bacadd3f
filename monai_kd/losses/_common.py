"""What every loss checks and how every dense loss averages."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def promote(x: Tensor) -> Tensor:
    """``x`` as a plain tensor in float32 (float64 stays): half precision must not reach a distillation term."""
    x = x if type(x) is Tensor else x.as_subclass(Tensor)
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def check_same_shape(student: Tensor, teacher: Tensor, what: str = "logits") -> None:
    """Raise ``ValueError`` unless both tensors have one shape."""
    if student.shape != teacher.shape:
        raise ValueError(f"{what} differ in shape: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}.")


def check_temperature(temperature: float) -> float:
    """``temperature``, or ``ValueError`` unless it is positive and finite."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}.")
    return temperature


def check_softmax_channels(logits: Tensor) -> None:
    """Raise ``ValueError`` for one-channel logits: their softmax is constant, so loss and gradient would be 0."""
    if logits.shape[1] == 1:
        raise ValueError(
            f"softmax over 1 channel is constant, the loss would always be 0; got logits {tuple(logits.shape)}. "
            "Use sigmoid=True for binary and multi-label outputs."
        )


def probabilities(logits: Tensor, temperature: float, sigmoid: bool) -> Tensor:
    """Softened probabilities of logits (B, C, *spatial): of each channel alone if ``sigmoid``, else over channels."""
    logits = promote(logits) / temperature
    return logits.sigmoid() if sigmoid else logits.softmax(dim=1)


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
    ready = mask.dtype == torch.bool and mask.shape == values.shape
    valid = mask.as_subclass(Tensor) if ready else valid_positions(mask, values.unsqueeze(1))[:, 0]
    return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)


def valid_positions(mask: Tensor | None, like: Tensor) -> Tensor:
    """``mask`` as booleans of shape (B, 1, *spatial) for ``like`` of shape (B, C, *spatial); all true for ``None``."""
    expected = (like.shape[0], 1, *like.shape[2:])
    if mask is None:
        return torch.ones(expected, dtype=torch.bool, device=like.device)
    mask = mask.as_subclass(Tensor)
    if mask.ndim == like.ndim - 1:
        mask = mask.unsqueeze(1)
    if mask.shape != expected:
        raise ValueError(
            f"mask must have one value a position: expected {expected} (the channel axis may be left out), "
            f"got {tuple(mask.shape)}."
        )
    return mask != 0
