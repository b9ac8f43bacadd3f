"""The end of a training whose loss is no number any more."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import Tensor

from monai_kd.handlers._finite_watch import FiniteWatch

__all__ = ["FiniteLossHandler", "NonFiniteLossError"]

LOSS = "loss"  # MONAI's CommonKeys
TASK_LOSS = "task_loss"


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite."""


class FiniteLossHandler:
    """Stops a training whose loss is NaN or infinite, before it reaches a file.

    ``DistillationHandler`` does it for task loss and terms; this one is for trainings without. On the CPU it reaches no
    weight either; on an accelerator it is seen an iteration or two later, behind the last step of the epoch at the
    latest. ``ResumeCheckpoint`` attaches one.

    Raises:
        NonFiniteLossError: while training.

    Example:
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> network = torch.nn.Linear(4, 3)
        >>> batch = {"image": torch.full((2, 4), torch.inf), "label": torch.tensor([0, 2])}
        >>> trainer = SupervisedTrainer("cpu", 1, [batch], network, torch.optim.SGD(network.parameters(), 0.1),
        ...     torch.nn.CrossEntropyLoss(), train_handlers=[FiniteLossHandler()])
        >>> try:
        ...     trainer.run()
        ... except NonFiniteLossError as error:
        ...     print(str(error).partition(".")[0])
        the loss is not finite in epoch 1, iteration 1
    """

    def __init__(self) -> None:
        self._watch = FiniteWatch(refuse_loss)

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._check, wait=False)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._check_last)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check, wait=True)
        engine.add_event_handler(Events.TERMINATE, self._check, wait=True)

    def __call__(self, engine: Engine) -> None:
        """Look at the loss of this iteration."""
        output: Any = engine.state.output
        loss = output[LOSS]
        if isinstance(loss, Tensor):
            self._watch.add({LOSS: loss}, engine.state.epoch, engine.state.iteration)

    def _start(self) -> None:
        self._watch = FiniteWatch(refuse_loss)

    def _check_last(self, engine: Engine) -> None:
        """Behind the last step of an epoch, before a validation writes a best model."""
        length = engine.state.epoch_length
        if length is not None and engine.state.iteration % length == 0:
            self._watch.check(wait=True)

    def _check(self, engine: Engine, wait: bool) -> None:
        self._watch.check(wait)


def refuse_loss(names: list[str], epoch: int, iteration: int) -> NonFiniteLossError:
    """The error of a task loss, or of one whose parts are not known."""
    name = "task loss" if TASK_LOSS in names else "loss"
    return NonFiniteLossError(
        f"the {name} is not finite in epoch {epoch}, iteration {iteration}. Look at the images and labels of that "
        "batch; where they are in order, a lower learning rate, or gradient clipping, is the usual cure."
    )
