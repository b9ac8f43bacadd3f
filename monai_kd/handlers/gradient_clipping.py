"""Gradient clipping for engines that own their optimiser step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

__all__ = ["clip_gradient_values"]


def clip_gradient_values(limit: float) -> Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], None]:
    """A hook for ``optimizer.register_step_pre_hook`` that clamps every gradient element to [-limit, limit].

    It runs right before the step: after accumulation, and after the scaler of ``amp`` has unscaled the gradients. A
    fused optimiser unscales inside its step; there the limit is scaled instead.

    Raises:
        ValueError: when ``limit`` is not positive.

    Example:
        >>> import torch
        >>> weight = nn.Parameter(torch.zeros(1))
        >>> optimizer = torch.optim.SGD([weight], lr=1.0)
        >>> _ = optimizer.register_step_pre_hook(clip_gradient_values(0.5))
        >>> (9 * weight).sum().backward()
        >>> _ = optimizer.step(); weight.item()
        -0.5
    """
    if not limit > 0:
        raise ValueError(f"the limit of gradient clipping must be positive, got {limit}.")

    def clip(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        scale = getattr(optimizer, "grad_scale", None)
        if scale is None:
            nn.utils.clip_grad_value_(parameters, limit)
            return
        for gradient in (p.grad for p in parameters if p.grad is not None):
            bound = limit * scale.to(gradient.device)
            gradient.clamp_(-bound, bound)

    return clip
