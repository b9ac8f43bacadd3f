"""Parts of mapped files, read in one go before they are used."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor


def prefetch(item: Any) -> None:
    """Tell the system that the views in an item are about to be used; it does not matter if they are mapped or not.

    Left to itself it reads 128 kB around every page that it finds missing, one after the other: of a patch, whose
    planes are shorter stripes of a file, several times the patch.

    Args:
        item: tensors, and lists, tuples and dictionaries of them, channel first. Contiguous ones are left alone.
    """
    advise = _advise()
    if advise is None:
        return
    for view in _views(item):
        size, first = view.element_size(), view.data_ptr()
        # Of the last two axes the whole stretch: a row is shorter than a page.
        stretch = sum((n - 1) * step for n, step in zip(view.shape[-2:], view.stride()[-2:])) + 1
        for index in product(*map(range, view.shape[:-2])):
            start = first + size * sum(i * step for i, step in zip(index, view.stride()))
            aligned = start - start % mmap.PAGESIZE
            advise(aligned, start - aligned + size * stretch, mmap.MADV_WILLNEED)


def _views(item: Any) -> Iterator[torch.Tensor]:
    if isinstance(item, dict):
        item = list(item.values())
    if isinstance(item, (list, tuple)):
        for one in item:
            yield from _views(one)
    elif isinstance(item, torch.Tensor) and item.device.type == "cpu" and item.ndim > 2 and item.numel():
        view = item.as_tensor() if isinstance(item, MetaTensor) else item
        if not view.is_contiguous():
            yield view


@cache
def _advise() -> Any:
    """``madvise`` of the system's C library; ``None`` where there is none."""
    try:
        found = ctypes.CDLL(None).madvise
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return found if hasattr(mmap, "MADV_WILLNEED") else None
