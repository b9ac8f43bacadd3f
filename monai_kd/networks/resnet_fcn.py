"""The ResNet-18 without a decoder of HLFD's released code: a student for slices."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn


class ResNetFCN(nn.Module):
    """The student of HLFD's released code: ResNet-18 [0], and the logits of its last stage in the size of the image.

    ``backbone`` has torchvision's parameters by torchvision's names, without the classifier.

    ======================  =====================================================================
    ``backbone.act``        e1, (B, channels[0], H / 2, W / 2)
    ``backbone.layer1``     e2, (B, channels[0], H / 4, W / 4)
    ``backbone.layer2``     e3, (B, channels[1], H / 8, W / 8)
    ``backbone.layer3``     e4, (B, channels[2], H / 16, W / 16)
    ``backbone.layer4``     e5, (B, channels[3], H / 32, W / 32)
    ======================  =====================================================================

    There is no decoder: the released code upsamples e4 to e1 to the size of the image and calls them d5 to d2. As
    a 1x1 convolution and an interpolation commute, a term that projects e4 to e1 at their own size, and resizes then,
    is the same at a fraction of the memory; so the decoder taps are e4 to e1 themselves.

    [0] He et al., Deep Residual Learning for Image Recognition, 2015, https://arxiv.org/abs/1512.03385

    Args:
        out_channels: classes, background among them.
        channels: channels of the four stages; the default has 11,177,538 parameters.

    Example:
        >>> ResNetFCN(channels=(4, 8, 16, 32))(torch.randn(2, 1, 64, 64)).shape
        torch.Size([2, 2, 64, 64])
    """

    def __init__(self, out_channels: int = 2, channels: Sequence[int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        self.backbone = ResNet(
            "basic",
            layers=[2, 2, 2, 2],
            block_inplanes=list(channels),
            spatial_dims=2,
            n_input_channels=3,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )
        self.head = nn.Conv2d(channels[-1], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: image, shape (B, 3, H, W), or (B, 1, H, W), which is repeated to three channels.

        Returns:
            Logits, shape (B, out_channels, H, W).
        """
        net, size = self.backbone, x.shape[2:]
        if x.shape[1] == 1:
            x = x.expand(-1, 3, *size)
        x = net.maxpool(net.act(net.bn1(net.conv1(x))))
        x = net.layer4(net.layer3(net.layer2(net.layer1(x))))
        return F.interpolate(self.head(x), size=size, mode="bilinear", align_corners=True)
