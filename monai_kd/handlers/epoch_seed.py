"""Epochs whose randomness does not depend on the epochs before them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd

from monai_kd._processes import rank
from monai_kd.handlers._half_epochs import RANDOM_STATES, ResumeEvents, carry, steps_done
from monai_kd.handlers._random_states import random_states, restore_random_states

__all__ = ["EpochSeedHandler"]


class EpochSeedHandler:
    """Makes what an epoch draws a function of (seed, epoch, rank) alone.

    At the start of each epoch it seeds torch, numpy, ``random``, the generators of the trainer's loader and sampler and
    the random transforms of its dataset, and begins the loader anew. So a run that is resumed at the end of an epoch
    (:class:`~monai_kd.handlers.ResumeCheckpoint`) draws what the uninterrupted one would have drawn, without any random
    state in its checkpoint, and validation in between changes nothing in the training. One that is resumed within an
    epoch reads the batches of its first steps again, leaves them, and draws on from the random states of the stop.

    A loader and its sampler get a generator each where they have none, so that the order of the items does not depend
    on what the network draws. Put it first in the trainer's handlers. Any number of workers is fine, but not
    ``persistent_workers``: those keep the random state that they were born with. An epoch shorter than the loader takes
    the first batches of a new shuffle. Not covered are datasets whose items depend on earlier epochs
    (``SmartCacheDataset``), kernels that are not deterministic (``monai.utils.set_determinism`` chooses those that
    are), and, within an epoch and without workers, a loader that gives a batch several times
    (``MultiScaleDataLoader``) with transforms that draw from the global generators.

    Args:
        seed: 0 or more; two runs with the same one draw the same.
        unlabelled_loader: the one of ``DistillationHandler``, if it has any; seeded as the trainer's own.

    Raises:
        ValueError: a negative seed; when attached, a loader with persistent workers.
        TypeError: a seed that is no integer; when attached, an engine that is not MONAI's.

    Example:
        >>> from monai.data import DataLoader, Dataset
        >>> from monai.engines import SupervisedTrainer
        >>> network = torch.nn.Linear(4, 3)
        >>> loader = DataLoader(Dataset([{"image": torch.rand(4), "label": 1}] * 4), batch_size=2, shuffle=True)
        >>> trainer = SupervisedTrainer("cpu", 1, loader, network, torch.optim.SGD(network.parameters(), 0.1),
        ...     torch.nn.CrossEntropyLoss(), train_handlers=[EpochSeedHandler(0)])
        >>> trainer.run()
    """

    def __init__(self, seed: int, unlabelled_loader: Iterable[Any] | None = None) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise TypeError(f"seed must be an integer, got {seed!r}.")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}.")
        self.seed = int(seed)
        self.unlabelled_loader = unlabelled_loader
        self._device = torch.device("cpu")

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        for loader in (_loader(engine), self.unlabelled_loader):
            _give_generators(loader)
            if getattr(loader, "persistent_workers", False):
                raise ValueError(
                    f"the loader keeps its {loader.num_workers} workers from epoch to epoch, and with them their "  # type: ignore[union-attr]
                    "random state: a resumed run would draw other numbers. Set persistent_workers=False."
                )
        self._device = engine.state.device  # type: ignore[attr-defined]
        engine.register_events(*ResumeEvents)
        carry(engine, RANDOM_STATES, self)
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def state_dict(self) -> dict[str, Any]:
        """This process's random states, for a stop within an epoch."""
        return random_states(self._device)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Draw on from there, once the batches before are left behind."""
        restore_random_states(state, self._device)

    def __call__(self, engine: Engine) -> None:
        """Seed the epoch that starts."""
        epoch, loader = engine.state.epoch, _loader(engine)
        words = _words(self.seed, epoch, 0)
        torch.manual_seed(words[0])
        np.random.seed(words[1] % 2**32)  # noqa: NPY002  the generator that transforms without one of their own use
        random.seed(words[2])
        _seed_loader(loader, epoch, words[3:])
        if self.unlabelled_loader is not None:
            _seed_loader(self.unlabelled_loader, epoch, _words(self.seed, epoch, 1)[3:])
        if skipped := steps_done(engine):
            engine.state.dataloader = _Rest(engine, loader, skipped)
        else:
            engine.set_data(loader)  # an iterator that is still in the middle of it would go on there


class _Rest:
    """A loader whose first batches are read and left, for their steps are done; then it begins anew as ever.

    The engine begins it behind the handlers of the epoch's start, and counts on from the steps that are done.
    """

    def __init__(self, engine: Engine, loader: Iterable[Any], skipped: int) -> None:
        self._engine = engine
        self._loader = loader
        self._skipped = skipped

    def __iter__(self) -> Iterator[Any]:
        batches, skipped = iter(self._loader), self._skipped
        self._skipped = 0
        for _ in range(skipped):
            try:
                next(batches)
            except StopIteration:  # an epoch that is longer than the loader
                batches = iter(self._loader)
                next(batches)
            self._engine.fire_event(ResumeEvents.STEP_SKIPPED)
        return batches


def _give_generators(loader: Any) -> None:
    """Those of their own, where the global one would give the order."""
    batches = getattr(loader, "batch_sampler", None)
    for owner in (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
        if getattr(owner, "generator", 0) is None:
            owner.generator = torch.Generator()  # type: ignore[union-attr]


def _words(seed: int, epoch: int, stream: int) -> list[int]:
    entropy = np.random.SeedSequence([seed, epoch, rank()], spawn_key=(stream,))
    return entropy.generate_state(5, np.uint64).tolist()


def _seed_loader(loader: Any, epoch: int, words: list[int]) -> None:
    """Seed the transforms of a loader's data set, and whatever of it shuffles."""
    set_rnd(getattr(loader, "dataset", None), words[0])
    batches = getattr(loader, "batch_sampler", None)
    for i, owner in enumerate((loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))):
        if isinstance(getattr(owner, "generator", None), torch.Generator):
            owner.generator.manual_seed((words[1] + i) % 2**64)
        if hasattr(owner, "set_epoch"):
            owner.set_epoch(epoch)


def _loader(engine: Engine) -> Any:
    try:
        return engine.data_loader  # type: ignore[attr-defined]
    except AttributeError:
        raise TypeError(
            f"this {type(engine).__name__} has no data_loader; attach to a MONAI trainer such as SupervisedTrainer."
        ) from None
