"""Every batch at several scales, as polyp networks are usually trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from monai.data.dataloader import DataLoader
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class MultiScaleDataLoader(DataLoader):
    """Yield every batch once per scale, resized to the nearest multiple of ``divisible``.

    The multi-scale training of [0]: at 352 pixels the default scales give steps at 256, 352 and 448. One batch
    is read and augmented once, then trained on ``len(scales)`` times, so an epoch has ``len(scales)`` times as many
    steps. It stays a ``DataLoader``: engines find its ``sampler`` and its length.

    [0] Fan et al., PraNet: Parallel Reverse Attention Network for Polyp Segmentation, 2020, https://arxiv.org/abs/2006.11392

    Args:
        dataset: of dictionaries with ``keys``, each of shape (C, *spatial) in 1D, 2D or 3D.
        scales: of the spatial size, in the order of the steps.
        divisible: what every size is a multiple of; usually the network's largest stride.
        keys: what is resized; other entries of the batch are passed on.
        mode: of the interpolation per key, or one for all; ``"bilinear"`` is trilinear in 3D. A mask that is resized
            bilinearly has values between 0 and 1 at its edge; ``"nearest"`` keeps its values and dtype.
        align_corners: of the interpolation; ``"nearest"`` has none.
        kwargs: of :class:`monai.data.DataLoader`.

    A batch that already has the size wanted is passed on untouched. A resized ``MetaTensor`` has the affine of its new
    grid and no applied operations: it can no longer be inverted.

    Raises:
        ValueError: scales, ``divisible`` or modes that cannot be used.
        KeyError: a batch without one of ``keys``, when iterated.

    Example:
        >>> data = [{"image": torch.rand(3, 352, 352), "label": torch.ones(1, 352, 352)}]
        >>> [tuple(batch["image"].shape[2:]) for batch in MultiScaleDataLoader(data)]
        [(256, 256), (352, 352), (448, 448)]
    """

    def __init__(
        self,
        dataset: Any,
        scales: Sequence[float] = (0.75, 1.0, 1.25),
        divisible: int = 32,
        keys: Sequence[str] | str = ("image", "label"),
        mode: Sequence[str] | str = "bilinear",
        align_corners: bool = True,
        **kwargs: Any,
    ) -> None:
        keys = (keys,) if isinstance(keys, str) else tuple(keys)
        modes = (mode,) * len(keys) if isinstance(mode, str) else tuple(mode)
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive numbers, got {scales}.")
        if divisible < 1:
            raise ValueError(f"divisible must be 1 or more, got {divisible}.")
        if len(modes) != len(keys):
            raise ValueError(f"mode must be one for all or one per key: got {len(modes)} for keys {keys}.")
        unknown = set(modes) - {"nearest", "nearest-exact", *_LINEAR.values()}
        if unknown:
            raise ValueError(f"mode must be 'bilinear' or 'nearest', got {sorted(unknown)}.")
        super().__init__(dataset, **kwargs)
        self.scales = tuple(scales)
        self.divisible = divisible
        self.modes = dict(zip(keys, modes))
        self.align_corners = align_corners

    def __len__(self) -> int:
        return super().__len__() * len(self.scales)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            for scale in self.scales:
                yield self._scaled(batch, scale)

    def _scaled(self, batch: dict[str, Any], scale: float) -> dict[str, Any]:
        missing = [key for key in self.modes if key not in batch]
        if missing:
            raise KeyError(f"no {missing} in the batch, it has {list(batch)}; set keys.")
        resized = {}
        for key, mode in self.modes.items():
            size = [scaled_size(length, scale, self.divisible) for length in batch[key].shape[2:]]
            resized[key] = _resize(batch[key], size, mode, self.align_corners)
        return {**batch, **resized}


def scaled_size(length: int, scale: float, divisible: int) -> int:
    """The multiple of ``divisible`` nearest to ``length * scale``, at least one.

    Example:
        >>> [scaled_size(352, scale, 32) for scale in (0.75, 1.0, 1.25)]
        [256, 352, 448]
    """
    return max(1, round(length * scale / divisible)) * divisible


def _resize(x: Tensor, size: list[int], mode: str, align_corners: bool) -> Tensor:
    """``x`` of shape (B, C, *spatial) at another spatial size."""
    old = list(x.shape[2:])
    if size == old:
        return x
    if len(old) not in _LINEAR:
        raise ValueError(f"expected (B, C, *spatial) with 1 to 3 spatial axes, got {tuple(x.shape)}.")
    values = x.as_subclass(Tensor)
    exact = values.dtype
    if not exact.is_floating_point:
        values = values.float()
    if mode.startswith("nearest"):
        out = F.interpolate(values, size=size, mode=mode).to(exact)
    else:
        out = F.interpolate(values, size=size, mode=_LINEAR[len(old)], align_corners=align_corners)
    if not isinstance(x, MetaTensor):
        return out
    return _with_meta(out, x, old, size, align_corners and not mode.startswith("nearest"))


def _with_meta(out: Tensor, x: MetaTensor, old: list[int], size: list[int], align_corners: bool) -> MetaTensor:
    """``out`` with the meta data of ``x`` and the affine of the new grid."""
    affine = torch.as_tensor(x.affine)
    step = torch.eye(affine.shape[-1], dtype=affine.dtype, device=affine.device)
    for axis, (before, after) in enumerate(zip(old, size)):
        # old index = factor * new index + offset
        factor = (before - 1) / max(after - 1, 1) if align_corners else before / after
        step[axis, axis] = factor
        step[axis, -1] = 0 if align_corners else (factor - 1) / 2
    resized = MetaTensor(out, meta=deepcopy(x.meta))
    resized.affine = affine @ step
    resized.is_batch = x.is_batch
    return resized
