"""The U-Net of HLFD's released code: a teacher for slices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.blocks.convolutions import Convolution
from torch import Tensor, nn


class UNet2d(nn.Module):
    """The U-Net [0] that HLFD's released code trains as a teacher for slices of CT.

    Two 3x3 convolutions a level, each with bias, batch normalisation and ReLU; max pooling on the way down, nearest
    neighbours and a 3x3 convolution on the way up; a 1x1 head. (MONAI's ``BasicUNet`` halves the channels by a
    transposed or 1x1 convolution before they grow in size, so it has other parameters.)

    ============================  =====================================================================
    ``encoder.0`` .. ``.4``       e1 to e5, (B, channels[i], H / 2^i, W / 2^i)
    ``decoder.0`` .. ``.3``       d5 to d2, (B, channels[3 - i], H / 2^(3 - i), W / 2^(3 - i))
    ``head``                      logits, (B, out_channels, H, W)
    ============================  =====================================================================

    [0] Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015,
    https://arxiv.org/abs/1505.04597

    Args:
        in_channels: channels of the image.
        out_channels: classes, background among them.
        channels: channels of each level, the shallowest first; the default has 34,525,954 parameters.

    Raises:
        ValueError: fewer than two levels.

    Example:
        >>> UNet2d(channels=(4, 8, 16))(torch.randn(2, 1, 32, 32)).shape
        torch.Size([2, 2, 32, 32])
    """

    def __init__(
        self, in_channels: int = 1, out_channels: int = 2, channels: Sequence[int] = (64, 128, 256, 512, 1024)
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"channels needs one entry a level and at least two levels, got {tuple(channels)}.")
        inputs = (in_channels, *channels[:-1])
        self.encoder = nn.ModuleList(double_convolution(i, o) for i, o in zip(inputs, channels))
        self.decoder = nn.ModuleList(_Up(i, o) for i, o in zip(channels[:0:-1], channels[-2::-1]))
        self.head = nn.Conv2d(channels[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: image, shape (B, in_channels, H, W), H and W at least 2^(levels - 1).

        Returns:
            Logits, shape (B, out_channels, H, W).
        """
        skips: list[Tensor] = []
        for level in self.encoder:
            x = level(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for level, skip in zip(self.decoder, skips[-2::-1]):
            x = level(x, skip)
        return self.head(x)


class _Up(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = Convolution(2, in_channels, out_channels, act="relu", norm="batch")
        self.convs = double_convolution(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(F.interpolate(x, size=skip.shape[2:], mode="nearest"))
        return self.convs(torch.cat([skip, x], dim=1))


def double_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two 3x3 convolutions with bias, batch normalisation and ReLU."""
    return nn.Sequential(
        Convolution(2, in_channels, out_channels, act="relu", norm="batch"),
        Convolution(2, out_channels, out_channels, act="relu", norm="batch"),
    )
