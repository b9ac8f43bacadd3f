"""A run that was stopped goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.workflow import Workflow
from monai.handlers.checkpoint_saver import CheckpointSaver
from torch import nn

from monai_kd._files import remove_leftovers, save_whole
from monai_kd._processes import first_ones, processes, rank
from monai_kd._side_group import SideGroup
from monai_kd._signals import StopSignals, exit_status, leave_stops_to_the_training
from monai_kd._torch_files import damaged_part
from monai_kd.checkpoints import CheckpointError, load_weights
from monai_kd.handlers._half_epochs import RANDOM_STATES, carried, set_steps_done
from monai_kd.handlers._resume_file import FORMAT, job, number, packed, plain, read, restarts, unpacked
from monai_kd.handlers._whole_models import WholeModels, best_models, write_whole_models
from monai_kd.handlers.finite_loss import FiniteLossHandler, NonFiniteLossError
from monai_kd.taps import unwrap

__all__ = ["ResumeCheckpoint"]

_SCHEDULE_LENGTHS = ("total_steps", "T_max", "total_iters", "t_total")  # of PyTorch's and MONAI's schedulers


class ResumeCheckpoint:
    """Writes what a stopped run needs to go on exactly: at the end of each epoch, and where it is stopped.

    One file holds the objects' ``state_dict``, epoch and iteration of the trainer, its ``GradScaler`` with ``amp``, the
    best metric of trainer and evaluators, and the scores by which each ``CheckpointSaver`` keeps its models, so that a
    worse model does not replace ``model.pt`` after the resume. It is written whole or not at all, by rank 0, and is on
    the disk before the next epoch begins; the one of the epoch before is kept as ``<name>.previous``. The best models
    are written whole as well. Only tensors and plain values are in the file: it is read with ``weights_only=True``.

    Ctrl-C and SIGTERM end :meth:`run` after the step in progress, in all processes after the same one. The state within
    the epoch is then stored, with the random states of each process, and the program ends with exit status 130 or 143.
    During a validation its end is waited for; without an
    ``EpochSeedHandler``, the end of the epoch. A second signal, a second or more after the first, ends it at once.

    Attach it after everything else, so that it runs behind validation and schedules; with
    :class:`~monai_kd.handlers.EpochSeedHandler` among the trainer's handlers a resumed run is then bit-identical to an
    uninterrupted one. A handler in ``train#handlers`` cannot name the trainer, so a bundle does it in its lists::

        "initialize": ["$@resume_checkpoint.attach(@train#trainer)"],
        "run": [
            "$@resume_checkpoint.begin(@train#trainer, str(@resume).lower())",
            "$@resume_checkpoint.run(@train#trainer)"
        ]

    Handlers that count (the patience of ``EarlyStopHandler``) start anew, unless they have a ``state_dict`` and are
    among the objects. A loss or a parameter that is not finite ends the run before it is stored.

    Args:
        path: the file; its folder is made.
        objects: by name, what training changes: network, optimizer, lr_scheduler, distiller, ... Each has
            ``state_dict`` and ``load_state_dict``; wrapped networks are stored without their wrapper, ``None`` is left
            out.
        evaluators: whose best metric is kept.
        handlers: of evaluators or trainer; each ``CheckpointSaver`` with ``save_key_metric`` among them is restored.
        settings: plain values by their names, which the run that goes on must have too, such as those of
            :func:`monai_kd.settings.run_settings`.

    Raises:
        TypeError: an object without ``state_dict``, an evaluator that is not MONAI's; while training, a state that is
            more than tensors and plain values.
        NonFiniteLossError: while training.

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
        >>> trainer, resume = build(epochs=2)
        >>> resume.begin(trainer, "auto")
        0
        >>> resume.run(trainer)
        >>> trainer, resume = build(epochs=5)
        >>> resume.begin(trainer, "auto")
        2
        >>> resume.run(trainer)
        >>> trainer.state.epoch, trainer.state.iteration
        (5, 5)
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any],
        evaluators: Sequence[Workflow] = (),
        handlers: Sequence[Any] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.settings = plain(settings or {}, "settings")
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
        self.savers = [h for h in handlers if isinstance(h, CheckpointSaver) and best_models(h) is not None]
        self._models = [write_whole_models(saver) for saver in self.savers]
        self._newest: Path | None = None  # the whole file that this run goes on from
        self._within: int | None = None  # how many steps of an epoch that file holds beside whole epochs
        self._holds = ""  # the same in words
        self._pending: dict[str, Any] | None = None
        self._signals: StopSignals | None = None  # while it runs
        self._group: SideGroup | None = None
        self._stopping = 0  # the signal that all processes stop for
        self._ended = False

    @property
    def previous(self) -> Path:
        """Where the file of the epoch before is kept."""
        return self.path.with_name(f"{self.path.name}.previous")

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer, after everything else."""
        FiniteLossHandler().attach(engine)
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop_within)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.TERMINATE, self._store_within)

    def begin(self, trainer: Workflow, resume: str = "false") -> int:
        """Go on with a stopped run, or begin one.

        Args:
            trainer: built as that of the stopped run, like all objects.
            resume: "true" goes on with it, "false" begins anew, "auto" goes on where there is something to go on with,
                so that a job that is put back into a queue needs no other command. Processes that torchrun has
                restarted (``--max-restarts``) go on with what their own job has stored, whatever is said here.

        Returns:
            The number of epochs that are done.

        Raises:
            ValueError: another word.
            FileNotFoundError, CheckpointError: as :meth:`load`.
        """
        word = str(resume).lower()
        if word not in ("true", "false", "auto"):
            raise ValueError(
                f"resume must be 'true' (go on with the stopped run), 'false' (begin anew) or 'auto' (go on if there "
                f"is one), got {resume!r}."
            )
        restarted = restarts() > 0
        if word == "true" or first_ones(rank() == 0 and self._goes_on(word, trainer, restarted)):
            return self.load(trainer)
        return 0

    def run(self, trainer: Workflow) -> None:
        """Train to the end, or until Ctrl-C or SIGTERM.

        Args:
            trainer: to which this is attached.

        Raises:
            SystemExit: it was stopped and its state is stored; with exit status 130 or 143.
        """
        for loader in (trainer.data_loader, *(evaluator.data_loader for evaluator in self.evaluators)):
            leave_stops_to_the_training(loader)
        self._stopping, self._ended, self._group = 0, False, SideGroup()
        said = "stopping after this step, or after the validation; the same again stops at once"
        with StopSignals(said) as self._signals:
            try:
                trainer.run()
                self._group.meet()  # nobody leaves while the first one writes
                self._group.close()
            except BaseException:
                self._say(trainer, f"the training ended {_place(trainer)}. {self._advice()}")
                raise
            finally:
                self._signals = self._group = None
        if self._ended:
            self._say(trainer, f"stopped {_place(trainer, whole=True)}. {self._advice()}")
            raise SystemExit(exit_status(self._stopping))

    def __call__(self, engine: Engine) -> None:
        """Write the file at the end of an epoch."""
        self._save(engine)
        if self._asked(wait=True) and engine.state.epoch < (engine.state.max_epochs or 0):
            self._end(engine)

    def _stop_within(self, engine: Engine) -> None:
        """After a step: end the run if a signal has come, unless the epoch ends anyway."""
        done, length = _steps(engine), engine.state.epoch_length
        accumulated = getattr(engine, "accumulation_steps", 1)
        if done == length:
            self._check_finite(engine)  # before the validation, and the best model that it may write
        goes_on = RANDOM_STATES in carried(engine)  # if not, the rest of the epoch would be other data
        if self._asked(wait=False) and goes_on and length is not None and done < length and done % accumulated == 0:
            self._end(engine)

    def _end(self, engine: Engine) -> None:
        self._ended = True
        # What engine.terminate(skip_completed=True) does, which ignite has had since 0.5.2.
        engine.should_terminate = "skip_completed"

    def _store_within(self, engine: Engine) -> None:
        """Behind what other handlers do when a run ends."""
        done = _steps(engine)
        if self._ended and self._group is not None and done < (engine.state.epoch_length or 0):
            states = {name: plain(thing.state_dict(), name) for name, thing in carried(engine).items()}
            self._save(engine, {"steps": done, "states": list(map(unpacked, self._group.gathered(packed(states))))})

    def _asked(self, wait: bool) -> int:
        """The signal that one of the processes has got, the same in all."""
        if self._signals is None or self._group is None:
            return 0
        if not self._stopping:
            ask = self._group.largest if wait else self._group.largest_before
            self._stopping = ask(self._signals.number)
        return self._stopping

    def _save(self, engine: Engine, within: dict[str, Any] | None = None) -> None:
        if rank() == 0:
            self._check_finite(engine)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            content = self._content(engine, within)
            # The one before is the end of an epoch. A broken file, or another run's, must not take a whole one's place.
            keeps = self._newest == self.path and self._within is None
            save_whole(self.path, partial(torch.save, content), self.previous if keeps else None)
            if self._newest is None:
                self.previous.unlink(missing_ok=True)
        self._newest, self._within = self.path, None if within is None else within["steps"]
        self._holds = _held(engine.state.epoch - (within is not None), self._within)

    def _begin(self, engine: Engine) -> None:
        if rank() != 0:
            return
        for path in (self.path, *(models.file("") for models in self._models if models.filename)):
            remove_leftovers(path)
        if self._newest is None and self.path.exists():
            engine.logger.warning(
                f"this run starts anew; at the end of its first epoch it replaces '{self.path}', from which a stopped "
                "run could go on. Stop it and resume that one if this is not meant."
            )

    def _goes_on(self, word: str, trainer: Workflow, restarted: bool) -> bool:
        if not self.path.exists() and not self.previous.exists():
            return False
        if word == "auto":
            return True
        if not restarted or job() is None:
            return False
        try:
            return self._read_newest(trainer)[0]["job"] == job()
        except CheckpointError:
            return False

    def _advice(self) -> str:
        if self._newest is None:
            return "Nothing of this run is stored yet: start again with the same command."
        return f"'{self._newest}' holds {self._holds}: continue with the same command and --resume true."

    def _say(self, trainer: Workflow, line: str) -> None:
        if rank() == 0:
            trainer.logger.warning(line)

    def _check_finite(self, engine: Engine) -> None:
        trained = {
            f"'{parameter}' of the object '{name}'": value
            for name, thing in self.objects.items()
            for parameter, value in (thing.named_parameters() if isinstance(thing, nn.Module) else ())
            if value.requires_grad  # a constant may be infinite, such as a mask of attention
        }
        finite = [value.isfinite().all() for value in trained.values()]
        flags = torch.stack([flag.to(finite[0].device) for flag in finite]).tolist() if finite else []
        if bad := [which for which, fine in zip(trained, flags) if not fine]:
            raise NonFiniteLossError(
                f"{bad[0]} is not finite {_place(engine)}, and is not stored. A lower learning rate, or gradient "
                "clipping, is the usual cure."
            )

    def load(self, trainer: Workflow) -> int:
        """Restore everything from the newest whole file, so that :meth:`run` goes on with the next step.

        It goes on to the ``max_epochs`` that the trainer was built with, so that more epochs extend a run. When those
        are done already, it trains no more.

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
        for saver, models, state in zip(self.savers, self._models, content["savers"]):
            saver.load_state_dict(_present(models, state, trainer))
        within = content["within"]
        self._newest, self._within = path, None if within is None else within["steps"]
        self._holds = _held(content["trainer"]["epoch"], self._within)
        self._resume(trainer, content)
        return int(content["trainer"]["epoch"])

    def _content(self, engine: Engine, within: dict[str, Any] | None) -> dict[str, Any]:
        scaler, state = getattr(engine, "scaler", None), engine.state
        return {
            "format": FORMAT,
            "job": job(),
            "settings": self.settings,
            "trainer": {
                "epoch": state.epoch - (within is not None),
                **{key: getattr(state, key) for key in ("iteration", "epoch_length", "max_epochs")},
            },
            "within": within,
            "objects": {
                name: {"type": type(thing).__name__, "state": plain(thing.state_dict(), name)}
                for name, thing in self.objects.items()
            },
            "scaler": plain(scaler.state_dict(), "scaler") if scaler is not None else {},
            "best": [
                [number(e.state.best_metric), e.state.best_metric_epoch]  # type: ignore[attr-defined]
                for e in (engine, *self.evaluators)
            ],
            "savers": [
                {"_saved": [[number(score), name] for score, name in best_models(saver).state_dict()["_saved"]]}
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
                content = read(path)
            except CheckpointError as error:
                reasons.append(str(error))
                continue
            if reasons:
                trainer.logger.warning(f"{reasons[0]} Resuming from '{path}', the end of an epoch before.")
            return content, path
        raise CheckpointError(" ".join(reasons) + " Start the training without resuming.")

    def _check(self, content: Mapping[str, Any], path: Path, trainer: Workflow) -> None:
        """Everything that can be seen before an object is filled, in one message."""
        held, given = content["settings"], self.settings
        problems = [
            f"'{name}' was {held.get(name, 'not there')}, here it is {given.get(name, 'not there')}"
            for name in held.keys() | given.keys()
            if name not in held or name not in given or held[name] != given[name]
        ]
        held, given = content["objects"], self.objects
        problems += [f"no object '{name}' in the file" for name in given.keys() - held.keys()]
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
        if content["within"] is not None:
            problems += self._problems_within(content["within"]["states"], trainer)
        for what, count in {"best": 1 + len(self.evaluators), "savers": len(self.savers)}.items():
            if len(content[what]) != count:
                name, own = ("evaluators", 1) if what == "best" else ("CheckpointSavers", 0)
                problems.append(f"{len(content[what]) - own} {name} in the file, {count - own} here")
        if problems:
            raise CheckpointError(
                f"'{path}' belongs to another run: {'; '.join(sorted(problems))}. Resume with the configuration and "
                "the data of the run that wrote it."
            )

    def _problems_within(self, states: Sequence[Mapping[str, Any]], trainer: Workflow) -> list[str]:
        if len(states) != processes():
            return [f"it was written within an epoch by {len(states)} processes, {processes()} are here"]
        held, given = states[rank()].keys(), carried(trainer).keys()
        problems = [f"it was written within an epoch without the {name}" for name in given - held]
        problems += [
            f"it was written within an epoch with the {name}, which no handler has here" for name in held - given
        ]
        return problems

    def _resume(self, trainer: Workflow, content: Mapping[str, Any]) -> None:
        done, until, within = content["trainer"]["epoch"], trainer.state.max_epochs, content["within"]
        self._pending = {
            "epoch": min(done, until),
            "iteration": content["trainer"]["iteration"],
            "scaler": content["scaler"],
            "within": within if done < until else None,
        }
        trainer.state.epoch, trainer.state.iteration = self._pending["epoch"], self._pending["iteration"]
        trainer.state.epoch_length = content["trainer"]["epoch_length"]
        if not trainer.has_event_handler(self._start, Events.STARTED):
            trainer.add_event_handler(Events.STARTED, self._start)
            trainer.add_event_handler(Events.GET_BATCH_STARTED, self._go_on)
        if done < until:
            trainer.logger.info(
                f"resumed from '{self._newest}', which holds {self._holds}: going on with epoch {done + 1} of {until}."
            )
        else:
            trainer.logger.warning(
                f"'{self._newest}' is of epoch {done}: the run of {until} is complete, nothing is left to train."
            )

    def _start(self, engine: Engine) -> None:
        """What the trainer's ``run`` has just set anew: the scaler, and the epoch when all of them are done."""
        if self._pending is None:
            return
        engine.state.epoch, engine.state.iteration = self._pending["epoch"], self._pending["iteration"]
        scaler = getattr(engine, "scaler", None)
        if self._pending["scaler"] and scaler is not None and scaler.is_enabled():
            scaler.load_state_dict(self._pending["scaler"])
        if self._pending["within"] is None:
            self._pending = None
        else:
            set_steps_done(engine, self._pending["within"]["steps"])

    def _go_on(self, engine: Engine) -> None:
        """Before the first batch that is not done: the epoch has begun as ever, its first batches are left behind."""
        if self._pending is not None:
            for name, state in self._pending["within"]["states"][rank()].items():
                carried(engine)[name].load_state_dict(state)
            set_steps_done(engine, 0)
            self._pending = None


def _steps(engine: Engine) -> int:
    """How many steps of its epoch have begun; 0 where the length of an epoch is not known."""
    state = engine.state
    return state.iteration - (state.epoch - 1) * state.epoch_length if state.epoch and state.epoch_length else 0


def _place(engine: Engine, whole: bool = False) -> str:
    """Where a run is, for a message; ``whole`` if the step is done."""
    epoch, step, length = engine.state.epoch, _steps(engine), engine.state.epoch_length
    if whole:
        return f"after epoch {epoch}" if step in (0, length) else f"in epoch {epoch} after step {step} of {length}"
    return f"in epoch {epoch}, step {step} of {length}" if step else "before its first step"


def _held(epochs: int, steps: int | None) -> str:
    if steps is None:
        return f"the end of epoch {epochs}"
    return f"epoch {epochs + 1} up to step {steps}"


def _fill(thing: Any, state: dict[str, Any], name: str, path: Path) -> None:
    try:
        if not isinstance(thing, nn.Module):
            thing.load_state_dict(state)
        elif state or thing.state_dict():
            # The prefix is what load_weights drops; a network's own layer of that name stays.
            load_weights(thing, {f"module.{key}": value for key, value in state.items()})
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"the object '{name}' differs from that of '{path}': {error}") from error


def _present(models: WholeModels, state: Mapping[str, Any], trainer: Workflow) -> dict[str, Any]:
    """The scores of the models that are still there: one may have been removed or broken since."""
    kept = []
    for score, name in state["_saved"]:
        file = models.file(name)
        if not file.is_file():
            damage = "is missing"
        elif reason := damaged_part(file):
            damage = f"is not whole ({reason})"
        else:
            kept.append((score, name))
            continue
        trainer.logger.warning(f"the best model '{file}' {damage}; the next validation writes one.")
    return {"_saved": kept}
