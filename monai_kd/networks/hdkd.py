"""HDKD's convolutional teacher and its hybrid student: three stages of equal shapes, then a head or a transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv, Norm
from monai.utils.misc import ensure_tuple_rep
from torch import Tensor, nn

from monai_kd.networks.feature_transformer import FeatureTransformer
from monai_kd.networks.mbcsa import MBCSA

__all__ = ["HDKDStudent", "HDKDTeacher"]

_STAGE_STRIDE = 8
_PATCH = 2


class _Stages(nn.Module):
    """The stages that teacher and student share: a stem and two of :class:`MBCSA`, each halving every axis."""

    def __init__(self, spatial_dims: int, in_channels: int, channels: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        if min(depths) < 1:
            raise ValueError(f"every stage needs a block, got depths {tuple(depths)}.")
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        first, second, third = channels
        inputs = [in_channels, *[first] * (depths[0] - 1)]
        self.stage1 = nn.Sequential(
            *(_stem_unit(spatial_dims, i, first, 2 if k == 0 else 1) for k, i in enumerate(inputs))
        )
        self.stage2 = _mbcsa_stage(spatial_dims, first, second, depths[1])
        self.stage3 = _mbcsa_stage(spatial_dims, second, third, depths[2])

    def stages(self, x: Tensor) -> list[Tensor]:
        """
        Args:
            x: image, shape (B, in_channels, *spatial).

        Returns:
            Maps of the three stages, shapes (B, channels[i], *spatial / s), s = 2, 4, 8.

        Raises:
            ValueError: another number of axes or channels.
        """
        if x.ndim != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"expected an image of shape (B, {self.in_channels}, {'H, W' if self.spatial_dims == 2 else 'H, W, D'})"
                f", got {tuple(x.shape)}; spatial_dims and in_channels are set when the network is built."
            )
        maps: list[Tensor] = []
        for stage in (self.stage1, self.stage2, self.stage3):
            x = stage(x)
            maps.append(x)
        return maps


class HDKDTeacher(_Stages):
    """The convolutional teacher of [0], in the parameter names of the released weights.

    Tap points (:attr:`tap_points`), for an image of H x W (x D):

    ===========================  =================================================
    ``stage1`` .. ``stage3``     (B, channels[i], H / s, W / s), s = 2, 4, 8
    ``classifier``               logits, (B, num_classes)
    ===========================  =================================================

    Behind the stages: the mean over positions and two linear layers, with no activation between them.

    [0] HDKD: Hybrid Data-Efficient Knowledge Distillation Network for Medical Image Classification, 2024,
    https://arxiv.org/abs/2407.07516

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        num_classes: classes.
        channels: of the three stages; the default has 3,948,677 parameters with 7 classes in 2D.
        depths: blocks of the three stages.
        hidden_size: features between the two linear layers.

    Raises:
        ValueError: an argument has not one entry a stage, or is out of its range.

    Example:
        >>> HDKDTeacher(2, 3, num_classes=7, channels=(8, 12, 16), depths=(1, 1, 1))(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 7])
    """

    tap_points: ClassVar[tuple[str, ...]] = ("stage1", "stage2", "stage3", "classifier")

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        channels: Sequence[int] = (64, 96, 192),
        depths: Sequence[int] = (6, 6, 9),
        hidden_size: int = 128,
    ) -> None:
        _check_entries(3, channels=channels, depths=depths)
        super().__init__(spatial_dims, in_channels, channels, depths)
        self.fn1 = nn.Linear(channels[-1], hidden_size)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: image, shape (B, in_channels, *spatial), of any size.

        Returns:
            Logits, shape (B, num_classes).

        Raises:
            ValueError: another number of axes or channels.
        """
        return self.classifier(self.fn1(self.stages(x)[-1].flatten(2).mean(dim=2)))


class HDKDStudent(_Stages):
    """The student of [0]: the teacher's stages with fewer blocks, then a transformer, in the released parameter names.

    One head reads the class token and learns from the label, another reads the distillation token and learns from the
    teacher. In training the output is the class head's logits, so that the trainer's loss is the paper's task loss; in
    evaluation it is the mean of both heads (see ``distill_share``), the paper's prediction, so that any evaluator can
    use it. Both heads can be tapped in both modes.

    Without ``distill_token`` there is one token and one head: the student that is trained alone. (A distillation head
    that no term teaches stays random, and evaluation would mix it in.)

    Tap points (:attr:`tap_points`), for an image of H x W (x D):

    ===========================  ===================================================================
    ``stage1`` .. ``stage3``     (B, channels[i], H / s, W / s), s = 2, 4, 8, the teacher's shapes
    ``DFLT_module``              class and distillation token, (B, 2, channels[3])
    ``head_cls``                 logits of the class token, (B, num_classes)
    ``head_distill``             logits of the distillation token, (B, num_classes)
    ===========================  ===================================================================

    [0] HDKD: Hybrid Data-Efficient Knowledge Distillation Network for Medical Image Classification, 2024,
    https://arxiv.org/abs/2407.07516

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        num_classes: classes.
        img_size: size of the images along each axis, or along all; any, but where it is no multiple of 16 the last
            patches are filled with zeros. The position embedding is made
            for it; ``load_hdkd_weights`` brings one of another size to it.
        channels: of the three stages, and the length of a token; the default has 3,727,288 parameters with 7 classes
            in 2D (3,724,977 without ``distill_token``).
        depths: blocks of the three stages and of the transformer.
        num_heads: attention heads of the transformer.
        dim_head: length of a head's queries, keys and values.
        distill_token: whether there are a distillation token and its head.
        distill_share: share of the distillation head in the prediction of the evaluation.
        dropout_rate: of the transformer.

    Raises:
        ValueError: an argument has not one entry a stage or is out of its range.

    Example:
        >>> network = HDKDStudent(2, 3, 7, img_size=32, channels=(8, 12, 16, 24), depths=(1, 1, 1, 1))
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 7])
    """

    tap_points: ClassVar[tuple[str, ...]] = ("stage1", "stage2", "stage3", "DFLT_module", "head_cls", "head_distill")

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        img_size: int | Sequence[int] = 224,
        channels: Sequence[int] = (64, 96, 192, 256),
        depths: Sequence[int] = (2, 2, 3, 3),
        num_heads: int = 8,
        dim_head: int = 32,
        distill_token: bool = True,
        distill_share: float = 0.5,
        dropout_rate: float = 0.0,
    ) -> None:
        _check_entries(4, channels=channels, depths=depths)
        if not 0 <= distill_share <= 1:
            raise ValueError(f"distill_share must lie in [0, 1], got {distill_share}.")
        super().__init__(spatial_dims, in_channels, channels[:3], depths[:3])
        self.img_size = ensure_tuple_rep(img_size, spatial_dims)
        if min(self.img_size) < 1:
            raise ValueError(f"img_size must be positive, got {self.img_size}.")
        self.distill_share = distill_share
        self.DFLT_module = FeatureTransformer(
            channels[2],
            grid=self.grid_of(self.img_size),
            patch_size=_PATCH,
            hidden_size=channels[3],
            depth=depths[3],
            num_heads=num_heads,
            dim_head=dim_head,
            distill_token=distill_token,
            dropout_rate=dropout_rate,
        )
        self.head_cls = nn.Linear(channels[3], num_classes)
        self.head_distill = nn.Linear(channels[3], num_classes) if distill_token else None

    @staticmethod
    def grid_of(img_size: Sequence[int]) -> tuple[int, ...]:
        """Patches along each axis of images of this size."""
        return tuple(math.ceil(size / (_STAGE_STRIDE * _PATCH)) for size in img_size)

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """The logits of every head, whatever the mode.

        Args:
            x: image, shape (B, in_channels, *img_size).

        Returns:
            Logits of the class head and, with ``distill_token``, of the distillation head; each (B, num_classes).

        Raises:
            ValueError: another number of axes or channels, or another size.
        """
        if x.ndim == self.spatial_dims + 2 and tuple(x.shape[2:]) != self.img_size:
            raise ValueError(
                f"expected images of size {self.img_size}, got {tuple(x.shape[2:])}; resize them, or build the network "
                "with their img_size."
            )
        tokens = self.DFLT_module(_fill_patches(self.stages(x)[-1]))
        z_cls = self.head_cls(tokens[:, 0])
        return (z_cls,) if self.head_distill is None else (z_cls, self.head_distill(tokens[:, 1]))

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: image, shape (B, in_channels, *img_size).

        Returns:
            Logits, shape (B, num_classes): of the class head in training, of both heads in evaluation.

        Raises:
            ValueError: another number of axes or channels, or another size.
        """
        z_cls, *z_distill = self.heads(x)
        return z_cls if self.training or not z_distill else torch.lerp(z_cls, z_distill[0], self.distill_share)


def _fill_patches(x: Tensor) -> Tensor:
    """Zeros behind the last position of an axis where its last patch is not whole."""
    missing = [-size % _PATCH for size in reversed(x.shape[2:])]
    return F.pad(x, [width for last in missing for width in (0, last)]) if any(missing) else x


def _stem_unit(spatial_dims: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    conv = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, Norm[Norm.BATCH, spatial_dims](out_channels), nn.GELU())


def _mbcsa_stage(spatial_dims: int, in_channels: int, out_channels: int, depth: int) -> nn.Sequential:
    first = MBCSA(spatial_dims, in_channels, out_channels, downsample=True)
    return nn.Sequential(first, *(MBCSA(spatial_dims, out_channels, out_channels) for _ in range(depth - 1)))


def _check_entries(count: int, **arguments: Sequence[int]) -> None:
    for name, values in arguments.items():
        if len(values) != count:
            raise ValueError(f"{name} needs {count} entries, one a stage, got {tuple(values)}.")
