"""The group of the processes that ``torchrun`` has started, also where it has restarted them."""

from __future__ import annotations

import os
from datetime import timedelta
from itertools import count

import torch
import torch.distributed as dist

from monai_kd._launcher import job_number, launchers_store, this_start

__all__ = ["join_processes"]

_TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_groups = count()


def join_processes(backend: str | None = None, minutes: float = 120) -> None:
    """Join the group of all processes, as ``init_process_group`` does, but with addresses of this start alone.

    A launcher that restarts processes (``--max-restarts``) hands them the store of those before, in which PyTorch would
    find the addresses of processes that are no more. A second group in one program would find the first one's.
    In a SLURM job ignite takes the number of the task, which is that of ``torchrun`` itself, for the number of the
    process on its machine, and writes it to ``LOCAL_RANK``, by which processes share out the GPUs: it is told the right
    one.

    Args:
        backend: "nccl" where there is a GPU and "gloo" elsewhere, if ``None``.
        minutes: how long a process waits for the others, which may be checking or caching data. PyTorch's own 10 (nccl)
            are over before the images of a large data set are read. A process that dies is noticed at once anyway.

    Raises:
        ValueError: this process was not started by ``torchrun``; or by several of them that restart processes, which
            would not find each other again, or might take another job's file for their own.

    Example:
        In ``multi_gpu_train.json``::

            "initialize": ["$readable_errors()", "$check_overrides()", "$join_processes()", ...],
            "finalize": ["$dist.barrier()", "$dist.destroy_process_group()"]
    """
    missing = [name for name in _TOLD if name not in os.environ]
    if missing:
        raise ValueError(
            f"the environment does not say which of several processes this is ({', '.join(missing)}): start it with "
            "torchrun, or leave multi_gpu_train.json out for one process."
        )
    _check_restarts()
    if "SLURM_JOB_ID" in os.environ:
        os.environ["SLURM_LOCALID"] = os.environ["LOCAL_RANK"]
    store, rank, processes = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    own = dist.PrefixStore(f"{this_start()}/{next(_groups)}", store)  # type: ignore[attr-defined]
    patience = timedelta(minutes=minutes)
    dist.init_process_group(backend, timeout=patience, store=own, rank=rank, world_size=processes)


def _check_restarts() -> None:
    """Of several machines."""
    launchers, restarts = (os.environ.get(key, "0") for key in ("GROUP_WORLD_SIZE", "TORCHELASTIC_MAX_RESTARTS"))
    if int(launchers) < 2 or int(restarts) < 1:
        return
    if launchers_store():
        raise ValueError(
            "with --max-restarts on several machines PyTorch's launchers may wait for each other in different stores "
            "when they restart: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where each torchrun starts, and take "
            "--rdzv_backend=c10d."
        )
    if job_number() is None:
        raise ValueError(
            "with --max-restarts on several machines processes that are restarted know by the job's number what it has "
            "stored, and torchrun was given none: give --rdzv_id, this job's own number."
        )
