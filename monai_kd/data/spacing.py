"""Resampling that bears what a server adds to the item."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms.spatial import dictionary

__all__ = ["SafeSpacingd"]


class SafeSpacingd(dictionary.Spacingd):
    """MONAI's ``Spacingd`` for items that hold more than images.

    MONAI 1.6 takes every entry whose key starts with ``"<key>_"`` for the meta dictionary of a NIfTI image and updates
    it, which fails on the ``"image_path"`` (a string) that MONAI Label adds. Such entries pass unchanged here if they
    are no dictionaries; all else is MONAI's: arguments, values, inverse.

    Raises:
        ValueError: one of ``keys`` starts with another and ``_``, which MONAI would take for its meta dictionary.

    Example:
        >>> item = {"image": torch.rand(1, 8, 8, 8), "image_path": "case.nii.gz"}
        >>> {key: getattr(value, "shape", value) for key, value in SafeSpacingd("image", (2, 2, 2))(item).items()}
        {'image': torch.Size([1, 4, 4, 4]), 'image_path': 'case.nii.gz'}
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if clash := [key for key in self.keys if self._looks_like_meta(key)]:
            raise ValueError(f"keys {clash} look like meta data of another of {list(self.keys)}; rename them.")

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        shown = {k: v for k, v in data.items() if isinstance(v, dict) or not self._looks_like_meta(k)}
        return {**data, **super().__call__(shown, lazy=lazy)}

    def _looks_like_meta(self, key: Hashable) -> bool:
        return isinstance(key, str) and any(key.startswith(f"{image}_") for image in self.keys)
