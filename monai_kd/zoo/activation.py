"""How a bundle reads its network's output: as exclusive classes or as independent yes/no questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["components", "output_activation"]

SIGMOID, SOFTMAX = "sigmoid", "softmax"
_LOSSES = {
    "BCEWithLogitsLoss": SIGMOID,
    "CrossEntropyLoss": SOFTMAX,
    "MultiLabelSoftMarginLoss": SIGMOID,
    "WeightedCrossEntropyLoss": SOFTMAX,
}


def output_activation(config: Any, channels: int) -> str:
    """ "sigmoid" or "softmax", as the configuration's post-processing says, or else its losses.

    Args:
        config: a bundle's configuration, or a part of it.
        channels: of the network's output; one channel is always "sigmoid".

    Raises:
        ValueError: nothing says it, or both are said.

    Example:
        >>> output_activation([{"_target_": "Activationsd", "keys": "pred", "softmax": True}], channels=2)
        'softmax'
    """
    if channels == 1:
        return SIGMOID
    parts = list(components(config))
    said = {found for part in parts for found in _of_transform(part)} or {
        found for part in parts for found in _of_loss(part)
    }
    if len(said) == 1:
        return said.pop()
    reason = "says neither" if not said else "says both"
    raise ValueError(
        f"is the output of {channels} channels read by softmax or by sigmoid? The post-processing (Activationsd, "
        f"AsDiscreted) and the losses of the bundle {reason}: give activation='softmax' for exclusive classes, "
        "activation='sigmoid' for channels that may overlap."
    )


def components(config: Any) -> Iterator[Mapping[str, Any]]:
    """All parts with ``_target_``, however deep."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from components(part)


def _of_transform(part: Mapping[str, Any]) -> Iterator[str]:
    name = _name(part)
    if name.rstrip("d") == "Activations" or name in ("ActivationsD", "ActivationsDict"):
        yield from (kind for kind in (SIGMOID, SOFTMAX) if _for_prediction(part, kind))
    elif name in ("AsDiscreted", "AsDiscreteD", "AsDiscreteDict") and _for_prediction(part, "argmax"):
        yield SOFTMAX


def _of_loss(part: Mapping[str, Any]) -> Iterator[str]:
    name = _name(part)
    if name in _LOSSES:
        yield _LOSSES[name]
    elif name.endswith("Loss"):
        yield from (kind for kind in (SIGMOID, SOFTMAX) if part.get(kind) is True)


def _for_prediction(part: Mapping[str, Any], argument: str) -> bool:
    """Whether an argument, one for all keys or one for each, is on for the prediction."""
    value, keys = part.get(argument, False), part.get("keys", "pred")
    keys = keys if isinstance(keys, list) else [keys]
    values = value if isinstance(value, list) else [value] * len(keys)
    return any(on is True for key, on in zip(keys, values) if "pred" in str(key))


def _name(part: Mapping[str, Any]) -> str:
    return str(part["_target_"]).rpartition(".")[2]
