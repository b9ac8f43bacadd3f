"""Weights from a file: loaded whole and strictly, or refused with a readable reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CheckpointError", "load_weights", "read_state_dict"]

_SHOWN = 4
_NEXT_LINE = "\n    "


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with what came, what was expected and what to do."""


def load_weights(network: nn.Module, checkpoint: str | Path | Mapping[str, Any], key: str = "model") -> nn.Module:
    """Load ``checkpoint`` into ``network``: every name and shape must fit.

    Args:
        network: the network to fill; left untouched when the checkpoint is refused.
        checkpoint: a file written by ``torch.save`` (read with ``weights_only=True``) or a state dict. A bare state
            dict and a dict holding one under ``key`` (or "state_dict") are both read; ``module.`` prefixes are dropped.
        key: where the state dict lies in a checkpoint that holds more.

    Returns:
        ``network``.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: not a checkpoint of tensors, or names or shapes that differ.
    """
    source = _name(checkpoint)
    state = read_state_dict(checkpoint, key)
    expected = network.state_dict()
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    reshaped = [
        f"{name}: file {tuple(state[name].shape)}, network {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    if missing or unexpected or reshaped:
        fitting = len(expected) - len(missing) - len(reshaped)
        lines = [f"{source} does not fit {type(network).__name__}: {fitting} of {len(expected)} entries agree."]
        lines += [f"  missing in the file: {_listing(missing)}"] * bool(missing)
        lines += [f"  unknown to the network: {_listing(unexpected)}"] * bool(unexpected)
        lines += [f"  other shape: {_listing(reshaped, _NEXT_LINE)}"] * bool(reshaped)
        lines.append(
            "  Build the network with the arguments it was trained with, or give the checkpoint of this network."
        )
        raise CheckpointError("\n".join(lines))
    network.load_state_dict(state, strict=True)
    return network


def read_state_dict(checkpoint: str | Path | Mapping[str, Any], key: str = "model") -> dict[str, Tensor]:
    """The tensors by name of a checkpoint, without ``module.`` prefixes; otherwise as :func:`load_weights`."""
    content = _read(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
    return _state_dict(content, key, _name(checkpoint))


def _name(checkpoint: Any) -> str:
    return f"'{checkpoint}'" if isinstance(checkpoint, str | Path) else "the state dict"


def _read(path: str | Path) -> Any:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at '{path}'. Train one first, or give the path of an existing file.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file fails in many ways: UnpicklingError, EOFError, IndexError, ...
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"'{path}' is not a whole checkpoint of tensors ({reason[:200]}). "
            "Only state dicts are read; save one with torch.save(network.state_dict(), path)."
        ) from None


def _state_dict(content: Any, key: str, source: str) -> dict[str, Tensor]:
    for name in (key, "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        held = sorted(map(str, content))[:8] if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(
            f"{source} holds no state dict (found {held}); expected tensors by name, or such under '{key}'."
        )
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _listing(names: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return separator.join(names[:_SHOWN]) + more
