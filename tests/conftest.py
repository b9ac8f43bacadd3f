"""What tests of several rooms share."""

import gc

import pytest
import torch
import torch.distributed as dist


def _in_group(rank, function, folder, processes):
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=processes)
    function(rank, folder)
    # What a process leaves behind goes before its group, and no process before the others are done: torch aborts now
    # and then otherwise.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture
def in_processes(tmp_path):
    """Calls a function of a module, ``function(rank, folder)``, in two processes of one gloo group."""

    def call(function, processes=2):
        torch.multiprocessing.spawn(_in_group, (function, str(tmp_path), processes), nprocs=processes)

    return call
