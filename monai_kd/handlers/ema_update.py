"""The step of a mean teacher."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from ignite.engine import Engine, Events
from torch.optim import Optimizer

from monai_kd._processes import processes
from monai_kd.teachers import EMATeacher

__all__ = ["EMAUpdateHandler"]


class EMAUpdateHandler:
    """Updates a mean teacher after each step of the trainer's optimiser.

    An iteration that only accumulates gradients, or whose step a ``GradScaler`` skipped, updates nothing. In several
    processes the teacher's batch statistics become those of the first one at the end of each epoch, so that all
    validate the teacher that is kept: put it before the ``ValidationHandler``.

    Args:
        teacher: the mean teacher of the trainer's network.

    Raises:
        TypeError: not an ``EMATeacher``.

    Example:
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> student = torch.nn.Linear(4, 3)
        >>> teacher = EMATeacher(student)
        >>> batch = {"image": torch.rand(2, 4), "label": torch.tensor([0, 2])}
        >>> SupervisedTrainer("cpu", 1, [batch], student, torch.optim.SGD(student.parameters(), 0.1),
        ...     torch.nn.CrossEntropyLoss(), train_handlers=[EMAUpdateHandler(teacher)]).run()
        >>> teacher.updates, torch.equal(teacher.network.weight, student.weight)
        (1, True)
    """

    def __init__(self, teacher: EMATeacher) -> None:
        if not isinstance(teacher, EMATeacher):
            raise TypeError(f"expected an EMATeacher, got {type(teacher).__name__}.")
        self.teacher = teacher
        self._hook: Any = None

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._agree)
        engine.add_event_handler(Events.COMPLETED | Events.TERMINATE, self._stop)

    def _start(self, engine: Engine) -> None:
        self._stop(engine)  # the hook of a run that an error ended
        self.teacher.to(engine.state.device)  # type: ignore[attr-defined]
        optimizer, network = engine.optimizer, engine.network  # type: ignore[attr-defined]

        def update(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            skipped = getattr(optimizer, "found_inf", None)  # of a fused optimiser, which skips within its step
            if skipped is None or not skipped.item():
                self.teacher.update(network)

        self._hook = optimizer.register_step_post_hook(update)

    def _agree(self, engine: Engine) -> None:
        """Each process has seen images of its own; the weights are the same in all."""
        if processes() > 1:
            for buffer in self.teacher.network.buffers():
                dist.broadcast(buffer, 0)

    def _stop(self, engine: Engine) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
