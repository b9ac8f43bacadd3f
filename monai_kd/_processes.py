"""Which of several processes this is, and means over the batches of all of them.

Processes train as one does on all their batches, for the average of their gradients is what each one steps with. A loss
that is a mean over items is then the mean over all. Of one that is not, the functions here make a value whose average
over the processes is that of all batches; every process must come to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

_alone = False


def rank() -> int:
    """The number of this process, 0 where it is the only one; ignite's own answer goes stale when a group ends."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def processes() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first_ones(answer: bool) -> bool:
    """The answer of process 0, in all of them."""
    if processes() == 1:
        return answer
    shared = torch.tensor(float(answer), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.broadcast(shared, 0)
    return bool(shared)


def largest(number: int) -> int:
    """The largest of the numbers of all processes, in all of them."""
    if processes() == 1:
        return number
    shared = torch.tensor(number, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def together() -> bool:
    """Whether a loss is of several processes: where they train, outside of :func:`alone`."""
    return processes() > 1 and torch.is_grad_enabled() and not _alone


def is_alone() -> bool:
    """Whether this is within :func:`alone`."""
    return _alone


@contextmanager
def alone() -> Iterator[None]:
    """Losses within are those of this process's own items, for not every process may come to them."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def share(own: Tensor) -> Tensor:
    """How much this process counts beside the average one, where each has ``own`` (a scalar) of something."""
    total = own.detach().clone()
    dist.all_reduce(total)
    return own.detach() * processes() / torch.where(total == 0, 1, total)


def sum_of_all(own: Tensor) -> Tensor:
    """The sum of ``own`` over the processes. Gradients that reach it average to those of the sum."""
    total = own.detach().clone()
    dist.all_reduce(total)
    return total + (own - own.detach()) * processes()
