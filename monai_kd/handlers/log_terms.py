"""Every loss of an iteration, for handlers that log."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import Any

import torch

__all__ = ["log_terms"]

_DATA = ("image", "label", "pred")  # MONAI's CommonKeys; a class label is a scalar, but no loss


def log_terms(output: Any) -> dict[str, float]:
    """Total loss, task loss and distillation terms of an engine's output, for ``output_transform``.

    Args:
        output: ``engine.state.output``, a dict or, after MONAI's decollation, a list of one dict an item.

    Example:
        >>> log_terms([{"pred": torch.zeros(1, 4, 4), "loss": 0.75, "soft_target": 0.5}])
        {'loss': 0.75, 'soft_target': 0.5}
    """
    first = output[0] if isinstance(output, list | tuple) else output
    if not isinstance(first, Mapping):
        raise TypeError(f"expected an engine output of dicts, got {type(first).__name__}.")
    return {str(key): float(value) for key, value in first.items() if is_loss(key, value)}


def is_loss(key: str, value: Any) -> bool:
    """Whether an entry of an engine's output is a loss: a scalar that is no data."""
    return key not in _DATA and (isinstance(value, Number) or (isinstance(value, torch.Tensor) and value.ndim == 0))
