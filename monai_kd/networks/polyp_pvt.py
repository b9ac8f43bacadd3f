"""Polyp-PVT: the teacher (PVTv2-B2) and the student (PVTv2-B0) of KDAS are this one network."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd.networks.pvt_v2 import PVTv2, pvt_v2

_WIDTH = 32
_STRIDE = 32


class PolypPVT(nn.Module):
    """Binary segmentation with a transformer pyramid and two heads [0], in the parameter names of the released weights.

    In training the output is the list ``[P1, P2]`` of both heads' logits, which ``monai.losses.DeepSupervisionLoss``
    understands; in evaluation it is their sum, the prediction of the released inference, so that any inferer can use
    it. Both heads can be tapped in both modes.

    Tap points (:attr:`tap_points`), for an image of H x W:

    ==================================  ===========================================================
    ``backbone.norm1`` .. ``norm4``     stage maps, (B, embed_dims[i], H / s, W / s), s = 4, 8, 16, 32
    ``CFM``                             cascaded fusion of stages 2 to 4, (B, 32, H / 8, W / 8)
    ``SAM``                             the same with stage 1's detail, (B, 32, H / 8, W / 8)
    ``logits_cfm``                      P1, logits, (B, 1, H, W)
    ``logits_sam``                      P2, logits, (B, 1, H, W)
    ==================================  ===========================================================

    The convolutions with batch normalisation have no activation after them, as in the released network.

    [0] Dong et al., Polyp-PVT: Polyp Segmentation with Pyramid Vision Transformers, 2021,
    https://arxiv.org/abs/2108.06932

    Args:
        backbone: a size of :func:`~monai_kd.networks.pvt_v2.pvt_v2` (``"b2"``: 25.1 M parameters, the teacher;
            ``"b0"``: 3.65 M, the student), or a :class:`~monai_kd.networks.pvt_v2.PVTv2`.
        in_channels: channels of the image; a given ``PVTv2`` has its own.
        overrides: arguments of :class:`~monai_kd.networks.pvt_v2.PVTv2` that replace those of the size.

    Raises:
        ValueError: no such size, or ``overrides`` together with a built backbone.

    Example:
        >>> network = PolypPVT("b0", embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1))
        >>> [tuple(head.shape) for head in network(torch.randn(2, 3, 64, 64))]
        [(2, 1, 64, 64), (2, 1, 64, 64)]
        >>> network.eval()(torch.randn(2, 3, 64, 64)).shape
        torch.Size([2, 1, 64, 64])
    """

    tap_points: ClassVar[tuple[str, ...]] = (
        "backbone.norm1",
        "backbone.norm2",
        "backbone.norm3",
        "backbone.norm4",
        "CFM",
        "SAM",
        "logits_cfm",
        "logits_sam",
    )

    def __init__(self, backbone: str | PVTv2 = "b2", in_channels: int = 3, **overrides: Any) -> None:
        super().__init__()
        if isinstance(backbone, str):
            backbone = pvt_v2(backbone, in_channels=in_channels, **overrides)
        elif overrides:
            raise ValueError(f"a built backbone takes no {', '.join(overrides)}; set them where it is built.")
        dims = backbone.embed_dims
        self.backbone = backbone
        self.Translayer2_0 = _ConvBN(dims[0], _WIDTH, 1)
        self.Translayer2_1 = _ConvBN(dims[1], _WIDTH, 1)
        self.Translayer3_1 = _ConvBN(dims[2], _WIDTH, 1)
        self.Translayer4_1 = _ConvBN(dims[3], _WIDTH, 1)
        self.CFM = _CascadedFusion(_WIDTH)
        self.ca = _ChannelAttention(dims[0])
        self.sa = _SpatialAttention()
        self.SAM = _SimilarityAggregation(_WIDTH)
        self.out_SAM = nn.Conv2d(_WIDTH, 1, 1)
        self.out_CFM = nn.Conv2d(_WIDTH, 1, 1)
        self.logits_cfm = nn.Upsample(scale_factor=8, mode="bilinear", align_corners=False)
        self.logits_sam = nn.Upsample(scale_factor=8, mode="bilinear", align_corners=False)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both heads' logits, whatever the mode.

        Args:
            x: image, shape (B, in_channels, H, W), H and W multiples of 32.

        Returns:
            ``(P1, P2)``, each of shape (B, 1, H, W).

        Raises:
            ValueError: wrong number of channels, or a size that is not a multiple of 32.
        """
        if x.ndim == 4 and any(size % _STRIDE for size in x.shape[2:]):
            proposed = tuple(-(-size // _STRIDE) * _STRIDE for size in x.shape[2:])
            raise ValueError(
                f"height and width must be multiples of {_STRIDE}, got {tuple(x.shape[2:])}; "
                f"resize or pad the image to {proposed}."
            )
        x1, x2, x3, x4 = self.backbone(x)

        detail = self.ca(x1) * x1
        detail = self.Translayer2_0(self.sa(detail) * detail)
        cfm = self.CFM(self.Translayer4_1(x4), self.Translayer3_1(x3), self.Translayer2_1(x2))
        sam = self.SAM(cfm, F.interpolate(detail, scale_factor=0.5, mode="bilinear", align_corners=True))

        return self.logits_cfm(self.out_CFM(cfm)), self.logits_sam(self.out_SAM(sam))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """
        Args:
            x: image, shape (B, in_channels, H, W), H and W multiples of 32.

        Returns:
            ``[P1, P2]`` in training, ``P1 + P2`` in evaluation; logits of shape (B, 1, H, W).
        """
        p1, p2 = self.heads(x)
        return [p1, p2] if self.training else p1 + p2


class _ConvBN(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class _ChannelAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 1)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = (x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True))
        average, maximum = (self.fc2(F.relu(self.fc1(p))) for p in pooled)
        return torch.sigmoid(average + maximum)


class _SpatialAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv1(torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)))


class _CascadedFusion(nn.Module):
    """Three levels, coarse to fine: each is multiplied by the coarser ones, then joined with what came of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_upsample1 = _ConvBN(width, width, 3)
        self.conv_upsample2 = _ConvBN(width, width, 3)
        self.conv_upsample3 = _ConvBN(width, width, 3)
        self.conv_upsample4 = _ConvBN(width, width, 3)
        self.conv_upsample5 = _ConvBN(2 * width, 2 * width, 3)
        self.conv_concat2 = _ConvBN(2 * width, 2 * width, 3)
        self.conv_concat3 = _ConvBN(3 * width, 3 * width, 3)
        self.conv4 = _ConvBN(3 * width, width, 3)

    def forward(self, t4: Tensor, t3: Tensor, t2: Tensor) -> Tensor:
        up4 = _double(t4)
        a3 = self.conv_upsample1(up4) * t3
        a2 = self.conv_upsample2(_double(up4)) * self.conv_upsample3(_double(t3)) * t2
        b3 = self.conv_concat2(torch.cat([a3, self.conv_upsample4(up4)], dim=1))
        b2 = self.conv_concat3(torch.cat([a2, self.conv_upsample5(_double(b3))], dim=1))
        return self.conv4(b2)


class _SimilarityAggregation(nn.Module):
    """Graph reasoning over 4x4 anchors, weighted by one channel of the detail map, added to the fused features."""

    anchors = 4

    def __init__(self, width: int, states: int = 16) -> None:
        super().__init__()
        self.conv_state = nn.Conv2d(width, states, 1)
        self.conv_proj = nn.Conv2d(width, states, 1)
        self.gcn = _GraphConv(states, self.anchors**2)
        self.conv_extend = nn.Conv2d(states, width, 1, bias=False)

    def forward(self, x: Tensor, detail: Tensor) -> Tensor:
        state = self.conv_state(x).flatten(2)
        projected = self.conv_proj(x)
        mask = detail.softmax(dim=1)[:, 1:2]

        pooled = F.adaptive_avg_pool2d(projected * mask, self.anchors + 2)
        anchors = pooled[:, :, 1:-1, 1:-1].flatten(2)
        assignment = (anchors.transpose(1, 2) @ projected.flatten(2)).softmax(dim=1)

        nodes = self.gcn(state @ assignment.transpose(1, 2))
        return x + self.conv_extend((nodes @ assignment).unflatten(2, x.shape[2:]))


class _GraphConv(nn.Module):
    def __init__(self, states: int, nodes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(nodes, nodes, 1)
        self.conv2 = nn.Conv1d(states, states, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.conv1(x.transpose(1, 2)).transpose(1, 2)
        return F.relu(self.conv2(mixed - x))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
