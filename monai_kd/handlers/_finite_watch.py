"""Losses that are not finite, seen without making the host wait for an accelerator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class FiniteWatch:
    """Watches losses for NaN and infinity.

    On the CPU a loss is checked at once, before it reaches a weight. On an accelerator the flags are copied while
    training goes on and read as soon as they have arrived, an iteration or two later.

    Args:
        refuse: makes the error of the names of the losses, the epoch and the iteration.
    """

    def __init__(self, refuse: Callable[[list[str], int, int], Exception]) -> None:
        self._refuse = refuse
        self._pending: list[tuple[Tensor, list[str], Any, int, int]] = []

    def add(self, losses: Mapping[str, Tensor], epoch: int, iteration: int) -> None:
        """Look at the losses of an iteration, scalars."""
        flags = [torch.isfinite(value.detach()) for value in losses.values()]
        finite = torch.stack([flag.to(flags[0].device) for flag in flags])
        arrived = None
        if finite.is_cuda:
            host = torch.empty(finite.shape, dtype=torch.bool, pin_memory=True)
            host.copy_(finite, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
            finite = host
        self._pending.append((finite, list(losses), arrived, epoch, iteration))
        self.check(wait=False)

    def check(self, wait: bool) -> None:
        """Raise the error of the first iteration with a loss that is not finite."""
        while self._pending:
            finite, names, arrived, epoch, iteration = self._pending[0]
            if arrived is not None and not wait and not arrived.query():
                return
            if arrived is not None:
                arrived.synchronize()
            self._pending.pop(0)
            bad = [name for name, fine in zip(names, finite.tolist()) if not fine]
            if bad:
                raise self._refuse(bad, epoch, iteration)
