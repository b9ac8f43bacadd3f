"""What NVFlare carries between a site and the server: NumPy arrays, which it writes without pickle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

__all__ = ["FAILED", "from_arrays", "to_arrays"]

FAILED = "failed"  # in the answer of a site that could not do a task


def to_arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Arrays of the tensors, by name.

    Raises:
        TypeError: NumPy has not the type of a tensor.

    Example:
        >>> to_arrays({"bias": torch.zeros(2)})
        {'bias': array([0., 0.], dtype=float32)}
    """
    arrays = {}
    for name, value in state.items():
        try:
            arrays[name] = value.detach().cpu().numpy()
        except TypeError:
            raise TypeError(
                f"'{name}' is of {value.dtype}, which cannot be sent; keep the student's weights in float32, autocast "
                "chooses the precision of training."
            ) from None
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Tensors of the arrays, by name; they share no memory.

    Raises:
        TypeError: something else than arrays of numbers by their names.

    Example:
        >>> from_arrays({"bias": np.zeros(2, dtype=np.float32)})
        {'bias': tensor([0., 0.])}
    """
    if not isinstance(arrays, Mapping) or not all(isinstance(name, str) for name in arrays):
        raise TypeError(f"expected arrays by name, got a {type(arrays).__name__}.")
    tensors = {}
    for name, value in arrays.items():
        try:
            tensors[name] = torch.from_numpy(np.array(value))
        except (TypeError, ValueError):
            raise TypeError(f"'{name}' is no array of numbers, but a {type(value).__name__}.") from None
    return tensors
