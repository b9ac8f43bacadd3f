"""A student of 52 thousand parameters for endoscopic images: depthwise separable convolutions and one linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from monai.networks.blocks.convolutions import Convolution
from torch import Tensor, nn

__all__ = ["TinyEndoNet"]


class TinyEndoNet(nn.Module):
    """A student of the size that [0] names, 51.8 thousand parameters.

    The layers are ours: [0] was read by its abstract, which gives the size alone, and no code of it is published. A
    3x3 convolution, then blocks of a 3x3 convolution of each channel apart and a 1x1 convolution; batch normalisation
    and ReLU behind every convolution, no bias. The mean over positions goes to the classifier.

    Tap points (:attr:`tap_points`), for an image of H x W (x D):

    ===========================  ===========================================
    ``features``                 (B, channels[-1], H / 32, W / 32)
    ``classifier``               logits, (B, num_classes)
    ===========================  ===========================================

    [0] Gammulle et al., Learning Through Guidance: Knowledge Distillation for Endoscopic Image Classification, 2023,
    https://arxiv.org/abs/2308.08731

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        num_classes: classes.
        channels: of the first convolution and of each block; the default has 51,832 parameters with 8 classes in 2D,
            54,247 with 23.
        strides: of the same.

    Raises:
        ValueError: no layer, or ``channels`` and ``strides`` of different lengths.

    Example:
        >>> import torch
        >>> TinyEndoNet(num_classes=23)(torch.randn(2, 3, 64, 64)).shape
        torch.Size([2, 23])
    """

    tap_points: ClassVar[tuple[str, ...]] = ("features", "classifier")

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 3,
        num_classes: int = 8,
        channels: Sequence[int] = (16, 32, 48, 64, 80, 144, 160),
        strides: Sequence[int] = (2, 2, 1, 2, 1, 2, 2),
    ) -> None:
        super().__init__()
        if not channels or len(channels) != len(strides):
            raise ValueError(
                f"channels and strides need one entry a layer, got {tuple(channels)} and {tuple(strides)}."
            )
        stem = _unit(spatial_dims, in_channels, channels[0], stride=strides[0])
        blocks = (
            nn.Sequential(_unit(spatial_dims, i, i, stride=stride, groups=i), _unit(spatial_dims, i, o, kernel_size=1))
            for i, o, stride in zip(channels, channels[1:], strides[1:])
        )
        self.features = nn.Sequential(stem, *blocks)
        self.classifier = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: image, shape (B, in_channels, *spatial), of any size.

        Returns:
            Logits, shape (B, num_classes).
        """
        return self.classifier(self.features(x).flatten(2).mean(dim=2))


def _unit(
    spatial_dims: int, in_channels: int, out_channels: int, stride: int = 1, kernel_size: int = 3, groups: int = 1
) -> nn.Module:
    return Convolution(
        spatial_dims,
        in_channels,
        out_channels,
        strides=stride,
        kernel_size=kernel_size,
        groups=groups,
        act="RELU",
        norm="BATCH",
        adn_ordering="NA",
        bias=False,
    )
