"""Losses and validation scores of every epoch in one CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from numbers import Number
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import Tensor

from monai_kd._files import remove_leftovers, write_whole
from monai_kd._processes import processes, rank
from monai_kd.handlers._half_epochs import carry
from monai_kd.handlers.log_terms import is_loss

__all__ = ["SaveHistory"]


class SaveHistory:
    """Writes a CSV file with one row an epoch: the mean of every loss, and the scores of a validation in that epoch.

    Columns are ``epoch``, the losses of the trainer's output ("loss", "task_loss", each distillation term) and the
    validator's metrics, empty in epochs without validation. Means are gathered on the device, without waiting for it in
    an iteration. The file is written whole after each epoch. A resumed run goes on with the rows of the file up to the
    epoch that it resumes from, and within an epoch with its sums.

    Give it behind the ``ValidationHandler``, and where there are several processes to the trainers of all: losses are
    averaged over them, the first one writes.

    Args:
        path: of the CSV file; its folder is made if it does not exist.
        validator: the evaluator whose scores are kept.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from monai.engines import SupervisedTrainer
        >>> from torch import nn
        >>> network = nn.Linear(2, 1)
        >>> batch = {"image": torch.ones(1, 2), "label": torch.ones(1, 1)}
        >>> with TemporaryDirectory() as folder:
        ...     history = SaveHistory(f"{folder}/history.csv")
        ...     optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        ...     SupervisedTrainer("cpu", 3, [batch], network, optimizer, nn.MSELoss(), train_handlers=[history]).run()
        ...     len(Path(f"{folder}/history.csv").read_text(encoding="utf-8").splitlines())
        4
    """

    def __init__(self, path: str | Path, validator: Engine | None = None) -> None:
        self.path = Path(path)
        self.validator = validator
        self._rows: list[dict[str, str]] = []
        self._sums: dict[str, Tensor | float] = {}
        self._iterations = 0

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer, behind the validation."""
        carry(engine, f"sums of {self.path.name}", self)
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def state_dict(self) -> dict[str, Any]:
        """The sums of the epoch so far."""
        return {"iterations": self._iterations, "sums": self._sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on summing there."""
        self._iterations, self._sums = state["iterations"], dict(state["sums"])

    def _begin(self, engine: Engine) -> None:
        """Take over the rows of a run that this one resumes."""
        self._rows = []
        if rank() == 0:
            remove_leftovers(self.path)
        if engine.state.epoch > 0 and self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= engine.state.epoch]

    def _reset(self) -> None:
        self._sums, self._iterations = {}, 0

    def _collect(self, engine: Engine) -> None:
        output = engine.state.output
        first = output[0] if isinstance(output, list | tuple) else output
        if not isinstance(first, Mapping):
            raise TypeError(f"expected an engine output of dicts, got {type(first).__name__}.")
        self._iterations += 1
        for name, value in first.items():
            if is_loss(name, value):
                value = value.detach().float() if isinstance(value, Tensor) else float(value)
                self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _write(self, engine: Engine) -> None:
        means = self._means(engine)
        if rank() != 0:
            return
        row = {"epoch": str(engine.state.epoch)}
        row |= {name: f"{value:.6g}" for name, value in means.items()}
        if self.validator is not None and self.validator.state.epoch == engine.state.epoch:
            row |= {
                name: f"{float(value):.6g}" for name, value in self.validator.state.metrics.items() if _is_number(value)
            }
        self._rows.append(row)
        columns = list(dict.fromkeys(name for one in self._rows for name in one))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, text.getvalue())

    def _means(self, engine: Engine) -> dict[str, float]:
        """Of this epoch, over the iterations and the processes."""
        means = {name: float(total) / self._iterations for name, total in self._sums.items()}
        if processes() > 1:
            device = engine.state.device  # type: ignore[attr-defined]  # of MONAI's engines
            values = torch.tensor(list(means.values()), dtype=torch.float64, device=device)
            dist.all_reduce(values)
            means = dict(zip(means, (values / processes()).tolist()))
        return means


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) or (isinstance(value, Tensor) and value.ndim == 0)
