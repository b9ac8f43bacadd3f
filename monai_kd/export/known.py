"""What is known of a transform of MONAI's, and the refusal of all else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms.compose import Compose

__all__ = ["FLOATS", "PipelineRefused", "flat", "is_monais", "only", "place", "sequence", "word"]

FLOATS = (None, float, torch.float32, torch.float64, np.float32, np.float64)


class PipelineRefused(ValueError):
    """A bundle does around its network what the runtime does not know; the message names it."""


def flat(transform: Any) -> list[Any]:
    """The transforms of nested ``Compose``, in order.

    Example:
        >>> flat(Compose([abs, Compose([int])]))
        [<built-in function abs>, <class 'int'>]
    """
    if transform is None:
        return []
    if type(transform) is Compose:
        return [inner for one in transform.transforms for inner in flat(one)]
    return [transform]


def is_monais(thing: Any, name: str) -> bool:
    """Whether it is this class of MONAI's; a subclass may do something else."""
    return type(thing).__name__ == name and type(thing).__module__.startswith("monai.")


def place(transform: Any, key: str, alone: bool = False) -> int:
    """Where ``key`` is among the keys of a transform, as are its arguments that differ by key.

    Raises:
        PipelineRefused: it is not there, or not ``alone`` where it must be.
    """
    keys = tuple(transform.keys)
    if key not in keys or (alone and keys != (key,)):
        names = ", ".join(map(str, keys))
        raise PipelineRefused(f"{type(transform).__name__} of {names} is not known; of {key}{' alone' * alone} it is.")
    return keys.index(key)


def only(thing: Any, name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse an argument whose value is not allowed."""
    if not any(value is one or value == one for one in allowed):
        known = " or ".join(str(one) for one in allowed)
        raise PipelineRefused(f"{type(thing).__name__} with {name} {value} is not known; {known} is.")


def word(value: Any) -> str:
    """The value of an enumeration, or the string that it is."""
    return str(getattr(value, "value", value))


def sequence(value: Any) -> Sequence[Any]:
    """A value as a sequence of one, where it is none."""
    return value if isinstance(value, list | tuple) else (value,)
