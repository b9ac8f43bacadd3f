"""Trainings one after another, in one process or in each of several, and what they leave.

Run as a program with the path of a plan, a list of arguments of :func:`train`:
``torchrun --nproc_per_node=2 trainings.py plan.json``.
"""

import json
import os
import sys
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from monai.bundle import ConfigWorkflow
from monai.data.utils import set_rnd
from monai.engines.utils import IterationEvents
from monai.networks.layers.drop_path import DropPath
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data._utils.fetch import _MapDatasetFetcher

from monai_kd.errors import user_message
from monai_kd.handlers import log_terms


def train(configs, overrides, folder, by_item=True, refused=False):
    """Run a training and write this process's record of it to ``folder``.

    Args:
        configs: paths.
        overrides: of their keys.
        folder: of the records.
        by_item: see :func:`drawn_by_item`.
        refused: it does not begin, and the record is the message.
    """
    flow = ConfigWorkflow(config_file=configs, logging_file=False, workflow_type="train", **overrides)
    with drawn_by_item() if by_item else nullcontext():
        record = _message(flow) if refused else _trained(flow)
    Path(folder).mkdir(parents=True, exist_ok=True)
    torch.save(record, Path(folder) / f"rank{os.environ.get('RANK', '0')}.pt")


def _trained(flow):
    flow.initialize()
    parsed = flow.parser.get_parsed_content
    trainer, evaluator = parsed("train#trainer"), parsed("validate#evaluator")
    modules = {"student": parsed("network_def"), "distiller": parsed("distiller_def")}
    modules = {part: module for part, module in modules.items() if module is not None}
    steps = []

    def note(engine):
        images = torch.as_tensor(engine.state.batch["image"]).as_subclass(torch.Tensor)
        index = engine.state.batch.get("index")
        steps.append(
            {
                "items": images.double().flatten(1).sum(dim=1),
                "index": None if index is None else torch.as_tensor(index).tolist(),
                "losses": log_terms(engine.state.output),
            }
        )

    trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, note)  # behind the distillation
    before = {part: deepcopy(module.state_dict()) for part, module in modules.items()}
    flow.run()
    after = {part: module.state_dict() for part, module in modules.items()}
    metrics = {name: float(value) for name, value in evaluator.state.metrics.items()}
    flow.finalize()
    return {"before": before, "after": after, "steps": steps, "metrics": metrics}


def _message(flow):
    try:
        flow.initialize()
    except Exception as error:
        return user_message(error)
    finally:
        dist.destroy_process_group()


@contextmanager
def drawn_by_item():
    """What is drawn of an item depends on the item alone, and no network draws or looks at batch statistics."""

    def fetch(fetcher, indices):
        return fetcher.collate_fn([_item(fetcher.dataset, index) for index in indices])

    def in_eval_mode(module, mode=True):
        return nn.Module.train(module, False)

    def as_it_is(module, x):
        return x

    with ExitStack() as stack:
        for owner, name, instead in (
            (_MapDatasetFetcher, "fetch", fetch),
            (_BatchNorm, "train", in_eval_mode),
            (_DropoutNd, "train", in_eval_mode),
            (DropPath, "forward", as_it_is),
        ):
            stack.enter_context(patch.object(owner, name, instead))
        yield


def _item(dataset, index):
    set_rnd(dataset, index)
    np.random.seed(index)  # noqa: NPY002  the generator that transforms without one of their own use
    torch.manual_seed(index)
    return dataset[index]


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    torch.set_num_threads(1)
    for training in plan:
        train(**training)
