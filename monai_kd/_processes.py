"""Which of several processes this is; ignite's own answer goes stale when a process group ends."""

from __future__ import annotations

import torch.distributed as dist


def rank() -> int:
    """The number of this process, 0 where it is the only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def processes() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
