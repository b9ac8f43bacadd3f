"""The task loss of a batch with unlabelled items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from monai_kd._processes import alone, processes, share
from monai_kd.labelled import HAS_LABEL, labelled_items, select_items

__all__ = ["LabelledItemsHandler"]


class LabelledItemsHandler:
    """Makes a trainer's task loss, any MONAI loss, count the labelled items of a batch only.

    Attach it to an unmodified ``SupervisedTrainer`` whose batches hold booleans (B,) under ``has_label_key``
    (``monai_kd.data.FillMissingLabeld`` writes them). Without that key, or when all items are labelled, nothing
    changes. A batch without any label has a task loss of 0. In several processes, each one's loss is weighted by its
    share of labelled items, so that the average over processes is the loss of the global batch where that is a mean
    over items (a Dice over the whole batch is none, nor a mean by class weights).

    Args:
        has_label_key: batch key of the booleans.

    Example:
        >>> from monai.engines import SupervisedTrainer
        >>> net = torch.nn.Linear(2, 1)
        >>> batch = {"image": torch.zeros(2, 2), "label": torch.ones(2, 1), "has_label": torch.tensor([True, False])}
        >>> trainer = SupervisedTrainer("cpu", 1, [batch], net, torch.optim.SGD(net.parameters(), 0.1),
        ...     torch.nn.MSELoss(), train_handlers=[LabelledItemsHandler()])
        >>> trainer.run()
    """

    def __init__(self, has_label_key: str = HAS_LABEL) -> None:
        self.has_label_key = has_label_key
        self._flags: Any = None

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self._wrap_loss)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._read_flags)

    def _wrap_loss(self, engine: Engine) -> None:
        # MONAI sets the loss after it attaches its handlers, so it is reached when the run starts.
        if not isinstance(engine.loss_function, _LabelledLoss):  # type: ignore[attr-defined]
            engine.loss_function = _LabelledLoss(engine.loss_function, self)  # type: ignore[attr-defined]

    def _read_flags(self, engine: Engine) -> None:
        batch = engine.state.batch
        self._flags = batch.get(self.has_label_key) if isinstance(batch, dict) else None


class _LabelledLoss:
    """The user's loss over the items that the handler's flags name."""

    def __init__(self, loss: Callable[[Any, Any], Tensor], handler: LabelledItemsHandler) -> None:
        self.loss = loss
        self.handler = handler

    def __call__(self, prediction: Any, target: Any) -> Tensor:
        flags = self.handler._flags
        if flags is None:
            return self.loss(prediction, target)
        device = _first_tensor(prediction).device
        index = labelled_items(flags, device)
        with alone():  # a process without labelled items does not come to the loss
            if index is None:
                value = self.loss(prediction, target)
                count = len(flags)
            elif index.numel() == 0:
                # Connected to every output, so that each process of several still reaches all gradients.
                value, count = _connected_zero(prediction), 0
            else:
                value, count = self.loss(select_items(prediction, index), select_items(target, index)), index.numel()
        return value * share(torch.full((), float(count), device=device)) if processes() > 1 else value


def _connected_zero(prediction: Any) -> Tensor:
    if isinstance(prediction, Tensor):
        return prediction.as_subclass(Tensor).float().sum() * 0.0
    return torch.stack([_connected_zero(item) for item in prediction]).sum()


def _first_tensor(prediction: Any) -> Tensor:
    return prediction if isinstance(prediction, Tensor) else _first_tensor(prediction[0])
