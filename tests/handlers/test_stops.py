"""A training that a signal stops within an epoch goes on as if it had not been stopped, bit for bit."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.data import Dataset
from monai.engines.utils import IterationEvents
from monai.transforms import Compose, Lambdad, RandFlipd, RandGaussianNoised
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data._utils import worker

from monai_kd.checkpoints import CheckpointError
from monai_kd.data import MultiScaleDataLoader
from monai_kd.handlers import EpochSeedHandler, NonFiniteLossError, SaveHistory
from monai_kd.handlers._half_epochs import RANDOM_STATES, carried

from .test_resume import Run, differing, items, truncate

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="signals are sent as POSIX has them"),
]

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Stopped(Run):
    """With a table of the epochs, and a signal at an event of one's choice."""

    def __init__(self, folder, init, epochs=3, **kwargs):
        super().__init__(folder, init, epochs=epochs, table=True, **kwargs)

    def until(self, iteration, number=signal.SIGTERM, event=Events.ITERATION_STARTED, engine=None, resume="false"):
        """Run, with a signal in that step (or at that event); the exit status."""
        engine = engine or self.trainer
        self.resume.begin(self.trainer, resume)

        def send():
            if self.trainer.state.iteration == iteration:
                os.kill(os.getpid(), number)

        engine.add_event_handler(event, send)
        with pytest.raises(SystemExit) as caught:
            self.resume.run(self.trainer)
        return caught.value.code

    def go_on(self, resume="true"):
        done = self.resume.begin(self.trainer, resume)
        self.resume.run(self.trainer)
        return done

    def state(self):
        previous = torch.load(self.resume.previous, weights_only=True)
        return {**super().state(), "history": (self.folder / "history.csv").read_text(), "previous": previous}

    def held(self):
        content = torch.load(self.resume.path, weights_only=True)
        return content["trainer"]["epoch"], content["within"] and content["within"]["steps"]


@pytest.fixture
def folder(tmp_path):
    """Of the run that is stopped."""
    return tmp_path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """``uninterrupted(kind, **settings)``: what such a run leaves."""
    known = {}

    def train(kind=Stopped, **settings):
        key = kind, *sorted(settings.items())
        if key not in known:
            run = kind(tmp_path_factory.mktemp("whole"), init=1, **settings)
            run.resume.run(run.trainer)
            known[key] = run.state()
        return known[key]

    return train


# --- the law --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_workers", "number"), [(0, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_run_that_is_stopped_within_an_epoch_goes_on_there(num_workers, number, folder, uninterrupted):
    whole = uninterrupted(num_workers=num_workers)
    first = Stopped(folder, init=1, num_workers=num_workers)
    assert first.until(5, number) == STATUS[number]
    assert first.trainer.state.iteration == 5
    assert first.held() == (1, 2)
    rest = Stopped(folder, init=2, num_workers=num_workers)
    assert rest.go_on() == 1
    assert rest.epochs_run == [2, 3]
    assert differing(rest.state(), whole) == []


def test_without_seeds_of_the_epochs_the_epoch_is_finished_first(folder):
    """Nobody would take the batches of the steps that are done, and the rest of the epoch would be other data."""

    def build():
        run = Stopped(folder, init=1)
        for event in (Events.EPOCH_STARTED, Events.STARTED):
            for handler, *_ in list(run.trainer._event_handlers[event]):
                if isinstance(getattr(handler, "__self__", handler), EpochSeedHandler):
                    run.trainer.remove_event_handler(handler, event)
        carried(run.trainer).pop(RANDOM_STATES)
        return run

    first = build()
    assert first.until(5) == 143
    assert first.trainer.state.iteration == 6
    assert first.held() == (2, None)
    rest = build()
    assert rest.go_on() == 2
    assert rest.trainer.state.iteration == 9


@pytest.mark.parametrize("unlabelled", [28, 4], ids=["longer than an epoch", "shorter"])
def test_a_second_loader_goes_on_too(unlabelled, folder, uninterrupted):
    more = {"unlabelled": unlabelled, "epochs": 2}
    whole = uninterrupted(**more)
    Stopped(folder, init=1, **more).until(5)
    rest = Stopped(folder, init=2, **more)
    rest.go_on()
    assert differing(rest.state(), whole) == []


class Beside(Stopped):
    """An epoch of seven steps, longer than both of its loaders, whose transforms they share.

    At several scales each batch comes as often; at one, a transform draws from the generators of the process too.
    """

    def __init__(self, folder, init, scales=(1.0, 2.0), num_workers=0):
        super().__init__(folder, init, size=28, unlabelled=4, epochs=2)
        globally = [Lambdad("image", lambda x: x + 0.1 * torch.rand(1) + random.random())] * (len(scales) == 1)
        shared = Compose([RandFlipd("image", prob=0.5), RandGaussianNoised("image", prob=0.5), *globally])
        self.trainer.data_loader, unlabelled = (
            MultiScaleDataLoader(
                Dataset(items(8, seed), shared),
                scales=scales,
                divisible=2,
                keys="image",
                batch_size=4,
                shuffle=True,
                num_workers=num_workers,
            )
            for seed in (0, 2)
        )
        for handler in self.handlers:
            if hasattr(handler, "unlabelled_loader"):
                handler.unlabelled_loader = unlabelled
        self.handlers[0].attach(self.trainer)  # which gives the new ones their generators


@pytest.mark.parametrize(("num_workers", "scales"), [(0, (1.0,)), (0, (1.0, 2.0)), (2, (1.0, 2.0))])
def test_batches_that_were_read_and_not_used_yet_come_again(num_workers, scales, folder, uninterrupted):
    whole = uninterrupted(Beside, scales=scales, num_workers=num_workers)
    Beside(folder, 1, scales, num_workers).until(9)
    Beside(folder, 2, scales, num_workers).until(12, resume="true")
    rest = Beside(folder, 3, scales, num_workers)
    assert rest.resume.begin(rest.trainer, "true") == 1
    rest.resume.run(rest.trainer)
    assert differing(rest.state(), whole) == []


def test_a_run_may_stop_in_its_first_epoch_and_time_and_again(folder, uninterrupted):
    whole = uninterrupted()
    assert Stopped(folder, init=1).until(1) == 143
    assert os.listdir(folder) == ["resume.pt"]
    for again in (2, 7, 8):
        assert Stopped(folder, init=again).until(again, resume="auto") == 143
    rest = Stopped(folder, init=9)
    assert rest.go_on() == 2
    assert differing(rest.state(), whole) == []


def test_the_law_fails_where_the_batches_before_are_not_left_behind(folder, monkeypatch, uninterrupted):
    monkeypatch.setattr("monai_kd.handlers.epoch_seed._Rest.__iter__", lambda self: iter(self._loader))
    whole = uninterrupted()
    Stopped(folder, init=1).until(5)
    rest = Stopped(folder, init=2)
    rest.go_on()
    assert "/network/0.weight" in differing(rest.state(), whole)


@pytest.mark.parametrize("what", ["random states", "sums of history.csv"])
def test_the_law_fails_without_what_handlers_carry(what, folder, monkeypatch, uninterrupted):
    kind = EpochSeedHandler if what == "random states" else SaveHistory
    monkeypatch.setattr(kind, "load_state_dict", lambda *_: None)
    whole = uninterrupted()
    Stopped(folder, init=1).until(5)
    rest = Stopped(folder, init=2)
    rest.go_on()
    assert differing(rest.state(), whole) != []


# --- where it stops ---------------------------------------------------------------------------------------------------


def test_the_last_step_of_an_epoch_is_followed_by_its_validation(folder, caplog):
    run = Stopped(folder, init=1)
    assert run.until(6) == 143
    assert run.held() == (2, None)
    assert run.evaluator.state.epoch == 2
    assert "stopped after epoch 2. " in caplog.text


@pytest.mark.parametrize("event", [Events.STARTED, Events.ITERATION_COMPLETED])
def test_a_validation_is_ended_first(event, folder, uninterrupted):
    whole = uninterrupted()
    run = Stopped(folder, init=1)
    assert run.until(6, event=event, engine=run.evaluator) == 143
    assert run.held() == (2, None)
    rest = Stopped(folder, init=2)
    rest.go_on()
    assert rest.epochs_run == [3]
    assert differing(rest.state(), whole) == []


def test_a_run_that_is_complete_is_not_stopped(folder):
    run = Stopped(folder, init=1)
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=9), lambda: os.kill(os.getpid(), signal.SIGTERM))
    run.resume.run(run.trainer)
    assert run.held() == (3, None)


class Accumulated(Stopped):
    """Two batches a step of the optimizer."""

    def __init__(self, folder, init):
        super().__init__(folder, init, epochs=2)
        self.trainer.accumulation_steps = 2


def test_gradients_are_not_left_half_accumulated(folder, uninterrupted):
    whole = uninterrupted(Accumulated)
    first = Accumulated(folder, init=1)
    first.until(4)
    assert first.held() == (1, 2)
    rest = Accumulated(folder, init=2)
    rest.go_on()
    assert differing(rest.state(), whole) == []


def test_it_says_where_it_stopped_and_how_to_continue(folder, caplog, capfd):
    Stopped(folder, init=1).until(5)
    assert "SIGTERM: stopping after this step, or after the validation" in capfd.readouterr().err
    said = f"stopped in epoch 2 after step 2 of 3. '{folder}/resume.pt' holds epoch 2 up to step 2: continue with the "
    assert f"{said}same command and --resume true." in caplog.text
    rest = Stopped(folder, init=2)
    with caplog.at_level(logging.INFO):
        rest.go_on()
    assert "which holds epoch 2 up to step 2: going on with epoch 2 of 3." in caplog.text


def test_handlers_of_the_end_are_called_and_those_of_a_complete_run_are_not(folder):
    called = []
    run = Stopped(folder, init=1)
    for event in (Events.TERMINATE, Events.COMPLETED, Events.EXCEPTION_RAISED):
        run.trainer.add_event_handler(event, lambda *_, event=event: called.append(event))
    run.until(5)
    assert called == [Events.TERMINATE]
    assert not run.trainer.optimizer._optimizer_step_post_hooks


# --- the signals ------------------------------------------------------------------------------------------------------


def test_a_second_signal_stops_at_once(folder, monkeypatch, caplog):
    monkeypatch.setattr("monai_kd._signals._ONE_SIGNAL", 0.0)
    run = Stopped(folder, init=1)

    def twice():
        if run.trainer.state.iteration == 5:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)

    run.trainer.add_event_handler(Events.ITERATION_STARTED, twice)
    with pytest.raises(KeyboardInterrupt):
        run.resume.run(run.trainer)
    assert run.held() == (1, None)
    assert f"ended in epoch 2, step 2 of 3. '{folder}/resume.pt' holds the end of epoch 1: continue" in caplog.text


def test_the_same_signal_that_comes_twice_at_once_is_one(folder):
    run = Stopped(folder, init=1)
    run.trainer.add_event_handler(Events.ITERATION_STARTED(once=5), lambda: os.kill(os.getpid(), signal.SIGINT))
    assert run.until(5) == 130
    assert run.held() == (1, 2)


@pytest.mark.parametrize("stopped", [True, False])
def test_signals_do_afterwards_what_they_did_before(stopped, folder):
    before = [signal.getsignal(number) for number in STATUS]
    run = Stopped(folder, init=1)
    if stopped:
        run.until(5)
    else:
        run.resume.run(run.trainer)
    assert [signal.getsignal(number) for number in STATUS] == before


def test_a_training_in_a_thread_leaves_signals_alone(folder):
    before = [signal.getsignal(number) for number in STATUS]
    run, seen = Stopped(folder, init=1, epochs=1), []
    run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: seen.append([signal.getsignal(number) for number in STATUS])
    )
    thread = threading.Thread(target=run.resume.run, args=(run.trainer,))
    thread.start()
    thread.join()
    assert seen == [before] * 3
    assert run.held() == (1, None)


def test_processes_that_load_data_leave_stops_to_the_training(folder):
    """As when a scheduler sends its signal to every process of a job."""
    run = Stopped(folder, init=1, num_workers=1, unlabelled=28)
    killed = []

    def kill(engine):
        if run.trainer.state.iteration == 1:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGINT)
                subprocess.run(["/bin/kill", "-TERM", str(child.pid)], check=True)  # their parent may end them
                killed.append(child.pid)
            time.sleep(0.2)

    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, kill)
    run.evaluator.add_event_handler(Events.STARTED, kill)
    run.until(3)
    assert len(set(killed)) == 2
    assert run.held() == (1, None)


def test_they_do_from_their_first_moment_on(folder, monkeypatch):
    """Before they have heard of it."""
    loop = worker._worker_loop

    def stopped_first(*arguments):
        subprocess.run(["/bin/kill", "-TERM", str(os.getpid())], check=True)
        loop(*arguments)

    monkeypatch.setattr(worker, "_worker_loop", stopped_first)
    run = Stopped(folder, init=1, num_workers=1, epochs=1)
    run.resume.run(run.trainer)
    assert run.held() == (1, None)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_processes_that_load_data_end_with_their_training(folder):
    run = Stopped(folder, init=1, num_workers=1, epochs=1)
    ended = []

    def terminate():
        child = multiprocessing.active_children()[0]
        child.terminate()
        child.join(10)
        ended.append(child.exitcode)

    run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), terminate)
    run.resume.run(run.trainer)
    assert ended == [0]


# --- the files --------------------------------------------------------------------------------------------------------


def test_a_broken_file_within_an_epoch_falls_back_to_the_end_of_the_one_before(folder, caplog, uninterrupted):
    whole = uninterrupted()
    first = Stopped(folder, init=1)
    first.until(5)
    truncate(first.resume.path)
    rest = Stopped(folder, init=2)
    assert rest.go_on() == 1
    assert "resume.pt.previous', the end of an epoch before" in caplog.text
    assert differing(rest.state(), whole) == []


def test_a_run_with_other_handlers_or_processes_is_refused_within_an_epoch(folder, monkeypatch):
    Stopped(folder, init=1).until(5)
    run = Run(folder, init=2)
    with pytest.raises(CheckpointError, match=r"with the sums of history\.csv, which no handler has here"):
        run.resume.load(run.trainer)
    run = Stopped(folder, init=2)
    monkeypatch.setattr("monai_kd.handlers.resume.processes", lambda: 2)
    with pytest.raises(CheckpointError, match="written within an epoch by 1 processes, 2 are here"):
        run.resume.load(run.trainer)


# --- how it is begun --------------------------------------------------------------------------------------------------


def test_what_resume_means(folder):
    assert Stopped(folder, init=1, epochs=2).go_on("auto") == 0
    assert Stopped(folder, init=1, epochs=2).go_on("AUTO") == 2
    assert Stopped(folder, init=1, epochs=2).go_on(False) == 0
    run = Stopped(folder, init=1, epochs=2)
    assert run.go_on(True) == 2
    for wrong in ("yes", None, 1):
        with pytest.raises(ValueError, match=r"'true' .*, 'false' .* or 'auto' .*, got"):
            run.resume.begin(run.trainer, wrong)
    truncate(run.resume.path)
    truncate(run.resume.previous)
    with pytest.raises(CheckpointError, match="is not whole"):
        run.resume.begin(run.trainer, "auto")


def elastic(monkeypatch, restarts, name="job", folder="/logs/a"):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", f"{folder}/attempt_{restarts}/0/error.json")


def test_restarted_processes_go_on_with_what_their_own_job_has_stored(folder, monkeypatch):
    Stopped(folder, init=1).until(5)  # of another day

    def begun(restarts, **job):
        elastic(monkeypatch, restarts, **job)
        run = Stopped(folder, init=2)
        return run, run.resume.begin(run.trainer, "false")

    assert begun(0)[1] == begun(1)[1] == 0
    run, done = begun(0)
    assert done == 0
    run.until(5)
    for same, job in [(True, {}), (False, {"name": "other"}), (False, {"folder": "/logs/b"})]:
        assert begun(1, **job)[1] == same
    assert begun(0)[1] == 0
    truncate(run.resume.path)
    truncate(run.resume.previous)
    assert begun(1)[1] == 0


# --- several processes ------------------------------------------------------------------------------------------------


class InTwo(Stopped):
    """One of two processes."""

    def __init__(self, folder, init):
        super().__init__(folder, init, epochs=2)
        self.trainer.network = DistributedDataParallel(self.network)
        self.handlers[1].module = DistributedDataParallel(self.distiller)


def stopped_in_two(rank, folder):
    logging.disable()
    whole, halves = (Path(folder) / name for name in ("whole", "halves"))
    for place in (whole, halves):
        place.mkdir(exist_ok=True)
    run = InTwo(whole, init=1)
    run.resume.run(run.trainer)
    expected = run.state()
    first = InTwo(halves, init=1)
    if rank == 1:
        first.trainer.add_event_handler(Events.ITERATION_STARTED(once=1), lambda: os.kill(os.getpid(), signal.SIGTERM))
    else:
        first.trainer.add_event_handler(Events.ITERATION_STARTED, lambda: time.sleep(0.05))
    with pytest.raises(SystemExit) as caught:
        first.resume.run(first.trainer)
    assert caught.value.code == 143
    assert first.trainer.state.iteration == 2  # the other one hears of it a step later
    assert first.held() == (0, 2)
    if rank == 0:
        states = torch.load(first.resume.path, weights_only=True)["within"]["states"]
        assert differing(*(state["random states"]["torch"] for state in states)) != []
    rest = InTwo(halves, init=2 + rank)
    assert rest.resume.begin(rest.trainer, "auto") == 0
    rest.resume.run(rest.trainer)
    assert differing(rest.state(), expected) == []


def test_a_signal_to_one_process_stops_all_after_the_same_step(in_processes):
    in_processes(stopped_in_two)


# --- weights that are no numbers --------------------------------------------------------------------------------------


def test_a_best_model_is_not_written_of_weights_that_are_not_finite(folder):
    """The loss is finite: a gradient in the last step of an epoch is not, and the validation follows."""
    run = Stopped(folder, init=1)

    @run.trainer.on(IterationEvents.BACKWARD_COMPLETED)
    def spoil(engine):
        if engine.state.iteration == 6:
            run.network[0].weight.grad.fill_(float("nan"))

    with pytest.raises(NonFiniteLossError, match=r"'0\.weight' of the object 'network' is not finite"):
        run.resume.run(run.trainer)
    assert run.held() == (1, None)
    assert all(value.isfinite().all() for value in torch.load(folder / "model.pt", weights_only=True).values())


def test_a_constant_may_be_infinite(folder):
    run = Stopped(folder, init=1, epochs=1)
    mask = torch.nn.Parameter(torch.tensor([0.0, -torch.inf]), requires_grad=False)
    run.resume.objects["masks"] = torch.nn.ParameterList([mask])
    run.resume.run(run.trainer)
    assert run.held() == (1, None)
