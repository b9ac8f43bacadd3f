"""Batches of labelled and unlabelled images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform


class FillMissingLabeld(MapTransform):
    """Give unlabelled items a placeholder label, so that they can share a batch with labelled ones.

    Every item also gets ``has_label_key``, ``True`` if it came with all of ``keys``; collated it is a bool tensor of
    shape (B,). The task loss takes the items where it is ``True``, distillation takes all. Place it after loading and
    channel-first (both with ``allow_missing_keys=True``) and before anything random, which then acts on image and
    placeholder alike. An item that has a label and says ``has_label_key: False`` keeps both.

    Args:
        keys: labels that may be missing.
        reference: the item whose shape (C, *spatial), dtype and, for a ``MetaTensor``, affine and meta data are taken.
        has_label_key: where to say whether the item was labelled.
        channels: of the placeholder.
        fill_value: of the placeholder.

    Raises:
        KeyError: an item without ``reference``.
        ValueError: an item that says it has a label and has none.

    Example:
        >>> item = FillMissingLabeld()({"image": torch.rand(3, 4, 5)})
        >>> item["label"].shape, item["has_label"]
        (torch.Size([1, 4, 5]), False)
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        reference: str = "image",
        has_label_key: str = "has_label",
        channels: int = 1,
        fill_value: float = 0,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        if channels < 1:
            raise ValueError(f"channels must be 1 or more, got {channels}.")
        self.reference = reference
        self.has_label_key = has_label_key
        self.channels = channels
        self.fill_value = fill_value

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        missing = [key for key in self.keys if item.get(key) is None]
        has_label = bool(item.get(self.has_label_key, not missing))
        if missing and has_label:
            raise ValueError(f"item says {self.has_label_key!r} is True but has no {missing}; it has {list(item)}.")
        if missing and self.reference not in item:
            raise KeyError(f"no {self.reference!r} to take the shape of {missing} from; the item has {list(item)}.")
        for key in missing:
            item[key] = self._placeholder(item[self.reference])
        item[self.has_label_key] = has_label
        return item

    def _placeholder(self, reference: Any) -> Any:
        shape = (self.channels, *reference.shape[1:])
        if isinstance(reference, np.ndarray):
            return np.full(shape, self.fill_value, dtype=reference.dtype)
        label = torch.full(shape, self.fill_value, dtype=reference.dtype, device=reference.device)
        if not isinstance(reference, MetaTensor):
            return label
        return MetaTensor(
            label, meta=deepcopy(reference.meta), applied_operations=deepcopy(reference.applied_operations)
        )
