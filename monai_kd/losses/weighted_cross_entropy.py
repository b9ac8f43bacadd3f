"""Cross-entropy of weighted classes, as a mean over the batches of all processes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd._processes import processes, sum_of_all, together

__all__ = ["WeightedCrossEntropyLoss"]


class WeightedCrossEntropyLoss(nn.CrossEntropyLoss):
    """PyTorch's ``CrossEntropyLoss`` of class indices, that several processes train with as one does.

    With class weights w it is ``sum_i w[y_i] loss_i / sum_i w[y_i]``. A process whose batch has the lighter classes
    would count as much as one with the heavier, and what an item counts would depend on which others its process
    has. Here each process's mean counts by its share of the weights, which may be none: the average over processes is
    the mean over all their items. A process's own value is not that mean, ``SaveHistory`` averages them.

    Args:
        weight: of the classes (C,), such as ``monai_kd.data.class_weights`` gives; equal ones if ``None``.
        ignore_index: items of this class do not count.
        label_smoothing: as of PyTorch.

    Raises:
        ValueError: a target that is no class indices.

    Example:
        >>> loss = WeightedCrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
        >>> loss(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]))
        tensor(0.6931)
    """

    def __init__(self, weight: Tensor | None = None, ignore_index: int = -100, label_smoothing: float = 0.0) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (B, C, *spatial) and classes (B, *spatial), a scalar."""
        if target.is_floating_point():
            raise ValueError(f"expected class indices (B, *spatial), got {tuple(target.shape)} of {target.dtype}.")
        if not together():
            return super().forward(input, target)
        ignored, smoothing = self.ignore_index, self.label_smoothing
        own = F.cross_entropy(
            input, target, self.weight, ignore_index=ignored, reduction="sum", label_smoothing=smoothing
        )
        counted = target[target != self.ignore_index]
        weights = torch.ones_like(counted, dtype=own.dtype) if self.weight is None else self.weight[counted]
        total = sum_of_all(weights.sum())
        return own * processes() / torch.where(total == 0, 1, total)
