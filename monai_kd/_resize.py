"""Features of several sizes, brought to one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
_LONGEST = 64  # positions along an axis; the products of longer ones cost more than they save


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x`` (B, C, *spatial), linearly resampled to ``size`` where any axis differs."""
    if x.shape[2:] == torch.Size(size):
        return x
    if _by_products(x, size):
        return _enlarged(x, size)
    return F.interpolate(x, size=tuple(size), mode=_MODES[x.ndim - 2], align_corners=False)


def _by_products(x: Tensor, size: Sequence[int]) -> bool:
    """Whether products with matrices of weights are quicker: a CPU interpolates volumes voxel by voxel."""
    enlarged = all(old <= new for old, new in zip(x.shape[2:], size))
    plain = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    return plain and enlarged and max(x.shape[2:]) <= _LONGEST


def _enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """What ``F.interpolate`` gives, axis by axis, the last one first."""
    with torch.autocast("cpu", enabled=False):
        for axis in reversed(range(2, x.ndim)):
            old, new = x.shape[axis], int(size[axis - 2])
            if old == new:
                continue
            unit = torch.eye(old, dtype=x.dtype)[None]
            weights = F.interpolate(unit, size=new, mode="linear", align_corners=False)[0]
            shape = (*x.shape[:axis], new, *x.shape[axis + 1 :])
            x = x @ weights if axis == x.ndim - 1 else (weights.T @ x.flatten(0, axis - 1).flatten(2)).reshape(shape)
    return x


def smallest_size(features: Sequence[Tensor]) -> torch.Size:
    """The spatial size with the fewest positions among features (B, C, *spatial), whatever their order."""
    return min((x.shape[2:] for x in features), key=lambda size: (size.numel(), size))


def concatenate(features: Sequence[Tensor]) -> Tensor:
    """The channels of all features (B, C_i, *spatial_i) at the smallest of their sizes, (B, sum C_i, *spatial)."""
    size = smallest_size(features)
    return torch.cat([resize(x, size) for x in features], dim=1)


def check_joinable(features: Sequence[Tensor], what: str) -> None:
    """Raise ``ValueError`` unless all features are of one batch and one number of spatial axes, 0 to 3."""
    if not features:
        raise ValueError(f"no features to compare: {what} is an empty list.")
    if len({(x.shape[0], x.ndim) for x in features}) > 1 or not 2 <= features[0].ndim <= 5:
        raise ValueError(
            f"{what} must be features (B, C, *spatial) of one batch with as many axes, up to three of them spatial; "
            f"got {[tuple(x.shape) for x in features]}."
        )
