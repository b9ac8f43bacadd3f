"""A vision transformer over the features of convolutions, with a class token and a distillation token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FeatureTransformer"]

_MLP_RATIO = 4


class FeatureTransformer(nn.Module):
    """HDKD's distilled feature-level transformer (DFLT) [0], in the parameter names of the released weights.

    Patches of a feature map become tokens; a class token and, with ``distill_token``, a distillation token [1] go
    before them. Tokens and position embedding are learned and begin at N(0, 1). A block is ``x + attention(x)``, then
    ``x + perceptron(x)``; only the attention normalises its input, so ``monai.networks.blocks.TransformerBlock`` does
    not serve.

    [0] HDKD: Hybrid Data-Efficient Knowledge Distillation Network for Medical Image Classification, 2024,
    https://arxiv.org/abs/2407.07516
    [1] Touvron et al., Training Data-Efficient Image Transformers and Distillation Through Attention, 2021,
    https://arxiv.org/abs/2012.12877

    Args:
        in_channels: channels of the features.
        grid: patches along each spatial axis, two or three of them.
        patch_size: positions along each axis of a patch.
        hidden_size: length of a token.
        depth: blocks.
        num_heads: attention heads.
        dim_head: length of a head's queries, keys and values; ``num_heads * dim_head`` need not be ``hidden_size``.
        distill_token: whether there is a distillation token.
        dropout_rate: probability of dropping an element behind a linear layer of a block.

    Example:
        >>> network = FeatureTransformer(8, grid=(4, 4), hidden_size=16, depth=1, num_heads=2, dim_head=4)
        >>> network(torch.randn(3, 8, 8, 8)).shape  # B, class and distillation token, hidden_size
        torch.Size([3, 2, 16])
    """

    def __init__(
        self,
        in_channels: int,
        grid: Sequence[int],
        patch_size: int = 2,
        hidden_size: int = 256,
        depth: int = 3,
        num_heads: int = 8,
        dim_head: int = 32,
        distill_token: bool = True,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.feature_shape = (in_channels, *(patch_size * patches for patches in self.grid))
        self.special_tokens = 2 if distill_token else 1
        values = in_channels * patch_size ** len(self.grid)
        self.to_patch_embedding = nn.Sequential(
            _Patches(patch_size), nn.LayerNorm(values), nn.Linear(values, hidden_size), nn.LayerNorm(hidden_size)
        )
        self.pos_embedding = nn.Parameter(torch.randn(1, self.special_tokens + math.prod(self.grid), hidden_size))
        self.cls_token = nn.Parameter(torch.randn(1, 1, hidden_size))
        if distill_token:
            self.distill_token = nn.Parameter(torch.randn(1, 1, hidden_size))
        self.transformer = _Transformer(hidden_size, depth, num_heads, dim_head, dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: features, shape (B, in_channels, *spatial), each axis ``patch_size`` times the grid's.

        Returns:
            Class token and, with ``distill_token``, distillation token, shape (B, 1 or 2, hidden_size).

        Raises:
            ValueError: features of other channels or another size.
        """
        if tuple(x.shape[1:]) != self.feature_shape:
            raise ValueError(
                f"expected features of shape {('B', *self.feature_shape)}, got {tuple(x.shape)}; the position "
                f"embedding is made for a grid of {self.grid} patches."
            )
        special = [self.cls_token] + ([self.distill_token] if self.special_tokens == 2 else [])
        tokens = [*(token.expand(x.shape[0], -1, -1) for token in special), self.to_patch_embedding(x)]
        return self.transformer(torch.cat(tokens, dim=1) + self.pos_embedding)[:, : self.special_tokens]


class _Patches(nn.Module):
    """(B, C, *spatial) to (B, patches, values of a patch); a patch's positions go before its channels."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        for axis in range(2, 2 * x.ndim - 2, 2):
            x = x.unflatten(axis, (-1, self.size))
        grid, inside = range(2, x.ndim, 2), range(3, x.ndim, 2)
        return x.permute(0, *grid, *inside, 1).flatten(1, len(grid)).flatten(2)


class _Transformer(nn.Module):
    def __init__(self, hidden_size: int, depth: int, num_heads: int, dim_head: int, dropout_rate: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [_Attention(hidden_size, num_heads, dim_head, dropout_rate), _FeedForward(hidden_size, dropout_rate)]
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            for part in layer.children():
                x = x + part(x)
        return self.norm(x)


class _Attention(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int, dim_head: int, dropout_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(hidden_size)
        self.to_qkv = nn.Linear(hidden_size, 3 * num_heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(num_heads * dim_head, hidden_size), nn.Dropout(dropout_rate))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in self.to_qkv(self.norm(x)).chunk(3, dim=-1)
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, hidden_size: int, dropout_rate: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(hidden_size, _MLP_RATIO * hidden_size),
            nn.GELU(),
            nn.Dropout(dropout_rate),
            nn.Linear(_MLP_RATIO * hidden_size, hidden_size),
            nn.Dropout(dropout_rate),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
