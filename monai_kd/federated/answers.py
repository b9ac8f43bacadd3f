"""What a site answers, checked before the server counts with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from monai_kd.federated.exchange import from_arrays

__all__ = ["Answer", "read_answer"]

_SHOWN = 50


@dataclass(frozen=True)
class Answer:
    """Of one site to one task.

    Args:
        weights: the student's tensors by name; none after a validation.
        said: counts and scores by name.
    """

    weights: dict[str, Tensor]
    said: dict[str, Any]


def read_answer(task: str, arrays: Any, said: Mapping[str, Any]) -> Answer:
    """The answer to "initial" (weights), "train" (weights, counts and scores) or "validate" (a score).

    Args:
        task: what the site was asked for.
        arrays: of its student, by name.
        said: what it sent beside them; more than was asked for is left out.

    Raises:
        TypeError: weights that are no arrays of numbers.
        ValueError: a count or a score that is missing or is none.

    Example:
        >>> read_answer("validate", None, {"global_score": 0.5}).said
        {'global_score': 0.5}
    """
    found = {name: said.get(name) for name in _ASKED[task]}
    if wrong := [name for name, value in found.items() if not _RULES[name][1](value)]:
        name = wrong[0]
        raise ValueError(f"'{name}' is {_RULES[name][0]}, got {found[name]!r:.{_SHOWN}}.")
    return Answer({} if task == "validate" else from_arrays(arrays), found)


def _count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "cases": ("a whole number from 1", lambda value: _count(value, 1)),
    "validation_cases": ("a whole number from 0", lambda value: _count(value, 0)),
    "global_score": ("a number", _score),
    "site_score": ("a number", _score),
}
_ASKED: Mapping[str, tuple[str, ...]] = {"initial": (), "train": tuple(_RULES), "validate": ("global_score",)}
