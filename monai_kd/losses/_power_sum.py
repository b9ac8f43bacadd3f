"""Powers of features, summed over their channels a few at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from monai_kd._resize import resize

# One channel of 128^3 in float32.
_CHUNK_BYTES = 8 * 2**20
# What a processor keeps at hand.
_CACHE_BYTES = 2 * 2**20


def largest(x: Tensor) -> Tensor:
    """The largest absolute value of each item, (B, 1, ...), without a copy of ``x``; 1 where all are 0."""
    axes = tuple(range(1, x.ndim))
    peak = torch.maximum(x.amax(axes, keepdim=True), -x.amin(axes, keepdim=True))
    return torch.where(peak > 0, peak, 1.0)


def power_sum(x: Tensor, peak: Tensor, size: Sequence[int], p: float) -> Tensor:
    """``sum_c |x_c / peak|^p`` at ``size``, (B, 1, *size); ``x`` is (B, C, *spatial), ``peak`` (B, 1, ...).

    Nothing is kept but ``x``: the powers are computed again for the gradient, which costs less than their memory.
    """
    total: Tensor = _PowerSum.apply(x, peak, tuple(size), p)
    return total


class _PowerSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, peak: Tensor, size: tuple[int, ...], p: float) -> Tensor:
        ctx.save_for_backward(x, peak)
        ctx.size, ctx.p = size, p
        if p == 4 and 4 * x.shape[2] <= size[0]:
            return _enlarged_sum_of_fourth_powers(x, peak, size)
        total = x.new_zeros(x.shape[0], 1, *size)
        for channels in _split(x, size):
            part = _power(_at(channels, size) / peak, p)
            total += part.sum(dim=1, keepdim=True)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, peak = ctx.saved_tensors
        result = torch.empty_like(x)
        gradient = gradient * (ctx.p / peak)
        for channels, target in zip(_split(x, ctx.size), _split(result, ctx.size)):
            with torch.enable_grad():
                channels = channels.detach().requires_grad_()
                resized = _at(channels, ctx.size)
            slope = _slope(resized.detach() / peak, ctx.p).mul_(gradient)
            if resized is channels:
                target.copy_(slope)
            else:
                target.copy_(torch.autograd.grad(resized, channels, slope)[0])
        return result, None, None, None


def _enlarged_sum_of_fourth_powers(x: Tensor, peak: Tensor, size: Sequence[int]) -> Tensor:
    """``sum_c (x_c / peak)^4`` at ``size``, whose first spatial axis is never enlarged channel by channel.

    Between two neighbours ``a`` and ``b`` of that axis a channel is ``u a + v b``, whose fourth power is
    ``u^4 a^4 + 4 u^3 v a^3 b + 6 u^2 v^2 a^2 b^2 + 4 u v^3 a b^3 + v^4 b^4``: the products of ``a`` and ``b`` are
    summed over the channels, and their sums alone are brought to the new positions. They take no more memory than the
    result where that is four times as long.
    """
    length, rest = x.shape[2], tuple(size[1:])
    sums = x.new_zeros(x.shape[0], 4, length, *rest)
    for channels in _split(x, (length, *rest), min(_CACHE_BYTES, _CHUNK_BYTES)):
        y = _at(channels / peak, (length, *rest))
        square, product = y.square(), y[:, :, :-1] * y[:, :, 1:]
        below, above = square[:, :, :-1], square[:, :, 1:]
        for i, values in enumerate((below * product, below * above, product.mul_(above)), start=1):
            sums[:, i, :-1] += values.sum(dim=1)
        sums[:, 0] += square.square_().sum(dim=1)
    unit = torch.eye(length, dtype=x.dtype, device=x.device)[None]
    weights = F.interpolate(unit, size=size[0], mode="linear", align_corners=False)[0]  # each position has two
    u, v = weights, F.pad(weights[1:], (0, 0, 0, 1))
    weights = torch.cat([u**4, 4 * u**3 * v, 6 * u**2 * v**2, 4 * u * v**3])
    with torch.autocast(x.device.type, enabled=False):
        total = weights.T @ sums.reshape(x.shape[0], 4 * length, -1)
    return total.clamp_(min=0).reshape(x.shape[0], 1, *size)


def _at(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if x.shape[2:] == torch.Size(size) else resize(x, size)


def _split(x: Tensor, size: Sequence[int], most: int | None = None) -> tuple[Tensor, ...]:
    """Parts of ``x`` along the channels that take ``most`` bytes at ``size``, one channel at least."""
    bytes_per_channel = x.shape[0] * math.prod(size) * x.element_size()
    return x.split(max(1, (most or _CHUNK_BYTES) // bytes_per_channel), dim=1)


def _power(x: Tensor, p: float) -> Tensor:
    """``|x|^p``, in the place of ``x``; a square of a square costs a fraction of a general power."""
    if p == 2:
        return x.square_()
    if p == 4:
        return x.square_().square_()
    return x.abs_().pow_(p)


def _slope(x: Tensor, p: float) -> Tensor:
    """``|x|^(p - 1) sign(x)``, in the place of ``x`` or not."""
    if p == 2:
        return x
    if p == 4:
        return x.square().mul_(x)
    return x.abs().pow_(p - 1).mul_(x.sign())
