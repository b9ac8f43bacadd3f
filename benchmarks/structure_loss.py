"""The structure loss, forward and backward, against its form with a direct 31x31 average.

Both heads of a network learn from one mask, as in KDAS. "direct": the equation with ``avg_pool2d``, as usually
written.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.comparing import Bar, Case, Found, memory_ratio, ratio, values_agree
from monai_kd.losses import StructureLoss

HEADS = 2


def direct_structure_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The structure loss with a direct two-dimensional average."""
    weight = 1 + 5 * (F.avg_pool2d(target, 31, stride=1, padding=15) - target).abs()
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    bce = (weight * bce).sum((2, 3)) / weight.sum((2, 3))
    p = logits.sigmoid()
    inter, union = (p * target * weight).sum((2, 3)), ((p + target) * weight).sum((2, 3))
    return (bce + 1 - (inter + 1) / (union - inter + 1)).mean()


def cases(quick: bool) -> list[Case]:
    batch, size = (1, 160) if quick else (2, 352)
    losses = {"direct": direct_structure_loss, "ours": StructureLoss()}
    forms = {name: _maker(loss, batch, size) for name, loss in losses.items()}
    return [Case(f"{HEADS} heads of {batch} x 1 x {size}^2", forms, rounds=5 if quick else 25)]


def bars(found: Found) -> list[Bar]:
    (forms,) = found.values()
    return [
        Bar("P6", "structure loss and its gradient", ratio(forms, "direct", "ours"), 40, note=NOTE),
        Bar("P6", "relative difference on binary masks", values_agree(forms, "direct", "ours"), 1e-5, most=True),
        Bar("P6", "memory, direct / ours", memory_ratio(forms, "direct", "ours"), 1),
    ]


NOTE = (
    "The average itself, an integral image, is no longer what takes the time: the elementwise part is, which the "
    "direct form has too."
)


def _maker(loss: Callable[[Tensor, Tensor], Tensor], batch: int, size: int) -> Callable[[], Callable[[], float]]:
    def prepare() -> Callable[[], float]:
        torch.manual_seed(0)
        heads = [torch.randn(batch, 1, size, size, requires_grad=True) for _ in range(HEADS)]
        coarse = torch.randn(batch, 1, size // 16, size // 16)
        target = (F.interpolate(coarse, size=(size, size), mode="bilinear") > 0.3).float()

        def step() -> float:
            for head in heads:
                head.grad = None
            value = sum((loss(head, target) for head in heads), torch.zeros(()))
            value.backward()
            return value.item()

        return step

    return prepare
