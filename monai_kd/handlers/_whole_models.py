"""Best models whose file is there whole, also while the next one is written."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.handlers.checkpoint import BaseSaveHandler
from monai.handlers.checkpoint_saver import CheckpointSaver

from monai_kd._files import save_whole
from monai_kd._processes import rank


class WholeModels(BaseSaveHandler):
    """Takes the place of MONAI's, which removes a model before it writes the next one over its name.

    Args:
        dirname: the folder of the models.
        filename: the one name of all; names of their own if ``None``.
    """

    def __init__(self, dirname: str | Path, filename: str | None = None) -> None:
        self.dirname = Path(dirname)
        self.filename = filename

    def __call__(self, checkpoint: Mapping[str, Any], filename: str, metadata: Mapping[str, Any] | None = None) -> None:
        if rank() == 0:
            save_whole(self.file(filename), partial(torch.save, checkpoint))

    def remove(self, filename: str) -> None:
        if rank() == 0 and self.filename is None:
            self.file(filename).unlink(missing_ok=True)

    def file(self, filename: str) -> Path:
        """Where a model is."""
        return self.dirname / (self.filename or filename)


def best_models(saver: CheckpointSaver) -> Any:
    """ignite's ``Checkpoint`` of the best models, ``None`` where there is none; MONAI lets its state be loaded only."""
    return saver._key_metric_checkpoint


def write_whole_models(saver: CheckpointSaver) -> WholeModels:
    """Let a ``CheckpointSaver`` with ``save_key_metric`` write its models so."""
    models = best_models(saver)
    if not isinstance(models.save_handler, WholeModels):
        models.save_handler = WholeModels(models.save_handler.dirname, getattr(models.save_handler, "filename", None))
    written: WholeModels = models.save_handler
    return written
