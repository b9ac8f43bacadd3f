"""The labelled items of a batch that also holds unlabelled ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["HAS_LABEL", "labelled_items", "select_items"]

HAS_LABEL = "has_label"
"""Batch key of a boolean (B,) that says which items carry a label."""


def labelled_items(has_label: Any, device: torch.device | str) -> Tensor | None:
    """Indices of the labelled items on ``device``; ``None`` when every item is labelled.

    The flags are read where the loader left them, on the CPU, so that no step waits for the accelerator.

    Args:
        has_label: booleans, shape (B,) or (B, 1), as a tensor or a list.
        device: where the indices are needed.
    """
    flags = torch.as_tensor(has_label).as_subclass(Tensor).reshape(-1).bool()
    if bool(flags.all()):
        return None
    return torch.nonzero(flags).reshape(-1).to(device, non_blocking=True)


def select_items(value: Any, index: Tensor) -> Any:
    """The items ``index`` of every tensor in ``value`` (tensor, list, tuple or dict), along the batch axis."""
    if isinstance(value, Tensor):
        return value.as_subclass(Tensor).index_select(0, index)
    if isinstance(value, list | tuple):
        return [select_items(item, index) for item in value]
    if isinstance(value, dict):
        return {key: select_items(item, index) for key, item in value.items()}
    return value
