"""Deep supervision: one loss for all heads of a network, against the label or against a teacher's heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.losses.ds_loss import DeepSupervisionLoss
from torch import Tensor, nn

from monai_kd.losses._common import promote

_WEIGHT_MODES = ("exp", "two", "same")


class StackedDeepSupervisionLoss(DeepSupervisionLoss):
    """``monai.losses.DeepSupervisionLoss``, which also takes what DynUNet returns in training, and integer labels.

    A list of heads, or one head, is MONAI's own affair. DynUNet's stack of heads, each in full size, is told from a
    single head by its one axis more than the label has. So the label needs its channel axis. It is resized to the
    smaller heads of a list by nearest neighbours, in floating point, as torch cannot do it on integers.

    Args:
        loss, weight_mode, weights: as in ``monai.losses.DeepSupervisionLoss``.

    Example:
        >>> from monai.losses import DiceCELoss
        >>> label = torch.randint(0, 3, (2, 1, 16, 16))
        >>> loss = StackedDeepSupervisionLoss(DiceCELoss(to_onehot_y=True, softmax=True))
        >>> loss(torch.randn(2, 2, 3, 16, 16), label).shape  # B, heads, C, *spatial
        torch.Size([])
    """

    def get_loss(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of one head, with the label in its size."""
        if input.shape[2:] != target.shape[2:] and not target.is_floating_point():
            target = target.float()
        return super().get_loss(input, target)

    def forward(self, input: Tensor | list[Tensor] | None, target: Tensor) -> Tensor:
        """
        Args:
            input: logits (B, C, *spatial), a list of such at any sizes, or a stack (B, heads, C, *spatial).
            target: label, shape (B, 1, *spatial) or (B, C, *spatial).

        Returns:
            The weighted sum of the heads' losses, a scalar.
        """
        if isinstance(input, Tensor) and input.ndim == target.ndim + 1:
            input = list(input.unbind(1))
        return super().forward(input, target)


class DeepSupervisionDistillationLoss(nn.Module):
    """A distillation loss on every head of the student, each against the teacher's head of its size.

    The weights are those of ``monai.losses.DeepSupervisionLoss``, not normalised: the largest head counts in full,
    however many others there are. A teacher may have more heads than its student; of several in one size the first
    teaches. As a term::

        DistillationTerm("soft_target_heads", DeepSupervisionDistillationLoss(SoftTargetLoss()),
                         student=student_taps.heads, teacher=teacher_taps.heads)

    Args:
        loss: called as ``loss(student, teacher)`` on two heads, such as ``SoftTargetLoss()``.
        weight_mode: weights of the heads, the largest first: "exp" 1, 1/2, 1/4, ... (1/16 at least), "two" 1, 1/2,
            1/2, ..., "same" 1, 1, ....

    Raises:
        TypeError: the loss cannot be called.
        ValueError: no such weight mode.

    Example:
        >>> from monai_kd.losses import SoftTargetLoss
        >>> student = [torch.randn(2, 3, 16, 16), torch.randn(2, 3, 8, 8)]
        >>> teacher = [torch.randn(2, 3, 16, 16), torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4)]
        >>> DeepSupervisionDistillationLoss(SoftTargetLoss())(student, teacher).shape
        torch.Size([])
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], weight_mode: str = "exp") -> None:
        super().__init__()
        if not callable(loss):
            raise TypeError(f"the loss of each head must be callable, got {type(loss).__name__}.")
        if weight_mode not in _WEIGHT_MODES:
            raise ValueError(f"weight_mode must be one of {_WEIGHT_MODES}, got '{weight_mode}'.")
        self.loss = loss
        self.weight_mode = weight_mode

    def forward(self, student: Sequence[Tensor] | Tensor, teacher: Sequence[Tensor] | Tensor) -> Tensor:
        """The weighted sum of the heads' losses.

        Args:
            student: logits of each head, shapes (B, C, *spatial) at their own sizes, in any order; one head as a
                tensor.
            teacher: the same of the teacher, with a head of each size that the student has.

        Raises:
            ValueError: no head, or a head of the student in a size that no head of the teacher has.
        """
        ours, theirs = _heads(student, "student"), _heads(teacher, "teacher")
        by_size = {head.shape[2:]: head for head in reversed(theirs)}
        unmatched = [tuple(head.shape[2:]) for head in ours if head.shape[2:] not in by_size]
        if unmatched:
            raise ValueError(
                f"no head of the teacher has the size {', '.join(map(str, unmatched))}: student heads {_sizes(ours)}, "
                f"teacher heads {_sizes(theirs)}. Leave such a head out of the term's student taps, or tap another "
                "layer of the teacher that makes logits of that size."
            )
        ours.sort(key=lambda head: head.shape[2:].numel(), reverse=True)
        weights = DeepSupervisionLoss(self.loss, self.weight_mode).get_weights(len(ours))  # type: ignore[arg-type]
        losses = [weight * self.loss(head, by_size[head.shape[2:]].detach()) for weight, head in zip(weights, ours)]
        return torch.stack(losses).sum()


def _heads(heads: Sequence[Tensor] | Tensor, owner: str) -> list[Tensor]:
    found = [promote(head) for head in ([heads] if isinstance(heads, Tensor) else heads)]
    if not found:
        raise ValueError(f"the {owner} has no head; give the layers that make its logits.")
    return found


def _sizes(heads: Sequence[Tensor]) -> str:
    return "[" + ", ".join(str(tuple(head.shape[2:])) for head in heads) + "]"
