"""A DynUNet on a coarser grid than its image: voxels become channels in front of it, and channels voxels behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.networks.blocks.downsample import SubpixelDownsample
from monai.networks.blocks.dynunet_block import UnetOutBlock
from monai.networks.blocks.upsample import SubpixelUpsample
from monai.networks.nets.dynunet import DynUNet
from torch import Tensor, nn

__all__ = ["SpaceToDepthDynUNet"]


class SpaceToDepthDynUNet(DynUNet):
    """A student for CPUs: MONAI's DynUNet without the level that costs most, the one at full resolution.

    Blocks of 2 x 2 (x 2) voxels go into the channels of the first convolution, and each head answers for all voxels of
    a block at once, so nothing is thrown away and the answer has full resolution. It is a DynUNet in all else: layers
    have its names, and in training with deep supervision it gives (B, heads, C, *spatial). The largest further head
    has half the image's resolution, as in a DynUNet. With the default filters it has 2.46 M parameters and takes 12.8
    GFLOP for a window of 96^3 and 3 classes; a DynUNet of 8, 16, 32, 64, 80 filters has 1.04 M and takes 25.2.

    Normalisation is by batch statistics, which are folded into the convolutions on export. They are taken over the
    voxels of the batch: a batch of 1 trains as long as the coarsest level has enough of them, 64 with a patch of 128^3;
    torch refuses a single one. Processes that train together each take their own, unless
    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` joins them. ``norm_name=("instance", {"affine": True})`` is
    DynUNet's own.

    It is exported by tracing, not by scripting: MONAI's ``pixelunshuffle`` cannot be scripted.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes, background among them.
        kernel_size, strides, upsample_kernel_size: as DynUNet's, of each level on the coarser grid. Sizes of the image
            must be divisible by ``scale_factor`` and all strides, 32 by default.
        filters: channels of each level; what is left over is not used.
        norm_name: normalisation.
        scale_factor: voxels of a block along each axis.
        **arguments: others of DynUNet, such as ``deep_supervision`` and ``deep_supr_num``.

    Raises:
        ValueError: sizes that are not divisible (when called); what DynUNet refuses.

    Example:
        >>> import torch
        >>> SpaceToDepthDynUNet(3, in_channels=1, out_channels=3).eval()(torch.randn(1, 1, 64, 32, 32)).shape
        torch.Size([1, 3, 64, 32, 32])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[Sequence[int] | int] = (3, 3, 3, 3, 3),
        strides: Sequence[Sequence[int] | int] = (1, 2, 2, 2, 2),
        upsample_kernel_size: Sequence[Sequence[int] | int] = (2, 2, 2, 2),
        filters: Sequence[int] = (16, 32, 64, 96, 96),
        norm_name: tuple[Any, ...] | str = "batch",
        scale_factor: int = 2,
        **arguments: Any,
    ) -> None:
        if scale_factor < 1:
            raise ValueError(f"scale_factor must be at least 1, got {scale_factor}.")
        self.scale_factor = scale_factor  # DynUNet's constructor calls the methods below
        super().__init__(
            spatial_dims,
            in_channels,
            out_channels,
            kernel_size,
            strides,
            upsample_kernel_size,
            filters=filters,
            norm_name=norm_name,
            **arguments,
        )
        steps = np.prod([np.broadcast_to(stride, spatial_dims) for stride in strides], axis=0)
        self.divisor = tuple(int(step) * scale_factor for step in steps)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: image, shape (B, in_channels, *spatial).

        Returns:
            Logits, shape (B, out_channels, *spatial); in training with deep supervision (B, heads, out_channels,
            *spatial), full resolution first.
        """
        sizes = tuple(x.shape[2:])
        if any(size % by for size, by in zip(sizes, self.divisor)):
            raise ValueError(
                f"the image has sizes {sizes}, expected multiples of {self.divisor} (scale_factor times all strides); "
                "pad it, or take another patch size."
            )
        answer: Tensor = super().forward(x)
        return answer

    def get_input_block(self) -> nn.Module:
        """Of blocks of voxels; DynUNet's else."""
        stem = SubpixelDownsample(self.spatial_dims, self.in_channels, scale_factor=self.scale_factor, conv_block=None)
        block = self.conv_block(
            self.spatial_dims,
            self.in_channels * self.scale_factor**self.spatial_dims,
            self.filters[0],
            self.kernel_size[0],
            self.strides[0],
            self.norm_name,
            self.act_name,
            dropout=self.dropout,
        )
        return nn.Sequential(stem, block)

    def get_output_block(self, idx: int) -> nn.Module:
        """A head of level ``idx``, which gives blocks of voxels; DynUNet's else."""
        voxels = self.scale_factor**self.spatial_dims
        logits = UnetOutBlock(self.spatial_dims, self.filters[idx], self.out_channels * voxels, dropout=self.dropout)
        return SubpixelUpsample(
            self.spatial_dims, None, scale_factor=self.scale_factor, conv_block=logits, apply_pad_pool=False
        )
