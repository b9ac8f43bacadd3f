"""How the cost grows: with voxels, batch, terms, rows of a bank and the windows of a volume.

Each curve is one computation at several sizes; the bar is the exponent of its growth, fitted to the medians: 1 is
linear. A volume is cut into windows that fit it exactly, and their number is its size: voxels near its faces lie in
fewer windows, so windows per voxel grow with the volume. Memory that it frees stays with the process, because what a
system takes to give the pages of a large array anew says nothing about the computation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.allocator import keeping_freed_memory
from benchmarks.comparing import Bar, Case, Found, slope
from monai_kd import DistillationTerm, Distiller, FrozenTeacher
from monai_kd.losses import (
    AttentionTransferLoss,
    ClassContrastiveLoss,
    ContrastMemory,
    ImportanceMapLoss,
    SoftTargetLoss,
    StructureLoss,
)
from monai_kd.runtime.windows import sliding_window

Maker = Callable[[], Callable[[], None]]


def cases(quick: bool) -> list[Case]:
    cut = 2 if quick else 1
    sides, batches = [side // cut for side in (32, 48, 64, 96)], [1, 2, 4, 8]
    curves: dict[str, dict[str, Maker]] = {
        "soft targets, voxels": {str(n**3): _loss(SoftTargetLoss(), (2, 3, n, n, n)) for n in sides},
        "soft targets, batch": {str(b): _loss(SoftTargetLoss(), (b, 3, *[48 // cut] * 3)) for b in batches},
        "attention transfer, voxels": {str(n**3): _loss(AttentionTransferLoss(), (1, 16, n, n, n)) for n in sides},
        "importance map, voxels": {str(n**3): _importance(n) for n in sides},
        "structure loss, pixels": {
            str(n * n): _loss(StructureLoss(), (2, 1, n, n)) for n in [side * 4 // cut for side in (44, 66, 88, 132)]
        },
        "terms": {str(count): _terms(count, 32 // cut) for count in (2, 4, 8, 16)},
        "class contrast, rows": {str(n // cut): _contrast(n // cut) for n in (5000, 10_000, 20_000, 40_000)},
        "windows of a volume": {str(n**3): _windows(n) for n in ((1, 2, 3) if quick else (2, 3, 4, 5))},
    }
    rounds = 3 if quick else 9
    return [Case(name, forms, rounds, memory=name.startswith("importance")) for name, forms in curves.items()]


def bars(found: Found) -> list[Bar]:
    return [
        Bar("P15", f"{case}, exponent", slope(forms, {name: float(name) for name in forms}), 1.15, True, NOTE)
        for case, forms in found.items()
    ]


NOTE = "Small sizes fit into the processor's caches, large ones do not."


def _loss(loss: nn.Module, shape: Sequence[int]) -> Maker:
    def prepare() -> Callable[[], None]:
        torch.manual_seed(0)
        student, teacher = torch.randn(*shape, requires_grad=True), torch.rand(*shape).round()
        return _stepping(student, lambda: loss(student, teacher))

    return prepare


def _importance(size: int) -> Maker:
    def prepare() -> Callable[[], None]:
        torch.manual_seed(0)
        student = torch.randn(1, 8, size, size, size, requires_grad=True)
        teachers = [torch.randn(1, 32 * 2**i, *[size // 2 ** (i + 1)] * 3) for i in range(3)]
        loss = ImportanceMapLoss()
        return _stepping(student, lambda: loss(student, teachers))

    return prepare


def _terms(count: int, size: int) -> Maker:
    def prepare() -> Callable[[], None]:
        torch.manual_seed(0)
        network, teacher = nn.Conv3d(1, 8, 1), FrozenTeacher(nn.Conv3d(1, 8, 1))
        terms = [DistillationTerm(f"term_{i}", AttentionTransferLoss()) for i in range(count)]
        distiller = Distiller(network, teacher, terms)
        images = torch.randn(2, 1, size, size, size)
        output = torch.randn(2, 8, size, size, size, requires_grad=True)
        return _stepping(output, lambda: distiller.total(distiller({"output": output}, {"image": images}), epoch=1))

    return prepare


def _contrast(rows: int) -> Maker:
    def prepare() -> Callable[[], None]:
        torch.manual_seed(0)
        labels = torch.randint(5, (rows,))
        loss = ClassContrastiveLoss(ContrastMemory(labels, 128))
        student, teacher = torch.randn(2, 64, 128)
        student.requires_grad_()
        index = torch.arange(64)
        return _stepping(student, lambda: loss(student, teacher, labels[:64], index))

    return prepare


def _windows(count: int) -> Maker:
    """As many windows along each axis, the next one 48 voxels on."""

    def prepare() -> Callable[[], None]:
        size = 64 + 48 * (count - 1)
        volume = np.random.default_rng(0).standard_normal((1, size, size, size), dtype=np.float32)

        def answer(window: np.ndarray) -> np.ndarray:
            return np.concatenate([window, -window], axis=1)

        def step() -> None:
            sliding_window(volume, answer, (64, 64, 64), overlap=0.25)

        return keeping_freed_memory(step)

    return prepare


def _stepping(leaf: Tensor, loss: Callable[[], Tensor]) -> Callable[[], None]:
    def step() -> None:
        leaf.grad = None
        loss().backward()

    return step
