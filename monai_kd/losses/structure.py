"""Structure loss of PraNet: cross-entropy and IoU with more weight near the outline of the mask."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from monai_kd.losses._common import promote


def structure_weights(target: Tensor, kernel_size: int = 31) -> Tensor:
    """Weight of every position: 1 where the neighbourhood is of one kind, up to 6 where it is mixed.

    ``1 + 5 * |mean(target) - target|``, the mean over a window of ``kernel_size`` along every spatial axis, outside
    counted as 0. Carries no gradient.

    Args:
        target: mask with values in [0, 1], shape (B, C, *spatial), 2D or 3D.
        kernel_size: side of the window in pixels, odd.

    Returns:
        Weights in float32 (float64 stays), same shape.

    Raises:
        ValueError: ``kernel_size`` is even or not positive.

    Example:
        >>> structure_weights(torch.eye(3)[None, None], kernel_size=3)[0, 0, 0]
        tensor([4.8889, 2.1111, 1.5556])
    """
    _check_window(kernel_size)
    with torch.no_grad():
        target = promote(target)
        # The integral image is the faster on a CPU; elsewhere cumsum has no deterministic kernel, and pooling is cheap.
        mean = _integral_mean if target.device.type == "cpu" else _pooled_mean
        return (mean(target, kernel_size) - target).abs_().mul_(5.0).add_(1.0)


def structure_loss(input: Tensor, target: Tensor, weighted_bce: bool = True, kernel_size: int = 31) -> Tensor:
    """Weighted cross-entropy plus weighted IoU loss, one value an image and channel; see :class:`StructureLoss`.

    Args:
        input: logits, shape (B, C, *spatial), 2D or 3D.
        target: mask with values in [0, 1], same shape; receives no gradient.
        weighted_bce: weight the cross-entropy too.
        kernel_size: side of the window in pixels, odd.

    Returns:
        Loss of every image and channel, shape (B, C).

    Raises:
        ValueError: shapes differ, are not 2D or 3D, or ``kernel_size`` is even.
    """
    if input.shape != target.shape:
        raise ValueError(f"logits {tuple(input.shape)} and mask {tuple(target.shape)} must have one shape.")
    if input.ndim not in (4, 5):
        raise ValueError(f"expected logits of shape (B, C, H, W) or (B, C, D, H, W), got {tuple(input.shape)}.")
    input, target = promote(input), promote(target).detach()
    target = target.to(input.dtype)
    losses: Tensor = _CrossEntropyAndIoU.apply(input, target, structure_weights(target, kernel_size), weighted_bce)
    return losses


class StructureLoss(nn.Module):
    """The loss of [0] on one head's logits: pixels near the outline of the mask weigh up to six times more.

    For a network with several heads wrap it: ``DeepSupervisionLoss(StructureLoss(), weight_mode="same")``.

    The released code (and all of its descendants) averages the cross-entropy before the weights are applied, so that
    they cancel; ``weighted_bce=False`` gives that form.

    [0] Fan et al., PraNet: Parallel Reverse Attention Network for Polyp Segmentation, 2020,
    https://arxiv.org/abs/2006.11392

    Args:
        weighted_bce: weight the cross-entropy as the paper does; ``False`` as the released code does.
        kernel_size: side of the window in pixels, odd; cubic in 3D.

    Raises:
        ValueError: ``kernel_size`` is even or not positive.

    Example:
        >>> logits, mask = torch.zeros(2, 1, 64, 64), torch.zeros(2, 1, 64, 64)
        >>> StructureLoss()(logits, mask)
        tensor(1.6927)
    """

    def __init__(self, weighted_bce: bool = True, kernel_size: int = 31) -> None:
        super().__init__()
        _check_window(kernel_size)
        self.weighted_bce = weighted_bce
        self.kernel_size = kernel_size

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """
        Args:
            input: logits, shape (B, 1, H, W) or (B, 1, D, H, W); with more channels each is a map of its own.
            target: mask with values in [0, 1] (soft masks too), same shape.

        Returns:
            Mean over images and channels, a scalar.
        """
        return structure_loss(input, target, self.weighted_bce, self.kernel_size).mean()


class _CrossEntropyAndIoU(torch.autograd.Function):
    """The gradient is computed with the value, and is all that is kept; what is no longer needed is overwritten."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weights: Tensor, weighted_bce: bool) -> Tensor:
        total = _sum(weights) if weighted_bce else torch.full_like(_sum(weights), weights.shape[2:].numel())
        errors = F.softplus(logits, threshold=40.0).addcmul_(logits, target, value=-1)
        bce = _sum(errors.mul_(weights) if weighted_bce else errors) / total

        probability = torch.sigmoid(logits, out=errors)
        product = weights * target
        union = _sum(product)
        intersection = _sum(product.mul_(probability))
        union += _sum(torch.mul(weights, probability, out=product)) - intersection
        iou = (intersection + 1) / (union + 1)

        if ctx.needs_input_grad[0]:
            # d loss / d logit = (p - g) w / total + p (1 - p) w (iou - (1 + iou) g) / (union + 1); g is the mask
            everywhere, in_mask, total = (
                x.reshape(*x.shape, *[1] * (logits.ndim - 2))
                for x in (iou / (union + 1), (1 + iou) / (union + 1), total)
            )
            variance = torch.addcmul(probability, probability, probability, value=-1, out=product).mul_(weights)
            slope = probability.sub_(target).div_(total)
            slope = (slope.mul_(weights) if weighted_bce else slope).addcmul_(variance, everywhere)
            ctx.save_for_backward(slope.addcmul_(variance.mul_(target), in_mask, value=-1))
        return bce + 1 - iou

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient.reshape(*gradient.shape, *[1] * (slope.ndim - 2)) * slope, None, None, None


def _check_window(kernel_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive, so that the window has a middle; got {kernel_size}.")


def _sum(values: Tensor) -> Tensor:
    return values.flatten(2).sum(dim=2)


def _integral_mean(x: Tensor, kernel_size: int) -> Tensor:
    """Window mean by differences of running sums, axis by axis; exact before the division where ``x`` is 0 or 1."""
    for axis in range(2, x.ndim):
        size = x.shape[axis]
        padding = [0, 0] * (x.ndim - 1 - axis) + [kernel_size // 2 + 1, kernel_size // 2]
        sums = F.pad(x, padding).cumsum_(axis)
        x = sums.narrow(axis, kernel_size, size) - sums.narrow(axis, 0, size)
    return x.div_(kernel_size ** (x.ndim - 2))


def _pooled_mean(x: Tensor, kernel_size: int) -> Tensor:
    """Window mean by average pools along one axis after the other."""
    shape = x.shape
    for axis in range(2, x.ndim):
        x = x.reshape(shape[:axis].numel(), 1, shape[axis], -1)
        x = F.avg_pool2d(x, (kernel_size, 1), stride=1, padding=(kernel_size // 2, 0)).reshape(shape)
    return x
