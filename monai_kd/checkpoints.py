"""Weights from a file: loaded whole and strictly, or refused with a readable reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_kd._files import digest_of
from monai_kd._torch_files import damaged_part

__all__ = ["CheckpointError", "check_sha256", "load_weights", "read_state_dict"]

_SHOWN = 4
_NEXT_LINE = "\n    "
_CODE = re.compile(r"GLOBAL ([\w.]+)")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with what came, what was expected and what to do."""


def load_weights(
    network: nn.Module, checkpoint: str | Path | Mapping[str, Any], key: str = "model", sha256: str | None = None
) -> nn.Module:
    """Load ``checkpoint`` into ``network``: every name and shape must fit.

    Args:
        network: the network to fill; left untouched when the checkpoint is refused.
        checkpoint: a file written by ``torch.save`` (read with ``weights_only=True``) or a state dict. A bare state
            dict and a dict holding one under ``key`` (or "state_dict") are both read; ``module.`` prefixes are dropped.
        key: where the state dict lies in a checkpoint that holds more.
        sha256: that the file must have, as ``sha256sum`` prints it; held against the file before anything in it is
            looked at. ``None`` for no check.

    Returns:
        ``network``.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: another file than ``sha256`` says, a damaged one, not a checkpoint of tensors, names, shapes or
            kinds of numbers that differ, or weights that are not finite.
        ValueError: ``sha256`` is no digest, or there is no file that it could be of.
    """
    source = _name(checkpoint)
    state = read_state_dict(checkpoint, key, sha256)
    expected = network.state_dict()
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    reshaped = [
        f"{name}: file {tuple(state[name].shape)}, network {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    unusable = [
        f"{name}: {problem}"
        for name, own in expected.items()
        if name in state and state[name].shape == own.shape and (problem := _unusable(state[name], own)) is not None
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
    if unusable:
        raise CheckpointError(
            f"{source} holds what {type(network).__name__} cannot work with: {_listing(unusable)}. Give the checkpoint "
            "of a training that went well, saved with torch.save(network.state_dict(), path)."
        )
    network.load_state_dict(state, strict=True)
    return network


def read_state_dict(
    checkpoint: str | Path | Mapping[str, Any], key: str = "model", sha256: str | None = None
) -> dict[str, Tensor]:
    """The tensors by name of a checkpoint, without ``module.`` prefixes; otherwise as :func:`load_weights`."""
    expected = check_sha256(sha256, checkpoint)
    content = _read(Path(checkpoint), expected) if isinstance(checkpoint, str | Path) else checkpoint
    return _state_dict(content, key, _name(checkpoint))


def check_sha256(sha256: str | None, checkpoint: Any) -> str | None:
    """A digest that a file shall have, in lower case, ``None`` for none.

    Raises:
        ValueError: not the 64 digits of a SHA-256, or ``checkpoint`` is no file.
    """
    if sha256 is None:
        return None
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256 must be 64 hexadecimal digits, as sha256sum prints them, got {sha256!r}.")
    if not isinstance(checkpoint, str | Path):
        raise ValueError(
            f"sha256 is of a file, and the checkpoint is a {type(checkpoint).__name__}; give its path, or no sha256."
        )
    return sha256.lower()


def _name(checkpoint: Any) -> str:
    return f"'{checkpoint}'" if isinstance(checkpoint, str | Path) else "the state dict"


def _read(path: Path, expected: str | None) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at '{path}'. Train one first, or give the path of an existing file.")
    try:
        with path.open("rb") as file:  # one file, whatever is put in its place meanwhile
            if expected is not None:
                _check_digest(path, digest_of(file), expected)
                file.seek(0)
            if (damage := damaged_part(file, old_format=True)) is not None:
                raise CheckpointError(
                    f"'{path}' is not a whole checkpoint of tensors ({damage}). Copy, fetch or save it again."
                )
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a broken file fails in many ways: UnpicklingError, EOFError, IndexError, ...
        raise CheckpointError(
            f"'{path}' is not a whole checkpoint of tensors ({readable_reason(error)}). "
            "Only state dicts are read; save one with torch.save(network.state_dict(), path)."
        ) from None


def readable_reason(error: Exception) -> str:
    """Why ``torch.load`` has refused a file, without its advice to run what is in there."""
    text = str(error).strip()
    if found := _CODE.search(text):
        return f"it holds {found[1]}, which is no tensor; nothing in it was run"
    text = text.partition("WeightsUnpickler error: ")[2] or text
    return text.splitlines()[0][:200] if text else type(error).__name__


def _check_digest(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise CheckpointError(
            f"'{path}' is not the file that sha256 names, and was not opened: its digest is\n    {found}, expected\n"
            f"    {expected}. It is damaged, incomplete or another file. Fetch it again; give its own digest only if "
            "you trust where this file comes from."
        )


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


def _unusable(value: Tensor, own: Tensor) -> str | None:
    """Why a stored value cannot take the place of a network's own one, of the same shape; ``None`` if it can."""
    if value.is_quantized or value.is_meta or value.layout != torch.strided:
        kind = "quantised" if value.is_quantized else "empty" if value.is_meta else "sparse"
        return f"a {kind} tensor, expected a plain one"
    theirs, ours = ((one.is_floating_point(), one.is_complex(), one.dtype == torch.bool) for one in (value, own))
    if theirs != ours:
        return f"{value.dtype} in the file, {own.dtype} in the network"
    if not own.is_floating_point() or own.is_meta or value.to(own.dtype).isfinite().all():
        return None
    return "not finite" if own.isfinite().all() else None  # a mask of minus infinity stays one


def _listing(names: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return separator.join(names[:_SHOWN]) + more
