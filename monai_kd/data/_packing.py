"""An item as JSON and tensors, which can be stored and read without running what a file says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

# Numbers up to which an array is written out: those of headers are many, and a tensor more takes time to read.
_SMALL = 64


def pack(item: Any) -> tuple[str, list[torch.Tensor]]:
    """An item of images, tensors, arrays, numbers, strings and collections of them.

    What cannot be stored is left out of the meta data of images.

    Returns:
        JSON, in which a list holds a kind and its content, and the tensors it counts.

    Raises:
        TypeError: the item holds anything else.

    Example:
        >>> text, tensors = pack({"id": (1, "a"), "image": torch.zeros(5, 20)})
        >>> text
        '["dict", ["id", ["tuple", 1, "a"]], ["image", ["tensor", 0]]]'
        >>> unpack(text, tensors)["id"]
        (1, 'a')
    """
    tensors: list[torch.Tensor] = []
    return json.dumps(_pack(item, tensors)), tensors


def unpack(text: str, tensors: Sequence[torch.Tensor]) -> Any:
    """The item that was packed. Its larger tensors and arrays share the memory of ``tensors``."""
    return _unpack(json.loads(text), tensors)


def _pack(value: Any, tensors: list[torch.Tensor]) -> Any:
    if isinstance(value, Enum):
        return _pack(value.value, tensors)
    if isinstance(value, np.generic):
        return _pack(value.item(), tensors)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, MetaTensor):
        meta: list[Any] = ["dict"]
        for pair in value.meta.items():
            with suppress(TypeError):
                meta.append([_pack(one, tensors) for one in pair])
        return ["image", _pack(value.as_tensor(), tensors), meta, _pack(value.applied_operations, tensors)]
    if isinstance(value, torch.Tensor):
        return _pack_tensor("tensor", value.detach().cpu(), tensors)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        native = np.array(value, dtype=value.dtype.newbyteorder("="))
        return _pack_tensor("array", torch.from_numpy(native), tensors)
    if isinstance(value, dict):
        return ["dict", *([_pack(one, tensors) for one in pair] for pair in value.items())]
    if isinstance(value, (list, tuple)):
        return ["list" if isinstance(value, list) else "tuple", *(_pack(one, tensors) for one in value)]
    raise TypeError(f"a {type(value).__name__} cannot be cached; delete it from the item (DeleteItemsd) or convert it.")


def _pack_tensor(kind: str, value: torch.Tensor, tensors: list[torch.Tensor]) -> list[Any]:
    if value.numel() <= _SMALL and not value.is_complex():
        return [kind, str(value.dtype).removeprefix("torch."), list(value.shape), value.flatten().tolist()]
    # A view would bring its whole storage along.
    tensors.append(value.clone(memory_format=torch.contiguous_format))
    return [kind, len(tensors) - 1]


def _unpack(value: Any, tensors: Sequence[torch.Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, *content = value
    if kind == "dict":
        return {_unpack(key, tensors): _unpack(one, tensors) for key, one in content}
    if kind == "list":
        return [_unpack(one, tensors) for one in content]
    if kind == "tuple":
        return tuple(_unpack(one, tensors) for one in content)
    if kind == "image":
        data, meta, operations = (_unpack(one, tensors) for one in content)
        return MetaTensor(data, meta=meta, applied_operations=operations)
    if len(content) == 1:
        return tensors[content[0]].numpy() if kind == "array" else tensors[content[0]]
    dtype, shape, numbers = content
    if kind == "array":
        return np.array(numbers, dtype=dtype).reshape(shape)
    return torch.tensor(numbers, dtype=getattr(torch, dtype)).reshape(shape)
