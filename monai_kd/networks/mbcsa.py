"""MBCSA: an inverted bottleneck with channel and spatial attention, the block of HDKD's convolutional stages."""

from __future__ import annotations

from collections import OrderedDict

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import Tensor, nn

__all__ = ["MBCSA"]

_REDUCTION = 16


class MBCSA(nn.Module):
    """Mobile convolution with channel and spatial attention [0], in the parameter names of the released weights.

    ``y = shortcut(x) + body(x)``. The body normalises first, widens by a 1x1 convolution, convolves each channel apart,
    attends (channels, then positions, as CBAM [1] does, here with GELU and a residual of its own) and narrows by a 1x1
    convolution without activation. With ``downsample`` the first 1x1 convolution has stride 2, and the shortcut is a
    max pooling and a 1x1 convolution.

    [0] HDKD: Hybrid Data-Efficient Knowledge Distillation Network for Medical Image Classification, 2024,
    https://arxiv.org/abs/2407.07516
    [1] Woo et al., CBAM: Convolutional Block Attention Module, 2018, https://arxiv.org/abs/1807.06521

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        downsample: halve every axis (rounded up).
        expansion: channels inside the body, as a multiple of ``in_channels``.

    Raises:
        ValueError: the channels change where nothing is downsampled, so that the identity is no shortcut.

    Example:
        >>> MBCSA(2, 8, 12, downsample=True)(torch.randn(2, 8, 10, 10)).shape
        torch.Size([2, 12, 5, 5])
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, downsample: bool = False, expansion: int = 4
    ) -> None:
        super().__init__()
        if not downsample and in_channels != out_channels:
            raise ValueError(
                f"the shortcut is the identity, so the channels must stay: got {in_channels} in, {out_channels} out. "
                "Set downsample=True, or out_channels=in_channels."
            )
        conv, norm = Conv[Conv.CONV, spatial_dims], Norm[Norm.BATCH, spatial_dims]
        hidden = expansion * in_channels
        if downsample:
            self.pool = Pool[Pool.MAX, spatial_dims](3, stride=2, padding=1)
            self.proj = conv(in_channels, out_channels, 1, bias=False)
        else:
            self.pool = self.proj = nn.Identity()
        body = nn.Sequential(
            conv(in_channels, hidden, 1, stride=2 if downsample else 1, bias=False),
            norm(hidden),
            nn.GELU(),
            conv(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            norm(hidden),
            nn.GELU(),
            _Attention(spatial_dims, hidden),
            conv(hidden, out_channels, 1, bias=False),
            norm(out_channels),
        )
        self.conv = nn.Sequential(OrderedDict(norm=norm(in_channels), fn=body))

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: features, shape (B, in_channels, *spatial).

        Returns:
            Features, shape (B, out_channels, *spatial), each axis halved (rounded up) with ``downsample``.
        """
        return self.proj(self.pool(x)) + self.conv(x)


class _Attention(nn.Module):
    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.channel_attention = _ChannelAttention(spatial_dims, channels)
        self.spatial_attention = _SpatialAttention(spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.channel_attention(x) * x
        return self.spatial_attention(attended) * attended + x


class _ChannelAttention(nn.Module):
    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        conv, hidden = Conv[Conv.CONV, spatial_dims], max(channels // _REDUCTION, 1)
        self.fc = nn.Sequential(conv(channels, hidden, 1, bias=False), nn.GELU(), conv(hidden, channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        positions, shape = x.flatten(2), x.shape[:2] + (1,) * (x.ndim - 2)
        # max, not amax: half the time in training, and one position gets the gradient
        pooled = positions.mean(dim=2), positions.max(dim=2).values
        average, maximum = (self.fc(values.reshape(shape)) for values in pooled)
        return torch.sigmoid(average + maximum)


class _SpatialAttention(nn.Module):
    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.conv1 = Conv[Conv.CONV, spatial_dims](2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=1, keepdim=True), x.max(dim=1, keepdim=True).values
        return torch.sigmoid(self.conv1(torch.cat(pooled, dim=1)))
