"""Weights against the imbalance of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from monai_kd.data.class_checks import label_problem

__all__ = ["class_weights"]


def class_weights(items: Sequence[Mapping[str, Any]], num_classes: int, label_key: str = "label") -> Tensor:
    """Weights ``N / n_c`` of a weighted cross-entropy: all labelled items by those of class c.

    Args:
        items: the **training** items, such as ``ham10000_datalist(root)["training"]``; counts of validation or test
            would leak into training. Items without ``label_key`` are not counted.
        num_classes: number of classes C.
        label_key: key of the class, an integer from 0 to C - 1.

    Returns:
        float32 weights, shape (C,).

    Raises:
        ValueError: a label that is no class, or classes without any item, whose weight would be infinite.

    Example:
        >>> class_weights([{"label": 0}, {"label": 0}, {"label": 0}, {"label": 1}, {"image": "unlabelled"}], 2)
        tensor([1.3333, 4.0000])
    """
    labels = [item[label_key] for item in items if item.get(label_key) is not None]
    if problem := next(filter(None, (label_problem(label, num_classes) for label in labels)), None):
        raise ValueError(f"{problem}; check_classes lists every item of which this is true.")
    counts = torch.bincount(torch.tensor(labels, dtype=torch.long), minlength=num_classes)
    if empty := (counts == 0).nonzero().flatten().tolist():
        raise ValueError(
            f"no labelled item of class {', '.join(map(str, empty))} of {num_classes}, whose weight would be infinite; "
            "give training items of every class, or lower num_classes."
        )
    return (len(labels) / counts).float()
