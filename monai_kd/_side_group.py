"""Words between the processes of a training, on the CPU and beside its gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from monai_kd._processes import processes


class SideGroup:
    """A process group of its own, of all processes; where there is only one, nobody is asked.

    All processes make it, call its methods in the same order, and close it.
    """

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo") if processes() > 1 else None
        self._asked: Tensor | None = None
        self._answer: Any = None

    def largest_before(self, number: int) -> int:
        """The largest of the numbers that the processes gave the call before, 0 at first.

        Nobody waits for a step that another process has not done: the numbers travel while the next step is computed.
        """
        if self._group is None:
            return number
        before = self._take()
        self._asked = torch.tensor(number)
        self._answer = dist.all_reduce(self._asked, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return before

    def largest(self, number: int) -> int:
        """The largest of the numbers of this call and the one before."""
        before = self.largest_before(number)
        return max(before, self._take()) if self._group is not None else number

    def gathered(self, content: bytes) -> list[bytes]:
        """What each process gave, in their order."""
        if self._group is None:
            return [content]
        lengths = [torch.tensor(0) for _ in range(processes())]
        dist.all_gather(lengths, torch.tensor(len(content)), group=self._group)
        longest = max(int(length) for length in lengths)
        padded = torch.frombuffer(bytearray(content.ljust(longest, b"\0")), dtype=torch.uint8)
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded, group=self._group)
        return [part.numpy().tobytes()[: int(length)] for part, length in zip(parts, lengths)]

    def meet(self) -> None:
        """Wait until all processes are here."""
        if self._group is not None:
            dist.barrier(group=self._group)

    def close(self) -> None:
        """Not where a process has failed: the others cannot be asked any more."""
        if self._group is not None:
            self._take()
            dist.destroy_process_group(self._group)
            self._group = None

    def _take(self) -> int:
        if self._asked is None:
            return 0
        self._answer.wait()
        number = int(self._asked)
        self._asked = self._answer = None
        return number
