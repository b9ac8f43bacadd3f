"""What the file of a stopped run must hold, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Rule = Callable[[Any], bool]


def problem_of(content: Mapping[str, Any]) -> str | None:
    """The first part of a file's content that is missing or of another kind; ``None`` if all is as it should be."""
    for name, rule in _RULES.items():
        if name not in content:
            return f"it has no '{name}'"
        if not rule(content[name]):
            return f"its '{name}' is not what is stored there"
    return None


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _trainer(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(_count(value.get(key)) for key in ("epoch", "iteration")):
        return False
    return all(value.get(key, -1) is None or _count(value.get(key, -1)) for key in ("epoch_length", "max_epochs"))


def _states(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _objects(value: Any) -> bool:
    return _states(value) and all(
        isinstance(one, Mapping) and isinstance(one.get("type"), str) and isinstance(one.get("state"), Mapping)
        for one in value.values()
    )


def _within(value: Any) -> bool:
    if value is None:
        return True
    states = value.get("states") if isinstance(value, Mapping) else None
    return isinstance(states, list) and all(map(_states, states)) and _count(value.get("steps"))


def _best(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, list | tuple) and len(one) == 2 and _score(one[0]) and isinstance(one[1], int) for one in value
    )


def _savers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, Mapping)
        and isinstance(one.get("_saved"), list)
        and all(
            isinstance(kept, list | tuple) and len(kept) == 2 and isinstance(kept[1], str) for kept in one["_saved"]
        )
        for one in value
    )


def _score(value: Any) -> bool:
    return value is None or isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


_RULES: Mapping[str, Rule] = {
    "job": lambda value: value is None or isinstance(value, str),
    "settings": _states,
    "trainer": _trainer,
    "within": _within,
    "objects": _objects,
    "scaler": lambda value: isinstance(value, Mapping),
    "best": _best,
    "savers": _savers,
}
