"""Features brought to the coarsest of their sizes by averages, so that nothing is enlarged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def coarsest_size(features: Sequence[Tensor]) -> torch.Size:
    """The least length of every spatial axis among features (B, C, *spatial)."""
    return torch.Size(min(lengths) for lengths in zip(*(x.shape[2:] for x in features)))


def averaged(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x`` (B, C, *spatial) at ``size``, which no axis is shorter than: each position the mean of those it covers."""
    return x if x.shape[2:] == torch.Size(size) else F.interpolate(x, size=tuple(size), mode="area")


def check_native_resolution(value: bool) -> bool:
    """``value``, or ``ValueError`` unless it is a boolean: the text "false" of a command line counts as true."""
    if not isinstance(value, bool):
        raise ValueError(f"native_resolution must be True or False, got {value!r}.")
    return value
