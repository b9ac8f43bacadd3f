"""One site of a federation: it distils the student that it is given on data that stay, by a teacher that stays."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.bundle.workflows import ConfigWorkflow
from monai.engines.evaluator import SupervisedEvaluator
from monai.engines.trainer import SupervisedTrainer
from torch import Tensor, nn

from monai_kd._bundle_configs import read_config
from monai_kd._bundle_scripts import importable
from monai_kd.checkpoints import load_weights
from monai_kd.compare.recipe import training_split
from monai_kd.handlers.resume import ResumeCheckpoint
from monai_kd.taps import unwrap

__all__ = ["FederatedSite", "SiteRound", "Stopped"]

_RESUME = "resume_checkpoint"
logger = logging.getLogger(__name__)


class Stopped(RuntimeError):
    """The server ended the federation while a site was training."""


@dataclass(frozen=True)
class SiteRound:
    """All that leaves a site after a round.

    Args:
        weights: the student's tensors by name, on the CPU.
        cases: how many it was trained on, with and without labels.
        validation_cases: how many it was scored on.
        global_score: of the weights that the round began with.
        site_score: of ``weights``.
    """

    weights: dict[str, Tensor]
    cases: int
    validation_cases: int
    global_score: float
    site_score: float


class FederatedSite:
    """A bundle's training, a round at a time.

    A round puts the given weights into the student and trains it for some epochs. All else stays: the teachers, the
    adapters, banks and mean teacher of the distiller, the optimiser and the schedule go on where the last round left
    them, so that the rounds of a single site are one training, bit by bit. They are kept in ``rounds/`` before the
    first round and behind each: a site that was stopped and is made anew in the same folder goes on from there, also
    bit by bit.

    Args:
        bundle: its folder; ``train.json`` (or YAML) has ``train#trainer`` and ``validate#evaluator``.
        folder: where the site writes: ``models/`` (its best student and its teachers, if not elsewhere), ``eval/``.
        rounds: of the federation; schedules are as long as all rounds together.
        local_epochs: of a round.
        config_files: behind ``train.json``.
        overrides: of keys of the configuration.

    Raises:
        ValueError: the bundle has no trainer or evaluator, or the evaluator scores another network.

    Example:
        Two sites, and a server that does nothing else than average::

            sites = {name: FederatedSite(bundle, name, 10, overrides=keys) for name, keys in settings.items()}
            weights = sites["a"].weights()
            for number in range(10):
                done = {name: site.train(weights, number) for name, site in sites.items()}
                weights = average_weights(
                    {name: one.weights for name, one in done.items()}, {name: one.cases for name, one in done.items()}
                )
    """

    def __init__(
        self,
        bundle: str | Path,
        folder: str | Path,
        rounds: int,
        local_epochs: int = 1,
        config_files: Sequence[str | Path] = (),
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self.bundle, self.folder = Path(bundle).resolve(), Path(folder).resolve()
        self.local_epochs = local_epochs
        self._done = 0  # rounds that are in the parts as they are now
        self._should_stop: Callable[[], bool] = lambda: False
        self._flow = self._workflow(rounds, config_files, overrides or {})
        with importable(self.bundle) if (self.bundle / "scripts").is_dir() else nullcontext():
            self._flow.initialize()
            self.trainer, self.evaluator = self._engines()
            self._cases = sum(training_split(self._flow.parser).values())
            self._parts = self._flow.parser.get_parsed_content(_RESUME) if _RESUME in self._flow.parser else None
        self._unset = [] if self._parts is None else _unset(self._parts.objects)
        if self._parts is not None:  # written each epoch; what counts here is the end of a round
            for path in (self._parts.path, self._parts.previous):
                path.unlink(missing_ok=True)
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._stop_if_asked)

    def weights(self) -> dict[str, Tensor]:
        """The student's tensors by name, copied to the CPU."""
        network = unwrap(self.trainer.network)
        return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}

    def train(
        self, weights: Mapping[str, Tensor], number: int, should_stop: Callable[[], bool] = lambda: False
    ) -> SiteRound:
        """Score the weights, and train from them for a round.

        Args:
            weights: of the student, by name.
            number: how many rounds were before this one; this one may be repeated.
            should_stop: asked after each step.

        Raises:
            CheckpointError: the weights are not of this student, or what was kept is of another training.
            Stopped: ``should_stop`` said so; the round can be repeated.
        """
        if number == self._done == 0:
            self._keep(0)  # what a repetition of this round begins with
        self._go_to(number)
        given = self.score(weights)
        self._should_stop, self._done = should_stop, -1  # neither before nor behind the round
        self.trainer.state.max_epochs = self.trainer.state.epoch + self.local_epochs
        self.trainer.run()
        if should_stop():
            raise Stopped(f"stopped in round {number + 1}.")
        self._keep(number + 1)
        own = self._key_score() if self.evaluator.state.epoch == self.trainer.state.epoch else self._evaluate()
        loader: Any = self.evaluator.data_loader
        return SiteRound(self.weights(), self._cases, len(loader.dataset), given, own)

    def score(self, weights: Mapping[str, Tensor]) -> float:
        """Put weights into the student and score it on the site's validation cases, by the bundle's key metric."""
        # The prefix is what load_weights drops; a network's own layer of that name stays.
        load_weights(unwrap(self.trainer.network), {f"module.{name}": value for name, value in weights.items()})
        score = self._evaluate()
        self.evaluator.state.epoch = 0  # no row of the history takes it for the score of an epoch
        return score

    def close(self) -> None:
        """What the bundle does in the end."""
        self._flow.finalize()

    def _workflow(self, rounds: int, files: Sequence[str | Path], overrides: Mapping[str, Any]) -> ConfigWorkflow:
        train, _ = read_config(self.bundle, "train")
        flow = ConfigWorkflow(
            config_file=[str(train), *map(str, files)],
            meta_file=str(self.bundle / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="train",
            bundle_root=str(self.bundle),
            ckpt_dir=str(self.folder / "models"),
            output_dir=str(self.folder / "eval"),
        )
        parser, epochs = flow.parser, rounds * self.local_epochs
        parser["epochs" if "epochs" in parser else "train#trainer#max_epochs"] = epochs
        if "val_interval" in parser:
            parser["val_interval"] = self.local_epochs
        parser.update(dict(overrides))
        return flow

    def _engines(self) -> tuple[SupervisedTrainer, SupervisedEvaluator]:
        found = []
        for key in ("train#trainer", "validate#evaluator"):
            if self._flow.parser.get(key) is None:
                raise ValueError(f"'{self.bundle}' has no '{key}' in train.json, which a site of a federation runs.")
            found.append(self._flow.parser.get_parsed_content(key))
        trainer, evaluator = found
        if unwrap(trainer.network) is not unwrap(evaluator.network):
            raise ValueError(
                "'validate#evaluator' scores another network than 'train#trainer' trains; in a federation it scores "
                "the student that is averaged."
            )
        return trainer, evaluator

    def _evaluate(self) -> float:
        self.evaluator.run(max(1, self.trainer.state.epoch))
        return self._key_score()

    def _key_score(self) -> float:
        return float(self.evaluator.state.metrics[self.evaluator.state.key_metric_name])

    def _go_to(self, number: int) -> None:
        """Bring everything but the student to where it was after so many rounds."""
        if self._done == number:
            return
        kept = self._kept(number)
        if kept is not None and kept.path.exists():
            for constant in self._unset:
                constant.fill_(math.nan)  # a number would not be given up for it
            kept.load(self.trainer)
        else:
            how = "begin anew" if self._done == 0 else "stay as they are"
            logger.warning(
                f"of the {number} rounds before this one the site has nothing in '{self.folder / 'rounds'}': its "
                f"adapters, banks and optimiser {how}."
            )
        self._done = number

    def _keep(self, number: int) -> None:
        kept = self._kept(number)
        if kept is not None:
            kept(self.trainer)
            # The server may ask for the last round again, if the site is stopped before it has answered.
            for older in (self.folder / "rounds").glob("*.pt"):
                if int(older.stem) < number - 1:
                    older.unlink()
        self._done = number

    def _kept(self, number: int) -> ResumeCheckpoint | None:
        if self._parts is None:
            return None
        path = self.folder / "rounds" / f"{number}.pt"
        return ResumeCheckpoint(path, self._parts.objects, self._parts.evaluators, self._parts.savers)

    def _stop_if_asked(self, engine: Engine) -> None:
        if self._should_stop():
            engine.terminate()


def _unset(objects: Mapping[str, Any]) -> list[Tensor]:
    """Constants that the first batch sets: not a number before it."""
    states = [thing.state_dict() for thing in objects.values() if isinstance(thing, nn.Module)]
    values = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    return [value for value in values if value.is_floating_point() and value.isnan().all()]
