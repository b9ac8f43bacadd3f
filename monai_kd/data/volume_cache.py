"""A cache on disk for what loading and resampling made of each volume."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from monai.data.dataset import PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms.compose import Compose
from monai.transforms.traits import RandomizableTrait
from monai.transforms.transform import Transform

from monai_kd._files import save_whole
from monai_kd.data._packing import pack, unpack
from monai_kd.data._prefetch import prefetch
from monai_kd.data.readable import UnreadableCases, read_case

__all__ = ["VolumeCacheDataset"]

_FORMAT = "monai_kd volume cache 2"


class VolumeCacheDataset(PersistentDataset):
    """MONAI's ``PersistentDataset`` whose volumes still know where they lie when they come from the cache.

    What the transforms before the first random one make of an item is kept on disk; the others run on each access.
    ``PersistentDataset`` loses affine and file name (its default), caches nothing (``track_meta=True``) or unpickles
    whatever the files hold (``weights_only=False``). Here files hold tensors, numbers and strings, read with
    ``weights_only=True``, of which images are rebuilt with affine, meta data and the operations that ``Invertd`` needs.
    What cannot be stored so is left out of the meta data, of a fresh item as of a cached one.

    A cached volume is mapped into memory, not read, and what a transform writes into it stays in memory. If the first
    random transform is a crop, only the part of the file that its patch lies in is read; one that looks at all voxels
    reads all of them at each access. A crop by class has its voxels found beforehand: ``ClassesToIndicesd`` before it,
    and its ``indices_key``.

    A file's name is the hash of item and transforms, so other transforms use other files. Images that change under
    the same path are not noticed: delete the folder then. A file is written whole or not at all, one that cannot
    be read is made anew with a warning.

    Args:
        data: items with paths.
        transform: transforms; those before the first random one must allow pickling, as named functions do and
            ``lambda`` does not.
        cache_dir: folder of the cache, made if need be; ``None`` for no cache.
        unreadable: what becomes of cases that cannot be read; ``None`` stops, for validation and test.

    Raises:
        TypeError: transforms that cannot be hashed; when an item is read, one that holds what cannot be stored.
        UnreadableError: when an item is read, one that cannot be and may not be skipped.

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
        unreadable: UnreadableCases | None = None,
    ) -> None:
        self.unreadable = unreadable
        if unreadable is not None:
            unreadable.count(data)
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

    def _transform(self, index: int) -> Any:
        return read_case(self.data, index, super()._transform, self.unreadable)

    def _cachecheck(self, item_transformed: Any) -> Any:
        if self.cache_dir is None:
            return super()._cachecheck(item_transformed)
        path = self.cache_dir / f"{self.hash_func(item_transformed).decode()}{self.transform_hash}.pt"
        item = _read(path) if path.is_file() else None
        if item is None:
            # A copy, for transforms that change their input would change its hash.
            text, tensors = pack(self._pre_transform(deepcopy(item_transformed)))
            content = {"format": _FORMAT, "item": text, "tensors": tensors}
            save_whole(path, lambda file: torch.save(content, file))
            item = unpack(text, tensors)
        return item

    def _post_transform(self, item_transformed: Any) -> Any:
        chain = self.transform
        first = chain.get_index_of_first(_not_kept)
        if self.cache_dir is None or first is None or type(chain) is not Compose or chain.lazy:
            return super()._post_transform(item_transformed)
        item = chain(item_transformed, start=first, end=first + 1)
        prefetch(item)  # after a crop: views of what is mapped
        return chain(item, start=first + 1)


def _not_kept(transform: Any) -> bool:
    """As ``PersistentDataset`` has it."""
    return isinstance(transform, RandomizableTrait) or not isinstance(transform, Transform)


def _read(path: Path) -> Any:
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError("of another format")
        return unpack(content["item"], content["tensors"])
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        warnings.warn(f"cache file {path} cannot be read ({reason}) and is made anew.", stacklevel=2)
        return None
