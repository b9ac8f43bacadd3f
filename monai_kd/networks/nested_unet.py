"""UNet++ as in HLFD's released code: a teacher for slices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd.networks.unet_2d import double_convolution


class NestedUNet(nn.Module):
    """UNet++ [0] for slices: node ``xi_j`` sees all nodes before it on level i, and the one below in twice its size.

    Two 3x3 convolutions a node, each with bias, batch normalisation and ReLU; max pooling down the first column,
    bilinear interpolation (``align_corners=True``) everywhere up; one head, on the last node of the first level.
    (MONAI's ``BasicUNetPlusPlus`` halves the channels before they grow in size, so it has other parameters.)

    ================================  =================================================================
    ``nodes.x0_0`` .. ``nodes.x4_0``  e1 to e5, (B, channels[i], H / 2^i, W / 2^i)
    ``nodes.x3_1``, ``x2_2``, ...     d5 to d2, the last node of each level: (B, channels[i], H / 2^i, W / 2^i)
    ``head``                          logits, (B, out_channels, H, W)
    ================================  =================================================================

    HLFD's released code taps other nodes: x1_0, x2_0, x1_1, x3_0, x4_0 as encoder, whose sizes do not fall from one to
    the next, and x0_1, x0_2, x0_3, x1_3 as decoder, whose sizes do not rise. The taps here are the U-Net in the nest.

    [0] Zhou et al., UNet++: A Nested U-Net Architecture for Medical Image Segmentation, 2018,
    https://arxiv.org/abs/1807.10165

    Args:
        in_channels: channels of the image.
        out_channels: classes, background among them.
        channels: channels of each level, the shallowest first; the default has 36,628,546 parameters.

    Raises:
        ValueError: fewer than two levels.

    Example:
        >>> NestedUNet(channels=(4, 8, 16))(torch.randn(2, 1, 32, 32)).shape
        torch.Size([2, 2, 32, 32])
    """

    def __init__(
        self, in_channels: int = 1, out_channels: int = 2, channels: Sequence[int] = (64, 128, 256, 512, 1024)
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"channels needs one entry a level and at least two levels, got {tuple(channels)}.")
        self.levels = len(channels)
        self.nodes = nn.ModuleDict()
        for j in range(self.levels):
            for i in range(self.levels - j):
                inputs = j * channels[i] + channels[i + 1] if j else (in_channels, *channels)[i]
                self.nodes[f"x{i}_{j}"] = double_convolution(inputs, channels[i])
        self.head = nn.Conv2d(channels[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: image, shape (B, in_channels, H, W), H and W at least 2^(levels - 1).

        Returns:
            Logits, shape (B, out_channels, H, W).
        """
        rows: list[list[Tensor]] = []
        for i in range(self.levels):
            rows.append([self.nodes[f"x{i}_0"](F.max_pool2d(rows[-1][0], 2) if rows else x)])
        for j in range(1, self.levels):
            for i, row in enumerate(rows[: self.levels - j]):
                below = F.interpolate(rows[i + 1][j - 1], size=row[0].shape[2:], mode="bilinear", align_corners=True)
                row.append(self.nodes[f"x{i}_{j}"](torch.cat([*row, below], dim=1)))
        return self.head(rows[0][-1])
