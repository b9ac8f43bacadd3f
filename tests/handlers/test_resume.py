from __future__ import annotations

import logging
import random
import zipfile

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from ignite.metrics import Loss
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointSaver, LrScheduleHandler, ValidationHandler, from_engine
from monai.transforms import Compose, RandFlipd, RandGaussianNoised
from torch import nn

from monai_kd.adapters import ProjectionAdapter
from monai_kd.checkpoints import CheckpointError
from monai_kd.distiller import DistillationTerm, Distiller
from monai_kd.handlers import DistillationHandler, EMAUpdateHandler, EpochSeedHandler, ResumeCheckpoint, SaveHistory
from monai_kd.losses import HintLoss, SoftTargetLoss
from monai_kd.teachers import EMATeacher

pytestmark = pytest.mark.filterwarnings("ignore")

RISING = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


class Scores:
    """A key metric that is written beforehand, one value an epoch."""

    def __init__(self, values):
        self.values = values

    def attach(self, engine, name):
        @engine.on(Events.EPOCH_COMPLETED)
        def score(engine):
            engine.state.metrics[name] = self.values[engine.state.epoch - 1]


class Run:
    """A whole training: everything that a resume has to restore changes in it."""

    def __init__(
        self,
        folder,
        init,
        epochs=4,
        num_workers=0,
        scores=None,
        amp=False,
        width=6,
        schedule=4,
        size=12,
        names=None,
        unlabelled=0,
        table=False,
    ):
        torch.manual_seed(init)
        np.random.seed(init)  # noqa: NPY002
        random.seed(init)
        self.folder = folder
        self.network = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, 3),
        )
        self.teacher = EMATeacher(self.network, decay=0.9)
        terms = [
            DistillationTerm("soft", SoftTargetLoss()),
            DistillationTerm("hint", HintLoss(), "0", "0", adapter=ProjectionAdapter),
        ]
        self.distiller = Distiller(self.network, self.teacher, terms, input_shape=(2, 1, 6, 6))
        self.optimizer = torch.optim.Adam([*self.network.parameters(), *self.distiller.parameters()], lr=1e-3)
        steps = size // 4
        self.lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.05, total_steps=schedule * steps + 1)
        metric = (
            Scores(scores) if scores else Loss(nn.CrossEntropyLoss(), output_transform=from_engine(["pred", "label"]))
        )
        if not scores:
            metric._output_transform = lambda output: tuple(
                torch.stack([torch.as_tensor(item[key]) for item in output]) for key in ("pred", "label")
            )
        saver = CheckpointSaver(
            str(folder),
            {"model": self.network},
            save_key_metric=True,
            key_metric_filename="model.pt",
            key_metric_negative_sign=not scores,
        )
        self.evaluator = SupervisedEvaluator(
            "cpu",
            DataLoader(Dataset(items(4, seed=1)), batch_size=2, num_workers=num_workers),
            self.network,
            key_val_metric={"score": metric},
            val_handlers=[saver],
            metric_cmp_fn=(lambda new, best: new > best) if scores else (lambda new, best: new < best),
        )
        loader = unlabelled_loader(unlabelled, num_workers) if unlabelled else None
        transform = Compose([RandFlipd("image", prob=0.5), RandGaussianNoised("image", prob=0.5)])
        self.handlers = [
            EpochSeedHandler(0, unlabelled_loader=loader),
            DistillationHandler(self.distiller, unlabelled_loader=loader),
            EMAUpdateHandler(self.teacher),
            LrScheduleHandler(self.lr_scheduler, print_lr=False, epoch_level=False),
            ValidationHandler(1, self.evaluator),
            *([SaveHistory(folder / "history.csv", self.evaluator)] if table else []),
        ]
        self.trainer = SupervisedTrainer(
            "cpu",
            epochs,
            DataLoader(Dataset(items(size), transform), batch_size=4, shuffle=True, num_workers=num_workers),
            self.network,
            self.optimizer,
            nn.CrossEntropyLoss(),
            train_handlers=self.handlers,
            amp=amp,
        )
        self.epochs_run = []
        self.trainer.add_event_handler(Events.EPOCH_STARTED, lambda: self.epochs_run.append(self.trainer.state.epoch))
        names = names or ("network", "optimizer", "lr_scheduler", "distiller")
        self.resume = ResumeCheckpoint(
            folder / "resume.pt",
            {name: getattr(self, name, self.optimizer) for name in names},
            evaluators=[self.evaluator],
            handlers=[None, saver],
        )
        self.resume.attach(self.trainer)

    def run(self, stop=None):
        """Train; ``stop`` kills the run in the middle of the epoch after that many."""
        if stop is not None:

            @self.trainer.on(Events.ITERATION_COMPLETED)
            def kill():
                if self.trainer.state.epoch > stop:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                self.trainer.run()
            return self
        self.trainer.run()
        return self

    def state(self):
        """Everything that the rest of a training depends on, and what it has produced."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "distiller": self.distiller.state_dict(),
            "best": (self.evaluator.state.best_metric, self.evaluator.state.best_metric_epoch),
            "progress": (self.trainer.state.epoch, self.trainer.state.iteration),
            "scaler": self.trainer.scaler.state_dict() if self.trainer.scaler is not None else None,
            "model.pt": self.model(),
        }

    def model(self):
        return torch.load(self.folder / "model.pt", weights_only=True)


def items(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "image": torch.randn(1, 6, 6, generator=generator),
            "label": torch.randint(0, 3, (), generator=generator),
        }
        for _ in range(count)
    ]


def unlabelled_loader(count, num_workers):
    transform = Compose([RandFlipd("image", prob=0.5), RandGaussianNoised("image", prob=0.5)])
    images = [{"image": item["image"]} for item in items(count, seed=2)]
    return DataLoader(Dataset(images, transform), batch_size=4, shuffle=True, num_workers=num_workers)


def differing(a, b, where=""):
    """Where two states are not bit-equal."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in differing(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [found for i, pair in enumerate(zip(a, b)) for found in differing(*pair, f"{where}/{i}")]
    equal = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
    return [] if equal else [where]


@pytest.fixture
def folders(tmp_path):
    """Makes a new folder for each run."""

    def make(name):
        (tmp_path / name).mkdir(exist_ok=True)
        return tmp_path / name

    return make


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


# --- the law --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("amp", [False, True], ids=["plain", "amp"])
def test_a_resumed_run_is_the_uninterrupted_one(num_workers, amp, folders):
    whole = Run(folders("whole"), init=1, num_workers=num_workers, amp=amp).run()
    Run(folders("killed"), init=1, num_workers=num_workers, amp=amp).run(stop=2)

    resumed = Run(folders("killed"), init=2, num_workers=num_workers, amp=amp)
    assert differing(resumed.state()["network"], whole.state()["network"]) != []
    assert resumed.resume.load(resumed.trainer) == 2
    resumed.run()

    assert resumed.epochs_run == [3, 4]
    assert differing(resumed.state(), whole.state()) == []
    assert whole.state()["best"][1] > 0


@pytest.mark.parametrize(
    ("unlabelled", "num_workers"),
    [(28, 0), (28, 2), (8, 0), (3, 0)],
    ids=["longer than an epoch", "with workers", "shorter", "one batch"],
)
def test_a_resumed_run_is_the_uninterrupted_one_with_unlabelled_images(unlabelled, num_workers, folders):
    whole = Run(folders("whole"), init=1, unlabelled=unlabelled, num_workers=num_workers).run()
    Run(folders("killed"), init=1, unlabelled=unlabelled, num_workers=num_workers).run(stop=2)
    resumed = Run(folders("killed"), init=2, unlabelled=unlabelled, num_workers=num_workers)
    assert resumed.resume.load(resumed.trainer) == 2
    resumed.run()
    assert differing(resumed.state(), whole.state()) == []
    assert differing(Run(folders("without"), init=1).run().state(), whole.state()) != []


def test_the_law_fails_with_unlabelled_images_that_go_on_from_epoch_to_epoch(folders, monkeypatch):
    begin = DistillationHandler._begin_unlabelled
    monkeypatch.setattr(
        DistillationHandler, "_begin_unlabelled", lambda self, engine: self._unlabelled or begin(self, engine)
    )
    whole = Run(folders("whole"), init=1, unlabelled=28).run()
    Run(folders("killed"), init=1, unlabelled=28).run(stop=2)
    resumed = Run(folders("killed"), init=2, unlabelled=28)
    resumed.resume.load(resumed.trainer)
    resumed.run()
    assert "/network/0.weight" in differing(resumed.state(), whole.state())


def test_the_law_fails_without_the_seeds_of_the_epochs(folders, monkeypatch):
    monkeypatch.setattr(EpochSeedHandler, "__call__", lambda *_: None)
    whole = Run(folders("whole"), init=1).run()
    Run(folders("killed"), init=1).run(stop=2)
    resumed = Run(folders("killed"), init=2)
    resumed.resume.load(resumed.trainer)
    resumed.run()
    assert "/network/0.weight" in differing(resumed.state(), whole.state())


def test_the_scale_of_the_gradients_is_restored(folders, monkeypatch):
    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=2)

    monkeypatch.setattr(torch.cuda.amp, "GradScaler", scaler)
    whole = Run(folders("whole"), init=1, amp=True).run()
    Run(folders("killed"), init=1, amp=True).run(stop=1)
    resumed = Run(folders("killed"), init=2, amp=True)
    resumed.resume.load(resumed.trainer)
    resumed.run()
    assert whole.trainer.scaler.get_scale() == 2.0 * 2**6
    assert differing(resumed.state(), whole.state()) == []


def test_a_run_may_be_resumed_time_and_again(folders):
    whole = Run(folders("whole"), init=1).run()
    Run(folders("killed"), init=1).run(stop=1)
    for stop in (2, 3, None):
        resumed = Run(folders("killed"), init=stop or 9)
        resumed.resume.load(resumed.trainer)
        resumed.run(stop=stop)
    assert differing(resumed.state(), whole.state()) == []


# --- the best model -------------------------------------------------------------------------------------------------


def test_a_worse_model_does_not_replace_the_best_one_of_before(folders):
    scores = (0.5, 0.9, 0.6, 0.7)
    Run(folders("a"), init=1, scores=scores).run(stop=2)
    best = Run(folders("a"), init=1, scores=scores).model()

    resumed = Run(folders("a"), init=2, scores=scores)
    resumed.resume.load(resumed.trainer)
    resumed.run()
    assert differing(resumed.model(), best) == []
    assert differing(resumed.model(), resumed.network.state_dict()) != []
    assert (resumed.evaluator.state.best_metric, resumed.evaluator.state.best_metric_epoch) == (0.9, 2)


def test_a_better_model_replaces_the_best_one_of_before(folders):
    scores = (0.5, 0.9, 0.6, 0.95)
    Run(folders("a"), init=1, scores=scores).run(stop=2)
    resumed = Run(folders("a"), init=2, scores=scores)
    resumed.resume.load(resumed.trainer)
    resumed.run()
    assert differing(resumed.model(), resumed.network.state_dict()) == []


def test_a_run_that_stopped_between_two_best_models_writes_the_next(folders, caplog):
    Run(folders("a"), init=1, scores=RISING).run(stop=2)
    (folders("a") / "model.pt").unlink()
    resumed = Run(folders("a"), init=2, scores=RISING)
    with caplog.at_level(logging.WARNING):
        resumed.resume.load(resumed.trainer)
    assert "model.pt' is missing" in caplog.text
    resumed.run()
    assert differing(resumed.model(), resumed.network.state_dict()) == []


# --- the files ------------------------------------------------------------------------------------------------------


def test_the_file_holds_the_epoch_and_the_previous_one_the_epoch_before(folders):
    run = Run(folders("a"), init=1).run()
    held = [torch.load(path, weights_only=True)["trainer"] for path in (run.resume.path, run.resume.previous)]
    assert [trainer["epoch"] for trainer in held] == [4, 3]
    assert sorted(path.name for path in run.folder.iterdir()) == ["model.pt", "resume.pt", "resume.pt.previous"]


@pytest.mark.parametrize("broken", ["truncated", "empty", "missing", "flipped"])
def test_a_broken_file_falls_back_to_the_one_before(broken, folders, caplog):
    whole = Run(folders("whole"), init=1).run()
    killed = Run(folders("killed"), init=1).run(stop=3)
    path = killed.resume.path
    if broken == "truncated":
        truncate(path)
    elif broken == "empty":
        path.write_bytes(b"")
    elif broken == "missing":
        path.unlink()
    else:
        with zipfile.ZipFile(path) as file:
            largest = file.read(max(file.infolist(), key=lambda part: part.file_size))
        content = bytearray(path.read_bytes())
        content[content.index(largest) + len(largest) // 2] ^= 0xFF  # between its parts a bit may be any
        path.write_bytes(content)

    resumed = Run(folders("killed"), init=2)
    with caplog.at_level(logging.WARNING):
        assert resumed.resume.load(resumed.trainer) == 2
    assert ("is missing" if broken == "missing" else "is not whole (") in caplog.text
    assert "resume.pt.previous', the end of an epoch before" in caplog.text
    resumed.run()
    assert differing(resumed.state(), whole.state()) == []


def test_a_broken_file_never_takes_the_place_of_the_whole_one(folders):
    truncate(Run(folders("a"), init=1).run(stop=3).resume.path)
    resumed = Run(folders("a"), init=2)
    resumed.resume.load(resumed.trainer)
    resumed.run(stop=3)
    held = [torch.load(path, weights_only=True)["trainer"] for path in (resumed.resume.path, resumed.resume.previous)]
    assert [trainer["epoch"] for trainer in held] == [3, 2]


def test_a_new_run_does_not_fall_back_to_an_old_one(folders):
    Run(folders("a"), init=1).run()
    new = Run(folders("a"), init=2).run(stop=1)
    assert not new.resume.previous.exists()
    truncate(new.resume.path)
    again = Run(folders("a"), init=3)
    with pytest.raises(CheckpointError, match=r"resume\.pt' is not whole .*resume\.pt\.previous' is missing"):
        again.resume.load(again.trainer)


def test_a_run_that_is_killed_while_it_writes_keeps_its_file(folders, monkeypatch):
    run = Run(folders("a"), init=1)
    save = torch.save

    def half(content, file):
        if isinstance(content, dict) and content.get("trainer", {}).get("epoch") == 3:
            file.write(b"half")
            raise KeyboardInterrupt
        save(content, file)

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        run.trainer.run()
    assert torch.load(run.resume.path, weights_only=True)["trainer"]["epoch"] == 2


def test_what_a_killed_run_had_begun_to_write_is_removed(folders):
    Run(folders("a"), init=1).run(stop=2)
    (folders("a") / f".resume.pt.{'0' * 32}").write_bytes(b"half")
    resumed = Run(folders("a"), init=2)
    resumed.resume.load(resumed.trainer)
    resumed.run()
    assert sorted(path.name for path in resumed.folder.iterdir()) == ["model.pt", "resume.pt", "resume.pt.previous"]


def test_other_ranks_write_nothing(folders, monkeypatch):
    monkeypatch.setattr("monai_kd.handlers.resume.rank", lambda: 1)
    assert not Run(folders("a"), init=1).run().resume.path.exists()


def test_nothing_to_resume(folders):
    run = Run(folders("a"), init=1)
    with pytest.raises(FileNotFoundError, match=r"there is no '.*resume\.pt'. Start the training without resuming"):
        run.resume.load(run.trainer)


# --- other runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"width": 7}, r"other shape: 0\.weight: file \(6, 1, 3, 3\), network \(7, 1, 3, 3\)"),
        ({"names": ("network", "optimizer")}, "object 'distiller' is not given; .* 'lr_scheduler' is not given"),
        ({"names": ("network", "optimizer", "lr_scheduler", "distiller", "bank")}, "no object 'bank' in the file"),
        ({"size": 16, "schedule": 3}, "an epoch has 3 iterations in the file, 4 here"),
        ({"schedule": 8}, "'lr_scheduler' was planned with total_steps=13, here with 25"),
    ],
    ids=["network", "fewer objects", "more objects", "data", "schedule"],
)
def test_another_run_is_refused(other, message, folders):
    Run(folders("a"), init=1).run(stop=2)
    run = Run(folders("a"), init=2, **other)
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"(?s)resume\.pt'.*" + message):
        run.resume.load(run.trainer)
    assert differing(dict(run.network.state_dict()), before) == []
    assert run.trainer.state.epoch == 0


def test_another_optimizer_is_refused(folders):
    Run(folders("a"), init=1).run(stop=2)
    run = Run(folders("a"), init=2)
    run.resume.objects["optimizer"] = torch.optim.SGD(run.network.parameters(), lr=0.1)
    with pytest.raises(CheckpointError, match="'optimizer' is a Adam in the file, a SGD here"):
        run.resume.load(run.trainer)
    run.resume.objects["optimizer"] = torch.optim.Adam(run.network.parameters())
    with pytest.raises(CheckpointError, match=r"'optimizer' differs .*parameter group"):
        run.resume.load(run.trainer)


def test_another_evaluator_or_file_is_refused(folders):
    Run(folders("a"), init=1).run(stop=2)
    run = Run(folders("a"), init=2)
    run.resume.evaluators, run.resume.savers = (), []
    with pytest.raises(
        CheckpointError, match="1 CheckpointSavers in the file, 0 here; 1 evaluators in the file, 0 here"
    ):
        run.resume.load(run.trainer)
    run.resume.previous.unlink()
    run.resume.path.write_bytes((run.folder / "model.pt").read_bytes())
    with pytest.raises(CheckpointError, match="was not written by this version's ResumeCheckpoint"):
        run.resume.load(run.trainer)


# --- the end of the run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [4, 3])
def test_a_complete_run_trains_no_more(epochs, folders, caplog):
    whole = Run(folders("a"), init=1).run()
    before = whole.state()
    run = Run(folders("a"), init=2, epochs=epochs)
    assert run.resume.load(run.trainer) == 4
    assert f"the run of {epochs} is complete, nothing is left to train" in caplog.text
    run.run()
    assert run.epochs_run == []
    assert run.trainer.state.epoch == epochs
    ours = run.state()
    assert differing({**ours, "progress": None}, {**before, "progress": None}) == []


def test_more_epochs_extend_the_run(folders):
    whole = Run(folders("whole"), init=1, epochs=6, schedule=6).run()
    Run(folders("short"), init=1, epochs=3, schedule=6).run()
    run = Run(folders("short"), init=2, epochs=6, schedule=6)
    run.resume.load(run.trainer)
    run.run()
    assert run.epochs_run == [4, 5, 6]
    assert differing(run.state(), whole.state()) == []


def test_a_run_without_attaching_goes_on_but_writes_nothing(folders):
    Run(folders("a"), init=1).run(stop=2)
    run = Run(folders("a"), init=2)
    run.trainer.remove_event_handler(run.resume, Events.EPOCH_COMPLETED)
    run.resume.load(run.trainer)
    run.run()
    assert run.epochs_run == [3, 4]
    assert torch.load(run.resume.path, weights_only=True)["trainer"]["epoch"] == 2


# --- what can be stored ---------------------------------------------------------------------------------------------


class Holding:
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def trainer_with(path, thing, epochs=1, **things):
    network = nn.Linear(4, 4)
    batch = {"image": torch.rand(2, 4), "label": torch.rand(2, 4)}
    trainer = SupervisedTrainer(
        "cpu", epochs, [batch], network, torch.optim.SGD(network.parameters(), lr=0.1), nn.MSELoss()
    )
    resume = ResumeCheckpoint(path, {"thing": thing, "left out": None, **things})
    resume.attach(trainer)
    return trainer, resume


def test_values_come_back_as_they_were(tmp_path):
    state = {"a": [1, (2.0, "x"), None], 3: {"b": torch.arange(3)}, "c": np.float64(0.1), "d": np.int64(7), "e": True}
    trainer_with(tmp_path / "new" / "r.pt", Holding(state))[0].run()
    trainer, resume = trainer_with(tmp_path / "new" / "r.pt", Holding({}), epochs=2)
    resume.load(trainer)
    assert differing(resume.objects["thing"].state, state) == []


@pytest.mark.parametrize("name", ["MultiStepLR", "CosineAnnealingLR", "ReduceLROnPlateau", "LambdaLR"])
def test_schedulers_of_pytorch_come_back(name, tmp_path):
    arguments = {
        "MultiStepLR": {"milestones": [1, 2]},
        "CosineAnnealingLR": {"T_max": 3},
        "ReduceLROnPlateau": {"patience": 1},
        "LambdaLR": {"lr_lambda": lambda epoch: 0.5**epoch},
    }[name]

    def build():
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        return getattr(torch.optim.lr_scheduler, name)(optimizer, **arguments)

    first = build()
    first.optimizer.step()
    first.step(*([np.float32(0.5)] if name == "ReduceLROnPlateau" else []))
    trainer_with(tmp_path / "r.pt", first, optimizer=first.optimizer)[0].run()
    restored = build()
    trainer, resume = trainer_with(tmp_path / "r.pt", restored, epochs=2, optimizer=restored.optimizer)
    resume.load(trainer)
    assert differing(restored.state_dict(), first.state_dict()) == []
    for scheduler in (first, restored):
        scheduler.optimizer.step()
        scheduler.step(*([0.6] if name == "ReduceLROnPlateau" else []))
    assert differing(restored.state_dict(), first.state_dict()) == []


def test_a_wrapped_network_is_stored_without_its_wrapper(tmp_path):
    network, other = nn.Linear(2, 2), nn.Linear(2, 2)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        trainer_with(tmp_path / "r.pt", nn.parallel.DistributedDataParallel(network))[0].run()
    finally:
        dist.destroy_process_group()
    trainer, resume = trainer_with(tmp_path / "r.pt", other)
    resume.load(trainer)
    assert torch.equal(other.weight, network.weight)


def test_a_bundle_attaches_and_resumes_in_its_lists(tmp_path):
    config = {
        "network": {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 3},
        "optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()"},
        "batch": "$[{'image': torch.ones(2, 4), 'label': torch.zeros(2, dtype=torch.long)}]",
        "resume": False,
        "epochs": 1,
        "resume_checkpoint": {
            "_target_": "monai_kd.handlers.ResumeCheckpoint",
            "path": str(tmp_path / "resume.pt"),
            "objects": {"network": "@network", "optimizer": "@optimizer", "distiller": None},
            "evaluators": ["@validate#evaluator"],
            "handlers": "@validate#handlers",
        },
        "validate": {
            "handlers": [
                {
                    "_target_": "CheckpointSaver",
                    "save_dir": str(tmp_path),
                    "save_dict": {"model": "@network"},
                    "save_key_metric": True,
                    "key_metric_filename": "model.pt",
                }
            ],
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "device": "cpu",
                "val_data_loader": "@batch",
                "network": "@network",
                "key_val_metric": {"score": {"_target_": "$@scores", "values": [0.1, 0.2, 0.3]}},
                "val_handlers": "@validate#handlers",
            },
        },
        "scores": None,
        "train": {
            "handlers": [
                {"_target_": "monai_kd.handlers.EpochSeedHandler", "seed": 0},
                {"_target_": "ValidationHandler", "interval": 1, "validator": "@validate#evaluator"},
            ],
            "trainer": {
                "_target_": "SupervisedTrainer",
                "device": "cpu",
                "max_epochs": "@epochs",
                "train_data_loader": "@batch",
                "network": "@network",
                "optimizer": "@optimizer",
                "loss_function": {"_target_": "torch.nn.CrossEntropyLoss"},
                "train_handlers": "@train#handlers",
            },
        },
        "initialize": ["$@resume_checkpoint.attach(@train#trainer)"],
        "run": [
            "$@resume_checkpoint.begin(@train#trainer, str(@resume).lower())",
            "$@resume_checkpoint.run(@train#trainer)",
        ],
    }

    def run(**changes):
        parser = ConfigParser({**config, "scores": Scores, **changes})
        for part in ("initialize", "run"):
            parser.get_parsed_content(part)
        return parser.get_parsed_content("resume_checkpoint"), parser.get_parsed_content("train#trainer").state

    run()
    resume, state = run(epochs=3, resume=True)
    assert (state.epoch, state.iteration) == (3, 3)
    assert [evaluator.state.best_metric_epoch for evaluator in resume.evaluators] == [3]
    assert len(resume.savers) == 1


def test_a_network_with_a_layer_named_module_comes_back(tmp_path):
    network = nn.ModuleDict({"module": nn.Linear(2, 2)})
    trainer_with(tmp_path / "r.pt", network)[0].run()
    other = nn.ModuleDict({"module": nn.Linear(2, 2)})
    trainer, resume = trainer_with(tmp_path / "r.pt", other)
    resume.load(trainer)
    assert torch.equal(other["module"].weight, network["module"].weight)


def test_messages(tmp_path):
    with pytest.raises(TypeError, match="'network' is a int without state_dict"):
        ResumeCheckpoint(tmp_path / "r.pt", {"network": 3})
    with pytest.raises(TypeError, match="expected MONAI evaluators, got Engine"):
        ResumeCheckpoint(tmp_path / "r.pt", {}, evaluators=[Engine(lambda *_: None)])
    trainer, _ = trainer_with(tmp_path / "r.pt", Holding({"a": [len]}))
    with pytest.raises(TypeError, match=r"'thing\.a\.0' is a builtin_function_or_method; only tensors"):
        trainer.run()


def test_a_new_run_says_that_it_replaces_the_file_of_a_stopped_one(folders, caplog):
    Run(folders("run"), init=1, epochs=1).run()
    with caplog.at_level(logging.WARNING):
        Run(folders("run"), init=1, epochs=1).run()
    assert "this run starts anew; at the end of its first epoch it replaces" in caplog.text
    caplog.clear()
    resumed = Run(folders("run"), init=2, epochs=1)
    resumed.resume.load(resumed.trainer)
    resumed.run()
    assert "starts anew" not in caplog.text
