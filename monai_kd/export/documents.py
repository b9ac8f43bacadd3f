"""What the formats share: names inside of an exported file, and the input that a network is exported with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["INFERENCE", "INPUT", "METADATA", "OUTPUT", "Answer", "Documents", "example_input"]

METADATA, INFERENCE = "metadata.json", "inference.json"
INPUT, OUTPUT = "image", "pred"

Documents = Mapping[str, Mapping[str, Any]]
"""``metadata.json`` and ``inference.json`` by name."""

Answer = Callable[[np.ndarray], np.ndarray]
"""An exported network: images (B, C, *spatial), float32, to its output."""


def example_input(shape: Sequence[int], batch: int | None) -> Tensor:
    """Always the same input (B, *shape), ``shape`` with its channels.

    For any batch size, ``batch`` is ``None``, there are two images: an axis of length 1 would become a rule.

    Example:
        >>> example_input((3, 8, 8), None).shape
        torch.Size([2, 3, 8, 8])
    """
    return torch.randn(batch or 2, *shape, generator=torch.Generator().manual_seed(0))
