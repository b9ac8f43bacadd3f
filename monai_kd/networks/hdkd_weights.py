"""Weights of HDKD's student for images of another size than those it was trained with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.utils.misc import ensure_tuple_rep
from torch import Tensor

from monai_kd.checkpoints import CheckpointError, load_weights, read_state_dict
from monai_kd.networks.hdkd import HDKDStudent

__all__ = ["load_hdkd_weights"]

_POSITIONS = "DFLT_module.pos_embedding"
_DISTILL_TOKEN = "DFLT_module.distill_token"  # noqa: S105


def load_hdkd_weights(
    network: HDKDStudent,
    checkpoint: str | Path | Mapping[str, Any],
    img_size: int | Sequence[int] | None = None,
    sha256: str | None = None,
) -> HDKDStudent:
    """Fill ``network`` from a checkpoint of an :class:`HDKDStudent` or of the released code, trained at any image size.

    The position embedding of the patches is interpolated (bicubic in 2D, trilinear in 3D) where the sizes differ; those
    of class and distillation token stay. Everything else must fit. (For one image size, and for the teacher, which
    takes any, ``monai_kd.checkpoints.load_weights`` is enough.)

    Args:
        network: the student to fill; left untouched when the checkpoint is refused.
        checkpoint: the file, or its state dict.
        img_size: size of the images that the checkpoint was trained with; ``None`` if they were square (cubic), or as
            those of ``network``.
        sha256: that the file must have, ``None`` for no check.

    Returns:
        ``network``.

    Raises:
        TypeError: not an ``HDKDStudent``.
        FileNotFoundError: no such file.
        CheckpointError: another file than ``sha256`` says; an entry is missing, unknown or of another shape, or the
            position embedding is not of the image size.

    Example:
        >>> small, large = (HDKDStudent(2, 1, 2, s, (4, 4, 4, 8), (1, 1, 1, 1), 1, 4) for s in (32, 64))
        >>> load_hdkd_weights(large, small.state_dict()) is large
        True
    """
    if not isinstance(network, HDKDStudent):
        raise TypeError(f"expected an HDKDStudent, got {type(network).__name__}.")
    state = read_state_dict(checkpoint, sha256=sha256)
    positions, own = state.get(_POSITIONS), network.DFLT_module.pos_embedding
    special = 2 if _DISTILL_TOKEN in state else 1
    if (
        positions is not None
        and special == network.DFLT_module.special_tokens
        and positions.ndim == own.ndim
        and positions.shape[1] > special
        and (img_size is not None or positions.shape[1] != own.shape[1])
    ):
        grid = _grid(network, positions.shape[1] - special, img_size)
        state[_POSITIONS] = _interpolate(positions, special, grid, network.DFLT_module.grid)
    load_weights(network, state)
    return network


def _grid(network: HDKDStudent, patches: int, img_size: int | Sequence[int] | None) -> tuple[int, ...]:
    """Patches along each axis of the checkpoint's images."""
    dims = network.spatial_dims
    if img_size is None:
        grid = (round(patches ** (1 / dims)),) * dims
    else:
        grid = network.grid_of(ensure_tuple_rep(img_size, dims))
    if math.prod(grid) != patches:
        raise CheckpointError(
            f"the checkpoint has {patches} patches, not the {' x '.join(map(str, grid))} of "
            f"{'square images' if img_size is None else f'img_size {img_size}'}; give img_size, the size of the images "
            "that it was trained with."
        )
    return grid


def _interpolate(positions: Tensor, special: int, grid: Sequence[int], new: Sequence[int]) -> Tensor:
    if tuple(grid) == tuple(new):
        return positions
    tokens, patches = positions[:, :special], positions[:, special:]
    patches = patches.transpose(1, 2).unflatten(2, tuple(grid))
    mode = "bicubic" if len(grid) == 2 else "trilinear"
    patches = F.interpolate(patches, size=tuple(new), mode=mode, align_corners=False)
    return torch.cat([tokens, patches.flatten(2).transpose(1, 2)], dim=1)
