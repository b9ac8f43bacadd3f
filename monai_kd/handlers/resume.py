"""A run that was stopped goes on as if it had not been."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines.workflow import Workflow
from monai.handlers.checkpoint_saver import CheckpointSaver
from torch import Tensor, nn

from monai_kd._files import remove_leftovers, save_whole
from monai_kd._processes import rank
from monai_kd.checkpoints import CheckpointError, load_weights
from monai_kd.taps import unwrap

__all__ = ["ResumeCheckpoint"]

_FORMAT = 1
_SCHEDULE_LENGTHS = ("total_steps", "T_max", "total_iters", "t_total")  # of PyTorch's and MONAI's schedulers


class ResumeCheckpoint:
    """Writes at the end of each epoch what a stopped run needs to go on exactly.

    One file holds the objects' ``state_dict``, epoch and iteration of the trainer, its ``GradScaler`` with ``amp``, the
    best metric of trainer and evaluators, and the scores by which each ``CheckpointSaver`` keeps its models, so that a
    worse model does not replace ``model.pt`` after the resume. It is written whole or not at all, by rank 0, and is on
    the disk before the next epoch begins; the one before is kept as ``<name>.previous``. Only tensors and plain values
    are in it: it is read with ``weights_only=True``.

    Attach it after everything else, so that it runs behind validation and schedules; with
    :class:`~monai_kd.handlers.EpochSeedHandler` among the trainer's handlers a resumed run is then bit-identical to an
    uninterrupted one. A handler in ``train#handlers`` cannot name the trainer, so a bundle does it in its lists::

        "initialize": ["$@resume_checkpoint.attach(@train#trainer)"],
        "run": ["$@resume_checkpoint.load(@train#trainer) if @resume else None", "$@train#trainer.run()"]

    Handlers that count (the patience of ``EarlyStopHandler``) start anew, unless they have a ``state_dict`` and are
    among the objects.

    Args:
        path: the file; its folder is made.
        objects: by name, what training changes: network, optimizer, lr_scheduler, distiller, ... Each has
            ``state_dict`` and ``load_state_dict``; wrapped networks are stored without their wrapper, ``None`` is left
            out.
        evaluators: whose best metric is kept.
        handlers: of evaluators or trainer; each ``CheckpointSaver`` with ``save_key_metric`` among them is restored.

    Raises:
        TypeError: an object without ``state_dict``, an evaluator that is not MONAI's; while training, a state that is
            more than tensors and plain values.

    Example:
        >>> import tempfile
        >>> from monai.engines import SupervisedTrainer
        >>> def build(epochs):
        ...     network = nn.Linear(4, 3)
        ...     optimizer = torch.optim.Adam(network.parameters())
        ...     batch = {"image": torch.rand(2, 4), "label": torch.tensor([0, 2])}
        ...     trainer = SupervisedTrainer("cpu", epochs, [batch], network, optimizer, nn.CrossEntropyLoss())
        ...     resume = ResumeCheckpoint(f"{folder}/resume.pt", {"network": network, "optimizer": optimizer})
        ...     resume.attach(trainer)
        ...     return trainer, resume
        >>> folder = tempfile.mkdtemp()
        >>> trainer, _ = build(epochs=2)
        >>> trainer.run()
        >>> trainer, resume = build(epochs=5)
        >>> resume.load(trainer)
        2
        >>> trainer.run()
        >>> trainer.state.epoch, trainer.state.iteration
        (5, 5)
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any],
        evaluators: Sequence[Workflow] = (),
        handlers: Sequence[Any] = (),
    ) -> None:
        self.path = Path(path)
        self.objects = {
            name: unwrap(thing) if isinstance(thing, nn.Module) else thing
            for name, thing in objects.items()
            if thing is not None
        }
        for name, thing in self.objects.items():
            if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
                raise TypeError(
                    f"the object '{name}' is a {type(thing).__name__} without state_dict and load_state_dict; give "
                    "what training changes: network, optimizer, lr_scheduler, distiller."
                )
        for evaluator in evaluators:
            if not isinstance(evaluator, Workflow):
                raise TypeError(f"expected MONAI evaluators, got {type(evaluator).__name__}.")
        self.evaluators = tuple(evaluators)
        self.savers = [h for h in handlers if isinstance(h, CheckpointSaver) and _key_metric(h) is not None]
        self._newest: Path | None = None  # the whole file that this run goes on from
        self._pending: dict[str, Any] | None = None

    @property
    def previous(self) -> Path:
        """Where the file of the epoch before is kept."""
        return self.path.with_name(f"{self.path.name}.previous")

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer, after everything else."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the file."""
        if rank() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            content = self._content(engine)
            # A broken file, or one of another run, must not take the place of a whole one.
            save_whole(self.path, partial(torch.save, content), self.previous if self._newest == self.path else None)
            if self._newest is None:
                self.previous.unlink(missing_ok=True)
        self._newest = self.path

    def _begin(self, engine: Engine) -> None:
        if rank() != 0:
            return
        remove_leftovers(self.path)
        if self._newest is None and self.path.exists():
            engine.logger.warning(
                f"this run starts anew; at the end of its first epoch it replaces '{self.path}', from which a stopped "
                "run could go on. Stop it and resume that one if this is not meant."
            )

    def load(self, trainer: Workflow) -> int:
        """Restore everything from the newest whole file, so that ``trainer.run()`` goes on with the next epoch.

        It goes on to the ``max_epochs`` that the trainer was built with, so that more epochs extend a run. When those
        are done already, ``trainer.run()`` trains no more.

        Args:
            trainer: built as that of the stopped run, like all objects.

        Returns:
            The number of epochs that are done.

        Raises:
            FileNotFoundError: there is nothing to resume.
            CheckpointError: no file is whole, or it belongs to another run; the message says what differs. Objects may
                have been filled before it was found out: build them anew.
        """
        content, path = self._read_newest(trainer)
        self._check(content, path, trainer)
        for name, thing in self.objects.items():
            _fill(thing, content["objects"][name]["state"], name, path)
        for engine, best in zip((trainer, *self.evaluators), content["best"]):
            engine.state.best_metric, engine.state.best_metric_epoch = best
        for saver, state in zip(self.savers, content["savers"]):
            saver.load_state_dict(_present(saver, state, trainer))
        self._resume(trainer, content, path)
        self._newest = path
        return int(content["trainer"]["epoch"])

    def _content(self, engine: Engine) -> dict[str, Any]:
        scaler, state = getattr(engine, "scaler", None), engine.state
        return {
            "format": _FORMAT,
            "trainer": {key: getattr(state, key) for key in ("epoch", "iteration", "epoch_length", "max_epochs")},
            "objects": {
                name: {"type": type(thing).__name__, "state": _plain(thing.state_dict(), name)}
                for name, thing in self.objects.items()
            },
            "scaler": _plain(scaler.state_dict(), "scaler") if scaler is not None else {},
            "best": [
                [_number(e.state.best_metric), e.state.best_metric_epoch]  # type: ignore[attr-defined]
                for e in (engine, *self.evaluators)
            ],
            "savers": [
                {"_saved": [[_number(score), name] for score, name in _key_metric(saver).state_dict()["_saved"]]}
                for saver in self.savers
            ],
        }

    def _read_newest(self, trainer: Workflow) -> tuple[dict[str, Any], Path]:
        if not self.path.exists() and not self.previous.exists():
            raise FileNotFoundError(
                f"nothing to resume: there is no '{self.path}'. Start the training without resuming; the file is "
                "written at the end of each epoch."
            )
        reasons: list[str] = []
        for path in (self.path, self.previous):
            try:
                content = _read(path)
            except CheckpointError as error:
                reasons.append(str(error))
                continue
            if reasons:
                trainer.logger.warning(f"{reasons[0]} Resuming from '{path}', one epoch earlier.")
            return content, path
        raise CheckpointError(" ".join(reasons) + " Start the training without resuming.")

    def _check(self, content: Mapping[str, Any], path: Path, trainer: Workflow) -> None:
        """Everything that can be seen before an object is filled, in one message."""
        held, given = content["objects"], self.objects
        problems = [f"no object '{name}' in the file" for name in given.keys() - held.keys()]
        problems += [f"the file's object '{name}' is not given" for name in held.keys() - given.keys()]
        for name in sorted(held.keys() & given.keys()):
            theirs, ours = held[name]["type"], type(given[name]).__name__
            if theirs != ours:
                problems.append(f"'{name}' is a {theirs} in the file, a {ours} here")
            elif not isinstance(given[name], nn.Module):
                state = given[name].state_dict()
                problems += [
                    f"'{name}' was planned with {key}={held[name]['state'][key]}, here with {state[key]}; a schedule "
                    "of fixed length can be neither extended nor cut"
                    for key in _SCHEDULE_LENGTHS
                    if key in state and held[name]["state"].get(key, state[key]) != state[key]
                ]
        length, ours = content["trainer"]["epoch_length"], trainer.state.epoch_length
        if ours is not None and length != ours:
            problems.append(f"an epoch has {length} iterations in the file, {ours} here")
        for what, count in {"best": 1 + len(self.evaluators), "savers": len(self.savers)}.items():
            if len(content[what]) != count:
                name, own = ("evaluators", 1) if what == "best" else ("CheckpointSavers", 0)
                problems.append(f"{len(content[what]) - own} {name} in the file, {count - own} here")
        if problems:
            raise CheckpointError(
                f"'{path}' belongs to another run: {'; '.join(sorted(problems))}. Resume with the configuration and "
                "the data of the run that wrote it."
            )

    def _resume(self, trainer: Workflow, content: Mapping[str, Any], path: Path) -> None:
        done, until = content["trainer"]["epoch"], trainer.state.max_epochs
        self._pending = {
            "epoch": min(done, until),
            "iteration": content["trainer"]["iteration"],
            "scaler": content["scaler"],
        }
        trainer.state.epoch, trainer.state.iteration = self._pending["epoch"], self._pending["iteration"]
        trainer.state.epoch_length = content["trainer"]["epoch_length"]
        if not trainer.has_event_handler(self._start, Events.STARTED):
            trainer.add_event_handler(Events.STARTED, self._start)
        if done < until:
            trainer.logger.info(f"resumed from '{path}' after epoch {done}: going on with epoch {done + 1} of {until}.")
        else:
            trainer.logger.warning(
                f"'{path}' is of epoch {done}: the run of {until} is complete, nothing is left to train."
            )

    def _start(self, engine: Engine) -> None:
        """What the trainer's ``run`` has just set anew: the scaler, and the epoch when all of them are done."""
        if self._pending is None:
            return
        engine.state.epoch, engine.state.iteration = self._pending["epoch"], self._pending["iteration"]
        scaler = getattr(engine, "scaler", None)
        if self._pending["scaler"] and scaler is not None and scaler.is_enabled():
            scaler.load_state_dict(self._pending["scaler"])
        self._pending = None


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load takes altered tensors without a word
        if damaged is not None:
            raise CheckpointError(f"'{path}' is not whole (the checksum of its '{damaged}' is wrong).")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"'{path}' is missing.") from None
    except Exception as error:  # a broken file fails in many ways: RuntimeError, UnpicklingError, EOFError, ...
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"'{path}' is not whole ({reason[:200]}).") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"'{path}' was not written by this version's ResumeCheckpoint.")
    return content


def _fill(thing: Any, state: dict[str, Any], name: str, path: Path) -> None:
    try:
        if not isinstance(thing, nn.Module):
            thing.load_state_dict(state)
        elif state or thing.state_dict():
            # The prefix is what load_weights drops; a network's own layer of that name stays.
            load_weights(thing, {f"module.{key}": value for key, value in state.items()})
    except (ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"the object '{name}' differs from that of '{path}': {error}") from error


def _present(saver: CheckpointSaver, state: Mapping[str, Any], trainer: Workflow) -> dict[str, Any]:
    """The scores of the models that are still there: a run may stop between a best model's removal and the next."""
    disk = _key_metric(saver).save_handler
    kept = []
    for score, name in state["_saved"]:
        file = Path(disk.dirname) / (getattr(disk, "filename", None) or name)
        if file.is_file():
            kept.append((score, name))
        else:
            trainer.logger.warning(f"the best model '{file}' is missing; the next validation writes one.")
    return {"_saved": kept}


def _key_metric(saver: CheckpointSaver) -> Any:
    """ignite's ``Checkpoint`` of the best models; MONAI lets its state be loaded, but not read."""
    return saver._key_metric_checkpoint


def _plain(value: Any, where: str) -> Any:
    """The same in types that ``weights_only=True`` reads."""
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor)
    if isinstance(value, np.generic):
        return value.item()
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, Mapping):
        plain = {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
        return Counter(plain) if isinstance(value, Counter) else plain
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{where}.{i}") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(
        f"'{where}' is a {type(value).__name__}; only tensors, numbers, text, lists and dicts can be stored. Give an "
        "object whose state_dict holds no more than these."
    )


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor | np.generic) else value
