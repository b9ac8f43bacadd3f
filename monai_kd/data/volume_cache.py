"""A cache on disk for what loading and resampling made of each volume."""

from __future__ import annotations

import os
import pickle
import uuid
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.dataset import PersistentDataset
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import pickle_hashing

__all__ = ["VolumeCacheDataset"]

_FORMAT = "monai_kd volume cache 1"


class VolumeCacheDataset(PersistentDataset):
    """MONAI's ``PersistentDataset`` whose volumes still know where they lie when they come from the cache.

    What the transforms before the first random one make of an item is kept on disk; the others run on each access.
    ``PersistentDataset`` loses affine and file name (its default), caches nothing (``track_meta=True``) or unpickles
    whatever the files hold (``weights_only=False``). Here files hold tensors, numbers and strings, read with
    ``weights_only=True``, of which images are rebuilt with affine, meta data and the operations that ``Invertd`` needs.
    What cannot be stored so is left out of the meta data, of a fresh item as of a cached one.

    A file's name is the hash of item and transforms, so other transforms use other files. Images that change under
    the same path are not noticed: delete the folder then. A file is written whole or not at all, one that cannot
    be read is made anew with a warning.

    Args:
        data: items with paths.
        transform: transforms; those before the first random one must allow pickling, as named functions do and
            ``lambda`` does not.
        cache_dir: folder of the cache, made if need be; ``None`` for no cache.

    Raises:
        TypeError: transforms that cannot be hashed; when an item is read, one that holds what cannot be stored.

    Example:
        >>> import tempfile
        >>> from monai.transforms import ToTensord
        >>> data = [{"image": [[1.0, 2.0]]}]
        >>> dataset = VolumeCacheDataset(data, ToTensord("image"), tempfile.mkdtemp())
        >>> fresh, cached = dataset[0], dataset[0]
        >>> torch.equal(fresh["image"], cached["image"])
        True
    """

    def __init__(
        self,
        data: Sequence[Any],
        transform: Sequence[Callable[..., Any]] | Callable[..., Any],
        cache_dir: str | os.PathLike[str] | None,
    ) -> None:
        try:
            super().__init__(
                data=data,
                transform=transform,
                cache_dir=None if cache_dir is None else Path(cache_dir),
                hash_transform=None if cache_dir is None else pickle_hashing,
            )
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise TypeError(
                f"transforms cannot be hashed: {error}. In place of a lambda use a named function or "
                "functools.partial, for x > -500 such as functools.partial(operator.lt, -500)."
            ) from error

    def _cachecheck(self, item_transformed: Any) -> Any:
        if self.cache_dir is None:
            return super()._cachecheck(item_transformed)
        path = self.cache_dir / f"{self.hash_func(item_transformed).decode()}{self.transform_hash}.pt"
        stored = _read(path) if path.is_file() else None
        if stored is None:
            # A copy, for transforms that change their input would change its hash.
            stored = _pack(self._pre_transform(deepcopy(item_transformed)))
            _write(stored, path)
        return _unpack(stored)


def _read(path: Path) -> Any:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError("of another format")
        return content["item"]
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        warnings.warn(f"cache file {path} cannot be read ({reason}) and is made anew.", stacklevel=2)
        return None


def _write(stored: Any, path: Path) -> None:
    temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        torch.save({"format": _FORMAT, "item": stored}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _pack(value: Any) -> Any:
    """``value`` of plain tensors, numbers, strings, lists and dictionaries; a tuple holds a kind and its content."""
    if isinstance(value, Enum):
        return _pack(value.value)
    if isinstance(value, np.generic):
        return _pack(value.item())
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, MetaTensor):
        return "image", [_pack(value.as_tensor()), _pack_meta(value.meta), _pack(value.applied_operations)]
    if isinstance(value, torch.Tensor):
        # A view would bring its whole storage along.
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return "array", torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    if isinstance(value, dict):
        return {_pack(key): _pack(content) for key, content in value.items()}
    if isinstance(value, list):
        return [_pack(content) for content in value]
    if isinstance(value, tuple):
        return "tuple", [_pack(content) for content in value]
    raise TypeError(f"a {type(value).__name__} cannot be cached; delete it from the item (DeleteItemsd) or convert it.")


def _pack_meta(meta: dict[Any, Any]) -> dict[Any, Any]:
    packed = {}
    for key, value in meta.items():
        with suppress(TypeError):
            packed[_pack(key)] = _pack(value)
    return packed


def _unpack(stored: Any) -> Any:
    if isinstance(stored, dict):
        return {key: _unpack(content) for key, content in stored.items()}
    if isinstance(stored, list):
        return [_unpack(content) for content in stored]
    if not isinstance(stored, tuple):
        return stored
    kind, content = stored
    if kind == "array":
        return content.numpy()
    if kind == "tuple":
        return tuple(_unpack(content))
    data, meta, operations = _unpack(content)
    return MetaTensor(data, meta=meta, applied_operations=operations)
