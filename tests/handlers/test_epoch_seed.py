# ruff: noqa: NPY002  transforms draw from numpy's global state too, so it is tested
from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, Lambdad, RandGaussianNoised
from torch import nn
from torch.utils.data import RandomSampler

from monai_kd.handlers import EpochSeedHandler

pytestmark = pytest.mark.filterwarnings("ignore")
workers = pytest.mark.parametrize("num_workers", [0, 2])


def loader_of(num_workers=0, **kwargs):
    """Items drawn by MONAI's own random state and by each of the three global ones."""
    transform = Compose(
        [
            RandGaussianNoised("image", prob=1.0),
            Lambdad(
                "image", lambda x: torch.cat([x, torch.rand(1), torch.tensor([np.random.rand(), random.random()])])
            ),
        ]
    )
    items = [{"image": torch.full((1,), float(i)), "label": torch.zeros(4)} for i in range(6)]
    kwargs = {"shuffle": True, **kwargs}
    return DataLoader(Dataset(items, transform), batch_size=2, num_workers=num_workers, **kwargs)


def drawn(loader, seed=0, epochs=3, start=0, epoch_length=None, noise=0, handler=EpochSeedHandler):
    """All images of each epoch, and a dropout mask of its last iteration."""
    torch.manual_seed(noise)
    np.random.seed(noise)
    random.seed(noise)
    network = nn.Linear(4, 4)
    found = {}
    trainer = SupervisedTrainer(
        "cpu",
        epochs,
        loader,
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        nn.MSELoss(),
        epoch_length=epoch_length,
        train_handlers=[handler(seed)] if handler else [],
        decollate=False,
    )

    @trainer.on(Events.GET_BATCH_COMPLETED)
    def keep(engine):
        values = engine.state.batch["image"].as_tensor(), nn.functional.dropout(torch.ones(8))
        found.setdefault(engine.state.epoch, []).extend(value.flatten() for value in values)

    trainer.state.epoch, trainer.state.iteration = start, start * trainer.state.epoch_length
    trainer.run()
    return {epoch: torch.cat(values) for epoch, values in found.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[epoch], b[epoch]) for epoch in a)


@workers
def test_an_epoch_does_not_depend_on_the_epochs_before(num_workers):
    whole = drawn(loader_of(num_workers), noise=1)
    rest = drawn(loader_of(num_workers), noise=2, start=1)
    assert sorted(rest) == [2, 3]
    assert same(rest, {epoch: whole[epoch] for epoch in (2, 3)})
    without = [drawn(loader_of(num_workers), noise=2, start=start, handler=None) for start in (0, 1)]
    assert not torch.equal(without[0][2], without[1][2])


@workers
def test_epochs_and_seeds_differ(num_workers):
    runs = [drawn(loader_of(num_workers), seed=seed) for seed in (0, 1)]
    values = [value for run in runs for value in run.values()]
    assert all(not torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])


@workers
@pytest.mark.parametrize("epoch_length", [2, 5])
def test_epochs_of_another_length_than_the_loader(num_workers, epoch_length):
    whole = drawn(loader_of(num_workers), noise=1, epoch_length=epoch_length)
    rest = drawn(loader_of(num_workers), noise=2, start=2, epoch_length=epoch_length)
    assert same(rest, {3: whole[3]})


@workers
def test_generators_of_the_user_are_seeded(num_workers):
    def build(seed):
        loader = loader_of(num_workers, generator=torch.Generator().manual_seed(seed))
        other = loader_of(num_workers, shuffle=None, sampler=RandomSampler(range(6), generator=torch.Generator()))
        return loader, other

    for first, second in zip(build(1), build(2)):
        whole = drawn(first, noise=1)
        assert same(drawn(second, noise=2, start=1), {epoch: whole[epoch] for epoch in (2, 3)})


def test_ranks_differ(monkeypatch):
    monkeypatch.setattr("monai_kd.handlers.epoch_seed.rank", lambda: 1)
    other = drawn(loader_of())
    monkeypatch.undo()
    assert not torch.equal(other[1], drawn(loader_of())[1])


def test_a_sampler_hears_of_the_epoch_before_the_loader_begins():
    class Sampler(torch.utils.data.Sampler):
        epoch, begun = 0, []

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            self.begun.append(self.epoch)
            return iter(range(6))

        def __len__(self):
            return 6

    sampler = Sampler()
    drawn(loader_of(2, shuffle=None, sampler=sampler))
    assert sampler.begun == [1, 2, 3]


def test_persistent_workers_are_refused():
    with pytest.raises(ValueError, match=r"keeps its 2 workers .* Set persistent_workers=False"):
        drawn(loader_of(2, persistent_workers=True))


def beside(num_workers, start=0, noise=0, seed=0, given=True):
    """All images of a trainer's loader and of an unlabelled one, by epoch; both of the same data and transforms."""
    torch.manual_seed(noise)
    np.random.seed(noise)
    random.seed(noise)
    own, unlabelled = (loader_of(num_workers, generator=torch.Generator()) for _ in range(2))
    network = nn.Linear(4, 4)
    trainer = SupervisedTrainer(
        "cpu",
        3,
        own,
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        nn.MSELoss(),
        train_handlers=[EpochSeedHandler(seed, unlabelled_loader=unlabelled if given else None)],
        decollate=False,
    )
    found = {"own": {}, "unlabelled": {}}

    @trainer.on(Events.EPOCH_STARTED)
    def begin():
        found["iterator"] = iter(unlabelled)

    @trainer.on(Events.GET_BATCH_COMPLETED)
    def keep(engine):
        batches = {"own": engine.state.batch, "unlabelled": next(found["iterator"])}
        for name, batch in batches.items():
            found[name].setdefault(engine.state.epoch, []).extend(batch["image"].as_tensor().flatten().tolist())

    trainer.state.epoch, trainer.state.iteration = start, start * trainer.state.epoch_length
    trainer.run()
    return found["own"], found["unlabelled"]


@workers
def test_an_unlabelled_loader_draws_the_same_in_each_run_and_otherwise_than_the_trainers(num_workers):
    own, unlabelled = beside(num_workers, noise=1)
    assert all(sorted(own[epoch]) != sorted(unlabelled[epoch]) for epoch in own)
    drawn_so_far = [own[1], own[2], own[3], unlabelled[1], unlabelled[2], unlabelled[3]]
    assert all(a != b for i, a in enumerate(drawn_so_far) for b in drawn_so_far[:i])

    rest = beside(num_workers, start=1, noise=2)
    assert rest == ({2: own[2], 3: own[3]}, {2: unlabelled[2], 3: unlabelled[3]})


def test_an_unlabelled_loader_follows_the_seed():
    assert beside(0, seed=1)[1][1] != beside(0)[1][1]


def test_an_unlabelled_loader_that_the_handler_does_not_know_goes_its_own_way():
    whole, rest = beside(0, noise=1, given=False), beside(0, start=1, noise=2, given=False)
    assert rest[0][2] == whole[0][2]
    assert rest[1][2] != whole[1][2]


@workers
def test_the_trainers_numbers_do_not_depend_on_an_unlabelled_loader(num_workers):
    assert beside(num_workers)[0] == beside(num_workers, given=False)[0]


def test_persistent_workers_of_an_unlabelled_loader_are_refused():
    handler = EpochSeedHandler(0, unlabelled_loader=loader_of(2, persistent_workers=True))
    with pytest.raises(ValueError, match=r"keeps its 2 workers .* Set persistent_workers=False"):
        drawn(loader_of(), handler=lambda seed: handler)


def test_messages():
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        EpochSeedHandler(-1)
    for seed in (None, 1.5, True):
        with pytest.raises(TypeError, match="seed must be an integer"):
            EpochSeedHandler(seed)
    with pytest.raises(TypeError, match="Engine has no data_loader"):
        EpochSeedHandler(0).attach(Engine(lambda *_: None))
