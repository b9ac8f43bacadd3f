"""Features of several sizes, brought to one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x`` (B, C, *spatial), linearly resampled to ``size`` where any axis differs."""
    if x.shape[2:] == torch.Size(size):
        return x
    return F.interpolate(x, size=tuple(size), mode=_MODES[x.ndim - 2], align_corners=False)


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
