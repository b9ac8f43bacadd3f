"""The one handler that makes an unmodified MONAI trainer distil."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.apps.utils import get_logger
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from monai_kd._processes import processes
from monai_kd._signals import leave_stops_to_the_training
from monai_kd.distiller import IMAGE, Distiller
from monai_kd.handlers._finite_watch import FiniteWatch
from monai_kd.handlers._half_epochs import ResumeEvents
from monai_kd.handlers.finite_loss import TASK_LOSS, NonFiniteLossError, refuse_loss
from monai_kd.labelled import HAS_LABEL
from monai_kd.taps import FeatureTaps, unwrap
from monai_kd.teachers import OUTPUT

__all__ = ["DistillationHandler", "NonFiniteTermError"]

LABEL, PRED, LOSS = "label", "pred", "loss"  # MONAI's CommonKeys


class NonFiniteTermError(NonFiniteLossError):
    """A distillation term became NaN or infinite."""


class DistillationHandler:
    """Adds the distiller's weighted terms to the trainer's loss before the backward pass.

    Works on a plain ``SupervisedTrainer``, with ``amp``, ``accumulation_steps``, ``compile`` and
    ``DistributedDataParallel``. Each unweighted term is kept in ``engine.state.output`` under its name, the task loss
    under "task_loss", for ``StatsHandler(output_transform=log_terms)`` and the like. On the first batch one line a term
    says its value, weight and gradient norm. A term or task loss that is not finite stops the run.

    Args:
        distiller: a ``Distiller``, or one wrapped in ``DistributedDataParallel``.
        task_weight: factor of the trainer's own loss.
        unlabelled_loader: a second loader whose images count in the distillation terms only, one batch a step. Each
            epoch begins it anew, so let it shuffle; where it ends it begins again. Terms are then averaged over the
            images of both batches.
        name: logger of the scale lines; the engine's own if ``None``.

    Raises:
        TypeError: not a distiller, or an engine without MONAI's ``IterationEvents``.
        NonFiniteTermError: while training, naming the term.
        NonFiniteLossError: while training, of the task loss.

    Example:
        >>> from monai.engines import SupervisedTrainer
        >>> from monai_kd import DistillationTerm, Distiller, FrozenTeacher
        >>> from monai_kd.losses import SoftTargetLoss
        >>> student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> distiller = Distiller(student, FrozenTeacher(teacher), [DistillationTerm("soft_target", SoftTargetLoss())])
        >>> batch = {"image": torch.rand(2, 4), "label": torch.tensor([0, 2])}
        >>> trainer = SupervisedTrainer("cpu", 1, [batch], student, torch.optim.SGD(student.parameters(), 0.1),
        ...     nn.CrossEntropyLoss(), train_handlers=[DistillationHandler(distiller)])
        >>> trainer.run()
    """

    def __init__(
        self,
        distiller: nn.Module,
        task_weight: float = 1.0,
        unlabelled_loader: Iterable[Any] | None = None,
        name: str | None = None,
    ) -> None:
        if not isinstance(unwrap(distiller), Distiller):
            raise TypeError(f"expected a Distiller, got {type(unwrap(distiller)).__name__}.")
        if not task_weight >= 0:
            raise ValueError(f"task_weight must not be negative, got {task_weight}.")
        self.module = distiller
        self.task_weight = task_weight
        self.unlabelled_loader = unlabelled_loader
        self.logger = logging.getLogger(name) if name is not None else None
        self._taps: FeatureTaps | None = None
        self._unlabelled: Iterator[Any] | None = None
        self._watch = FiniteWatch(_refuse)
        self._first = True

    @property
    def distiller(self) -> Distiller:
        """The distiller itself, without its wrapper."""
        return unwrap(self.module)  # type: ignore[return-value]

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        try:
            engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)
        except ValueError:
            raise TypeError(
                f"this {type(engine).__name__} does not know IterationEvents.LOSS_COMPLETED; attach to "
                "monai.engines.SupervisedTrainer, or register that event and fire it between the loss and its backward "
                "pass."
            ) from None
        leave_stops_to_the_training(self.unlabelled_loader)
        engine.register_events(*ResumeEvents)
        engine.add_event_handler(ResumeEvents.STEP_SKIPPED, self._skip)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin_unlabelled)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._record)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED(once=1), self._check_updated)
        engine.add_event_handler(Events.COMPLETED | Events.TERMINATE, self._stop)

    def __call__(self, engine: Engine) -> None:
        """Replace the trainer's loss by the weighted sum of task loss and terms."""
        output = _output(engine)
        losses = self.module(self._student(output[PRED]), self._batch(engine))
        if self._unlabelled is not None:
            losses = self._average_with_unlabelled(engine, losses)
        task = output[LOSS].as_subclass(Tensor)
        if self._first:
            self._log_scales(engine, task, losses)
            self._first = False
        self._watch.add({TASK_LOSS: task, **losses}, engine.state.epoch, engine.state.iteration)
        output[LOSS] = task * self.task_weight + self.distiller.total(losses, engine.state.epoch).to(task.device)
        output[TASK_LOSS] = task.detach()
        output.update({name: value.detach() for name, value in losses.items()})

    def _skip(self) -> None:
        """Of a step that another run has done; its images are taken from the loader all the same."""
        if self._unlabelled is not None:
            next(self._unlabelled)

    def _start(self, engine: Engine) -> None:
        self.module.to(_device(engine))
        self.module.train()
        if (
            isinstance(self.module, Distiller)
            and processes() > 1
            and any(p.requires_grad for p in self.module.parameters())
        ):
            raise ValueError(
                "the distiller has learnable adapters and several processes run: wrap it in DistributedDataParallel, "
                "or each process trains adapters of its own."
            )
        _check_optimised(engine, self.distiller)
        self._first = True
        self._watch = FiniteWatch(_refuse)
        if self._taps is not None:  # of a run that an error ended
            self._taps.close()
        self._taps = FeatureTaps(engine.network, self.distiller.student_taps)  # type: ignore[attr-defined]

    def _begin_unlabelled(self, engine: Engine) -> None:
        """Each epoch draws from the start, so that a resumed run draws what an uninterrupted one does."""
        if self.unlabelled_loader is not None:
            self._unlabelled = _endless(self.unlabelled_loader, engine.state.epoch)

    def _record(self, engine: Engine) -> None:
        """Hooks live from the batch to its loss, so that validation and copies of the network never meet them."""
        self._check_finite(engine)
        if self._taps is not None:
            self._taps.clear()
            self._taps.open()

    def _stop(self, engine: Engine) -> None:
        if self._taps is not None:
            self._taps.close()
        self._unlabelled = None
        self._watch.check(wait=True)

    def _check_finite(self, engine: Engine) -> None:
        self._watch.check(wait=False)

    def _check_epoch(self, engine: Engine) -> None:
        """Before the epoch is validated and stored."""
        self._watch.check(wait=True)

    def _check_updated(self, engine: Engine) -> None:
        for name, teacher in self.distiller.teachers.items():
            if getattr(teacher, "updates", 1) == 0:
                _visible(self.logger or engine.logger).warning(
                    f"the mean teacher '{name}' still has the student's first weights after an epoch: give the trainer "
                    "an EMAUpdateHandler."
                )

    def _student(self, prediction: Any) -> dict[str, Any]:
        if self._taps is None:
            raise RuntimeError("the handler was called before the trainer started; attach it before trainer.run().")
        features = self._taps.outputs()
        self._taps.close()
        return {OUTPUT: prediction, **features}

    def _batch(self, engine: Engine) -> dict[str, Any]:
        """What terms and teachers read, on the trainer's device; the flags stay where the loader left them."""
        output, raw = _output(engine), engine.state.batch
        batch: dict[str, Any] = dict(raw) if isinstance(raw, Mapping) else {}
        batch |= {IMAGE: output[IMAGE], LABEL: output[LABEL]}
        moved = _take(batch, self.distiller.batch_keys(), _device(engine))
        if HAS_LABEL in batch:  # as a list, which DistributedDataParallel does not move to the device either
            moved[HAS_LABEL] = torch.as_tensor(batch[HAS_LABEL]).reshape(-1).tolist()
        return moved

    def _average_with_unlabelled(self, engine: Engine, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self._unlabelled is not None  # noqa: S101
        assert self._taps is not None  # noqa: S101
        raw = next(self._unlabelled)
        items = dict(raw) if isinstance(raw, Mapping) else {IMAGE: raw}
        batch = _take(items, self.distiller.batch_keys(labelled=False), _device(engine))
        count, ours = len(batch[IMAGE]), len(_output(engine)[IMAGE])
        batch[HAS_LABEL] = [False] * count
        with self._taps.open():
            # The bare network: a wrapper's second forward would broadcast batch statistics under the first one's graph.
            prediction = engine.inferer(batch[IMAGE], unwrap(engine.network))  # type: ignore[attr-defined]
            student = self._student(prediction)
        theirs = self.module(student, batch)
        return {
            name: value
            if self.distiller.terms[name].needs_label
            else (value * ours + theirs[name] * count) / (ours + count)
            for name, value in losses.items()
        }

    def _log_scales(self, engine: Engine, task: Tensor, losses: Mapping[str, Tensor]) -> None:
        """One line a term: a wrong weight shows at once. The extra backward passes are of the first batch only."""
        logger = _visible(self.logger or engine.logger)
        parameters = [p for p in unwrap(engine.network).parameters() if p.requires_grad]  # type: ignore[attr-defined]
        weights = self.distiller.weights(engine.state.epoch)
        for name, value, weight in [
            ("task_loss", task, self.task_weight),
            *((name, value, weights[name]) for name, value in losses.items()),
        ]:
            logger.info(
                f"first batch: {name} {float(value.detach()):.4g}, weight {weight:.4g}, "
                f"weighted gradient norm at the student {_gradient_norm(value, parameters, weight)}"
            )


def _refuse(names: list[str], epoch: int, iteration: int) -> NonFiniteLossError:
    if names == [TASK_LOSS]:
        return refuse_loss(names, epoch, iteration)
    terms = ", ".join(repr(name) for name in names if name != TASK_LOSS)
    are = "and the task loss are" if TASK_LOSS in names else "is"
    return NonFiniteTermError(
        f"distillation term {terms} {are} not finite in epoch {epoch}, iteration {iteration}. Look at the images and "
        "the outputs of teacher and student of that batch; a lower weight or learning rate, or gradient clipping, is "
        "the usual cure."
    )


def _visible(logger: logging.Logger) -> logging.Logger:
    """``logger``, or MONAI's own way to the screen where nobody has set up logging, as ``StatsHandler`` does it."""
    shown = logger.isEnabledFor(logging.INFO) and logger.hasHandlers()
    return logger if shown else get_logger("monai_kd.DistillationHandler")


def _gradient_norm(value: Tensor, parameters: list[nn.Parameter], weight: float) -> str:
    if not value.requires_grad:
        return "0 (no gradient)"
    try:
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    except RuntimeError as error:  # a compiled graph may have given its buffers away
        return f"unknown ({str(error).splitlines()[0][:80]})"
    norms = [gradient.detach().float().norm() for gradient in gradients if gradient is not None]
    return f"{weight * float(torch.stack(norms).norm()) if norms else 0.0:.4g}"


def _check_optimised(engine: Engine, distiller: Distiller) -> None:
    optimised = {id(p) for group in engine.optimizer.param_groups for p in group["params"]}  # type: ignore[attr-defined]
    forgotten = [name for name, p in distiller.named_parameters() if p.requires_grad and id(p) not in optimised]
    if forgotten:
        raise ValueError(
            f"{len(forgotten)} parameters of the distiller are not in the optimizer ({forgotten[0]}, ...): give it "
            "list(network.parameters()) + list(distiller.parameters())."
        )


def _endless(loader: Iterable[Any], epoch: int) -> Iterator[Any]:
    sampler = getattr(loader, "sampler", None)
    while True:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)  # type: ignore[union-attr]
        count = 0
        for batch in loader:
            count += 1
            yield batch
        if count == 0:
            raise ValueError("the loader of unlabelled images is empty.")
        epoch += 1


def _take(batch: Mapping[str, Any], keys: set[str], device: torch.device) -> dict[str, Any]:
    """Those entries of a batch, as plain tensors on ``device``."""
    missing = sorted(key for key in keys if key not in batch)
    if missing:
        raise KeyError(f"distillation needs the batch keys {missing}; the batch has {sorted(map(str, batch))}.")
    values = {key: batch[key] for key in keys}
    return {
        key: value.as_subclass(Tensor).to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for key, value in values.items()
    }


def _output(engine: Engine) -> dict[str, Any]:
    return engine.state.output  # type: ignore[return-value]


def _device(engine: Engine) -> torch.device:
    return engine.state.device  # type: ignore[attr-defined]
