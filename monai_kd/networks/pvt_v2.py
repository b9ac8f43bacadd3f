"""Pyramid Vision Transformer v2: four stage maps at strides 4, 8, 16 and 32, in the layout of the released weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from monai.networks.layers.drop_path import DropPath
from torch import Tensor, nn

from monai_kd.checkpoints import load_weights, read_state_dict

PVT_V2_PRESETS: dict[str, dict[str, tuple[int, ...]]] = {
    "b0": {"embed_dims": (32, 64, 160, 256), "depths": (2, 2, 2, 2)},
    "b1": {"embed_dims": (64, 128, 320, 512), "depths": (2, 2, 2, 2)},
    "b2": {"embed_dims": (64, 128, 320, 512), "depths": (3, 4, 6, 3)},
    "b3": {"embed_dims": (64, 128, 320, 512), "depths": (3, 4, 18, 3)},
    "b4": {"embed_dims": (64, 128, 320, 512), "depths": (3, 8, 27, 3)},
    "b5": {"embed_dims": (64, 128, 320, 512), "depths": (3, 6, 40, 3), "mlp_ratios": (4, 4, 4, 4)},
}
"""Widths and depths of the published sizes; what a size leaves out is the default of :class:`PVTv2`."""

CLASSIFIER_KEYS = ("head.weight", "head.bias")


class PVTv2(nn.Module):
    """The backbone of [0]: overlapping patch embeddings and attention over spatially reduced keys, no classifier.

    Parameter names are those of the released weights (``patch_embed1.proj.weight``, ``block1.0.attn.q.weight``, ...).
    The stage outputs can be tapped at ``norm1`` to ``norm4``, as maps of shape (B, C, H, W).

    [0] Wang et al., PVT v2: Improved Baselines with Pyramid Vision Transformer, 2022, https://arxiv.org/abs/2106.13797

    Args:
        embed_dims: channels of the four stages.
        depths: blocks of the four stages.
        num_heads: attention heads of the four stages; each divides its stage's channels.
        mlp_ratios: hidden width of the four stages' perceptrons, as a multiple of the channels.
        sr_ratios: how much coarser the grid of keys and values is than that of the queries, along each axis.
        drop_path_rate: probability of skipping a residual branch in training; grows from 0 at the first block to this.
        in_channels: channels of the image.

    Raises:
        ValueError: an argument has not one entry a stage, or the heads do not divide the channels.

    Example:
        >>> network = PVTv2(embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1))
        >>> [tuple(stage.shape) for stage in network(torch.randn(1, 3, 64, 64))]
        [(1, 8, 16, 16), (1, 16, 8, 8), (1, 20, 4, 4), (1, 32, 2, 2)]
    """

    def __init__(
        self,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        drop_path_rate: float = 0.1,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        stages = {
            "embed_dims": embed_dims,
            "depths": depths,
            "num_heads": num_heads,
            "mlp_ratios": mlp_ratios,
            "sr_ratios": sr_ratios,
        }
        for name, values in stages.items():
            if len(values) != 4:
                raise ValueError(f"{name} needs one entry for each of the 4 stages, got {tuple(values)}.")
        for dim, heads in zip(embed_dims, num_heads):
            if dim % heads:
                raise ValueError(
                    f"num_heads must divide embed_dims stage by stage, got {tuple(num_heads)} for {tuple(embed_dims)}."
                )
        self.in_channels = in_channels
        self.embed_dims = tuple(embed_dims)

        inputs = (in_channels, *embed_dims[:3])
        for i in range(4):
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            setattr(self, f"patch_embed{i + 1}", _OverlapPatchEmbed(inputs[i], embed_dims[i], kernel, stride))
        last = max(sum(depths) - 1, 1)
        rates = [drop_path_rate * i / last for i in range(sum(depths))]
        for i in range(4):
            blocks = [
                _Block(embed_dims[i], num_heads[i], mlp_ratios[i], sr_ratios[i], rates.pop(0)) for _ in range(depths[i])
            ]
            setattr(self, f"block{i + 1}", nn.ModuleList(blocks))
            setattr(self, f"norm{i + 1}", _StageNorm(embed_dims[i], eps=1e-6))
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> list[Tensor]:
        """
        Args:
            x: image, shape (B, in_channels, H, W).

        Returns:
            Stage maps, shapes (B, embed_dims[i], H / s, W / s) for strides s = 4, 8, 16, 32.

        Raises:
            ValueError: the image is not four-dimensional or has another number of channels.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"expected an image of shape (B, {self.in_channels}, H, W), got {tuple(x.shape)}; "
                "in_channels is set when the network is built."
            )
        maps = []
        for i in range(1, 5):
            tokens, size = self.get_submodule(f"patch_embed{i}")(x)
            for block in self.get_submodule(f"block{i}").children():
                tokens = block(tokens, size)
            x = self.get_submodule(f"norm{i}")(tokens, size)
            maps.append(x)
        return maps


def pvt_v2(name: str, **overrides: Any) -> PVTv2:
    """A published size of :class:`PVTv2`.

    Args:
        name: ``"b0"`` to ``"b5"``.
        overrides: arguments of :class:`PVTv2` that replace those of the size.

    Raises:
        ValueError: no such size.

    Example:
        >>> pvt_v2("b0", in_channels=1).embed_dims
        (32, 64, 160, 256)
    """
    if name not in PVT_V2_PRESETS:
        raise ValueError(f"unknown PVTv2 size {name!r}, expected one of {', '.join(PVT_V2_PRESETS)}.")
    return PVTv2(**{**PVT_V2_PRESETS[name], **overrides})


def load_backbone(
    network: nn.Module, checkpoint: str | Path | Mapping[str, Any], sha256: str | None = None
) -> nn.Module:
    """Fill the PVTv2 of ``network`` from a released ImageNet classifier (``pvt_v2_b*.pth``).

    Args:
        network: a :class:`PVTv2`, or a network with one as its ``backbone``.
        checkpoint: the released file, or its state dict; the classifier's two entries (``head.weight``, ``head.bias``)
            are left out, everything else must fit.
        sha256: that the file must have, ``None`` for no check.

    Returns:
        ``network``.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: another file than ``sha256`` says; an entry is missing, unknown or of another shape, and the
            message names it.

    Example:
        >>> network = pvt_v2("b0")
        >>> released = {**network.state_dict(), "head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
        >>> load_backbone(network, released) is network
        True
    """
    backbone = network if isinstance(network, PVTv2) else getattr(network, "backbone", None)
    if not isinstance(backbone, PVTv2):
        raise TypeError(f"expected a PVTv2 or a network with one as its backbone, got {type(network).__name__}.")
    weights = {k: v for k, v in read_state_dict(checkpoint, sha256=sha256).items() if k not in CLASSIFIER_KEYS}
    load_weights(backbone, weights)
    return network


class _OverlapPatchEmbed(nn.Module):
    def __init__(self, in_channels: int, dim: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size, stride, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.proj(x)
        return self.norm(_to_tokens(x)), (x.shape[2], x.shape[3])


class _Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, mlp_ratio: int, sr_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = _SpatialReductionAttention(dim, num_heads, sr_ratio)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = _ConvMLP(dim, dim * mlp_ratio)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x), size))


class _SpatialReductionAttention(nn.Module):
    """Queries from all tokens, keys and values from a grid ``sr_ratio`` times coarser."""

    def __init__(self, dim: int, num_heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, dim * 2)
        self.proj = nn.Linear(dim, dim)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, kernel_size=sr_ratio, stride=sr_ratio)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        q = self._split(self.q(x))
        reduced = self.norm(_to_tokens(self.sr(_to_map(x, size)))) if self.sr_ratio > 1 else x
        k, v = (self._split(part) for part in self.kv(reduced).chunk(2, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, N, C) to (B, heads, N, C / heads)."""
        return tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class _ConvMLP(nn.Module):
    """A perceptron with a depth-wise 3x3 convolution between its layers, which stands in for position embeddings."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = _DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), size)))


class _DepthwiseConv(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return _to_tokens(self.dwconv(_to_map(x, size)))


class _StageNorm(nn.LayerNorm):
    """Normalises tokens and returns them as a map, so that a tap here sees (B, C, H, W)."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        return _to_map(super().forward(x), size).contiguous()


def _to_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, size)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
