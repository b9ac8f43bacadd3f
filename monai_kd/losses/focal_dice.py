"""Task loss of HLFD: half focal loss, half soft Dice of the foreground."""

from __future__ import annotations

import torch
from monai.losses.focal_loss import FocalLoss
from monai.networks.utils import one_hot
from torch import Tensor, nn

from monai_kd._processes import sum_of_all, together
from monai_kd.losses._common import promote


class FocalDiceLoss(nn.Module):
    """``focal / 2 + Dice / 2`` of softmax logits, the segmentation loss of [0].

    Focal loss with gamma 2: summed over the classes, averaged over positions. Dice: without the background, sums over
    the whole batch smoothed by 1, a mean over the other classes. MONAI's ``DiceFocalLoss`` averages the focal loss over
    classes too, and leaves the background out of both halves or of none. Where several processes train, the Dice's
    sums are those of all their batches, of one size in each.

    For a network with several heads wrap it: ``StackedDeepSupervisionLoss(FocalDiceLoss())``.

    [0] HLFD, 2023, https://arxiv.org/abs/2311.16700

    Example:
        >>> logits, label = torch.randn(2, 3, 16, 16, 16), torch.randint(0, 3, (2, 1, 16, 16, 16))
        >>> FocalDiceLoss()(logits, label).shape
        torch.Size([])
    """

    def __init__(self) -> None:
        super().__init__()
        self.focal = FocalLoss(gamma=2.0, use_softmax=True)
        self.dice = _ForegroundDice()

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """
        Args:
            input: logits, shape (B, K, *spatial), K >= 2.
            target: class indices, shape (B, 1, *spatial), or one-hot, shape (B, K, *spatial).

        Returns:
            The loss of the batch, a scalar.

        Raises:
            ValueError: one channel only, or shapes that do not fit.
        """
        classes = input.shape[1]
        if classes == 1:
            raise ValueError(
                f"softmax over 1 channel is constant; got logits {tuple(input.shape)}. Give the network a background "
                "channel (out_channels=2)."
            )
        if target.shape not in (input.shape, (input.shape[0], 1, *input.shape[2:])):
            raise ValueError(
                f"expected class indices {(input.shape[0], 1, *input.shape[2:])} or one-hot {tuple(input.shape)}, got "
                f"a target of shape {tuple(target.shape)}."
            )
        input, target = promote(input), target.as_subclass(Tensor)
        target = one_hot(target, num_classes=classes) if target.shape[1] == 1 else target
        # MONAI's mean runs over the classes too.
        focal: Tensor = self.focal(input, target) * classes
        dice: Tensor = self.dice(input, target.to(input.dtype))
        return 0.5 * focal + 0.5 * dice


class _ForegroundDice(nn.Module):
    """``1 - Dice`` of logits and one-hot labels. MONAI's ``DiceLoss`` knows the batch of its own process only."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        probability, truth = logits.softmax(dim=1)[:, 1:], target[:, 1:]
        axes = (0, *range(2, logits.ndim))
        sums = torch.stack([(probability * truth).sum(axes), (probability + truth).sum(axes)])
        overlap, size = sum_of_all(sums) if together() else sums
        return (1 - (2 * overlap + 1) / (size + 1)).mean()
