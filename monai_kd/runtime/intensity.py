"""What is done to the values of a volume before the network sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["apply_intensity", "check_intensity"]

Operation = Mapping[str, Any]


def apply_intensity(volume: np.ndarray, operations: Sequence[Operation]) -> np.ndarray:
    """``volume`` (C, *spatial), float32, after all operations; it is changed in place.

    ``{"op": "clip", "min", "max"}``, ``{"op": "scale", "offset", "factor"}`` (``x * factor + offset``) and
    ``{"op": "normalize"}`` (to mean 0 and standard deviation 1; ``"nonzero": true`` over and of what is not 0,
    ``"channel_wise": true`` channel by channel).

    Raises:
        ValueError: an operation is unknown or lacks a number.

    Example:
        >>> volume = np.array([[-500.0, 0.0, 500.0]], dtype=np.float32)
        >>> window = [{"op": "clip", "min": -200, "max": 300}, {"op": "scale", "offset": 1, "factor": 0.01}]
        >>> apply_intensity(volume, window)
        array([[-1.,  1.,  4.]], dtype=float32)
    """
    check_intensity(operations)
    for operation in operations:
        _OPERATIONS[operation["op"]][0](volume, operation)
    return volume


def check_intensity(operations: Sequence[Operation]) -> None:
    """Raise ``ValueError`` unless all operations are known and have their numbers."""
    for operation in operations:
        name = operation.get("op") if isinstance(operation, Mapping) else None
        if not isinstance(name, str) or name not in _OPERATIONS:
            raise ValueError(f"unknown intensity operation {name!r}; known are {', '.join(_OPERATIONS)}.")
        if missing := [key for key in _OPERATIONS[name][1] if not _is_number(operation.get(key))]:
            raise ValueError(f"the intensity operation {name!r} needs the number {', '.join(missing)}.")
        if name == "clip" and operation["min"] > operation["max"]:
            raise ValueError(f"clip needs a min below its max, got {operation['min']} and {operation['max']}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _clip(volume: np.ndarray, operation: Operation) -> None:
    np.clip(volume, operation["min"], operation["max"], out=volume)


def _scale(volume: np.ndarray, operation: Operation) -> None:
    volume *= np.float32(operation["factor"])
    volume += np.float32(operation["offset"])


def _normalize(volume: np.ndarray, operation: Operation) -> None:
    for part in volume if operation.get("channel_wise", False) else (volume,):
        where = part != 0 if operation.get("nonzero", False) else ...
        values = part[where]
        if values.size:
            spread = float(values.std(dtype=np.float64)) or 1.0
            part[where] = (values - np.float32(values.mean(dtype=np.float64))) / np.float32(spread)


_OPERATIONS: dict[str, tuple[Callable[[np.ndarray, Operation], None], tuple[str, ...]]] = {
    "clip": (_clip, ("min", "max")),
    "scale": (_scale, ("offset", "factor")),
    "normalize": (_normalize, ()),
}
