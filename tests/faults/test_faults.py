"""What can go wrong while a network trains: what is said, how the program ends, and that nothing is lost by it."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import time

import pytest
import torch
from ignite.engine import Events

from monai_kd.errors import user_message
from monai_kd.handlers import NonFiniteLossError, NonFiniteTermError

from ..bundles import test_crckd_skin_lesion_classification as crckd
from ..bundles.first_steps import prepared
from ..bundles.running import PYTHON, TORCHRUN, Bundle, differing, environment, results
from ..handlers.test_resume import Run, truncate

pytestmark = pytest.mark.filterwarnings("ignore")

KDAS, CRCKD = "kdas_polyp_segmentation", "crckd_skin_lesion_classification"
PATIENCE = 300


class Training(Run):
    """A tiny one, with a table of its epochs."""

    def __init__(self, folder, init=1, **kwargs):
        super().__init__(folder, init, epochs=3, table=True, **kwargs)

    def fails(self):
        """The error that ends it."""
        with pytest.raises((RuntimeError, OSError)) as caught:
            self.resume.run(self.trainer)
        return caught.value

    def go_on(self):
        done = self.resume.begin(self.trainer, "true")
        self.resume.run(self.trainer)
        return done

    def left(self):
        files = {path.name: path.read_bytes() for path in self.folder.iterdir() if path.suffix == ".csv"}
        return {**self.state(), **files, "names": sorted(path.name for path in self.folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """``whole(**settings)``: what an undisturbed training leaves."""
    known = {}

    def train(**settings):
        key = tuple(settings.items())
        if key not in known:
            run = Training(tmp_path_factory.mktemp("whole"), **settings)
            run.resume.run(run.trainer)
            known[key] = run.left()
        return known[key]

    return train


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk():
    """``disk(size)``: no file can be larger from now on; ``disk()`` ends it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(size=soft):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield fill
    fill()


@pytest.mark.parametrize("file", ["model.pt", "history.csv", "resume.pt"])
def test_a_full_disk(file, tmp_path, disk, whole, caplog):
    scores = (0.1, 0.2, 0.3)
    run = Training(tmp_path, scores=scores)
    held = {}

    def fill():
        if run.trainer.state.epoch == 2:
            held["before"] = (tmp_path / file).read_bytes()
            disk(100)

    first = {
        "model.pt": (run.evaluator, Events.STARTED),
        "history.csv": (run.evaluator, Events.COMPLETED),
        "resume.pt": (run.trainer, Events.EPOCH_COMPLETED),
    }
    if file == "resume.pt":
        content = run.resume._content  # what comes before the file is written
        run.resume._content = lambda *arguments: fill() or content(*arguments)
    else:
        engine, event = first[file]
        engine.add_event_handler(event, fill)
    error = run.fails()
    disk()
    assert f"cannot write '{tmp_path}/{file}': File too large; it takes 0.0 MB, " in user_message(error)
    assert "The file of before is whole." in user_message(error)
    assert "holds the end of epoch 1: continue with the same command and --resume true" in caplog.text
    assert (tmp_path / file).read_bytes() == held["before"]
    assert not list(tmp_path.glob(".*"))
    rest = Training(tmp_path, init=2, scores=scores)
    assert rest.go_on() == 1
    assert differing(rest.left(), whole(scores=scores)) == []


def test_a_full_disk_where_a_stop_is_to_be_saved(tmp_path, disk, whole):
    run = Training(tmp_path)

    @run.trainer.on(Events.ITERATION_STARTED(once=5))
    def stop():
        signal.raise_signal(signal.SIGTERM)
        disk(100)

    error = run.fails()
    disk()
    assert f"cannot write '{tmp_path}/resume.pt': File too large" in user_message(error)
    rest = Training(tmp_path, init=2)
    assert rest.go_on() == 1
    assert differing(rest.left(), whole()) == []


def test_a_best_model_that_is_not_whole_is_written_again(tmp_path, caplog):
    scores = (0.9, 0.1, 0.5)
    run = Training(tmp_path, scores=scores)
    run.trainer.add_event_handler(Events.ITERATION_STARTED(once=5), lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        run.resume.run(run.trainer)
    truncate(tmp_path / "model.pt")
    rest = Training(tmp_path, init=2, scores=scores)
    rest.go_on()
    assert "/model.pt' is not whole (File is not a zip file); the next validation writes one" in caplog.text
    assert differing(rest.model(), rest.network.state_dict()) == []


# --- the data ---------------------------------------------------------------------------------------------------------


def kill_a_worker():
    child = multiprocessing.active_children()[0]
    os.kill(child.pid, signal.SIGKILL)
    time.sleep(0.5)  # its end is told to the program by a signal


def test_a_process_that_loads_data_is_killed(tmp_path, whole, caplog):
    run = Training(tmp_path, num_workers=2)
    run.trainer.add_event_handler(Events.ITERATION_STARTED(once=5), kill_a_worker)
    message = user_message(run.fails())
    assert "is killed by signal: Killed. A process that loads data was ended from outside" in message
    assert "lower num_workers, batch_size or cache_rate" in message
    assert "ended in epoch 2, step 2 of 3." in caplog.text
    assert "holds the end of epoch 1: continue with the same command and --resume true" in caplog.text
    rest = Training(tmp_path, init=2, num_workers=2)
    assert rest.go_on() == 1
    assert differing(rest.left(), whole(num_workers=2)) == []


def spoil(run, where):
    """NaN in the fifth step: in the images of its batch, or in the loss."""
    if where == "images":

        @run.trainer.on(Events.GET_BATCH_COMPLETED(once=4))
        def nan():
            run.trainer.state.batch["image"].fill_(float("nan"))

    else:
        function = run.trainer.loss_function
        run.trainer.loss_function = lambda *given: (
            function(*given) * (float("nan") if run.trainer.state.iteration == 5 else 1)
        )


@pytest.mark.parametrize(
    ("where", "kind", "said"),
    [
        ("images", NonFiniteTermError, "distillation term 'soft', 'hint' and the task loss are not finite"),
        ("loss", NonFiniteLossError, "the task loss is not finite"),
    ],
)
def test_a_batch_that_is_no_number(where, kind, said, tmp_path, whole, caplog):
    run = Training(tmp_path)
    spoil(run, where)
    error = run.fails()
    assert type(error) is kind
    assert user_message(error).startswith(f"{said} in epoch 2, iteration 5. Look at the images and ")
    assert "holds the end of epoch 1: continue with the same command and --resume true" in caplog.text
    assert torch.load(run.resume.path, weights_only=True)["trainer"]["epoch"] == 1
    rest = Training(tmp_path, init=2)
    assert rest.go_on() == 1
    assert differing(rest.left(), whole()) == []


def test_a_training_without_distillation_stops_too(tmp_path):
    run = Training(tmp_path)
    run.trainer._event_handlers.clear()
    run.resume.attach(run.trainer)
    spoil(run, "loss")
    assert user_message(run.fails()).startswith("the loss is not finite in epoch 2, iteration 5.")
    assert torch.load(run.resume.path, weights_only=True)["trainer"]["epoch"] == 1


def test_parameters_that_are_no_numbers_are_not_stored(tmp_path, caplog):
    """As the last step of an epoch may leave them, whose loss was still finite."""
    run = Training(tmp_path)

    def explode(optimizer, *_):
        if run.trainer.state.iteration == 6:
            run.network[0].weight.data[0] = float("inf")

    run.optimizer.register_step_post_hook(explode)
    run.evaluator.add_event_handler(Events.STARTED, lambda: run.evaluator.terminate(skip_completed=True))
    error = run.fails()
    assert isinstance(error, NonFiniteLossError)
    assert "'0.weight' of the object 'network' is not finite in epoch 2, step 3 of 3, and is not stored" in str(error)
    assert torch.load(run.resume.path, weights_only=True)["trainer"]["epoch"] == 1


# --- whole bundles, as processes --------------------------------------------------------------------------------------


class Process:
    """A bundle's training whose output can be waited for."""

    def __init__(self, bundle, folder, *configs, launcher=PYTHON, **settings):
        self.log = folder / f"{time.monotonic_ns()}.log"
        words = bundle.words(launcher, "train.json", *configs, **settings)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=subprocess.STDOUT, env=environment(), start_new_session=True
            )

    def shown(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text, count=1):
        end = time.monotonic() + PATIENCE
        while self.shown().count(text) < count:
            assert self.process.poll() is None, self.shown()[-3000:]
            assert time.monotonic() < end
            time.sleep(0.02)

    def loaders(self):
        """The processes that load its data."""
        number = self.process.pid
        with open(f"/proc/{number}/task/{number}/children", encoding="utf-8") as children:
            return list(map(int, children.read().split()))

    def end(self):
        try:
            return self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def kdas(tmp_path_factory):
    """``kdas(folder)``: settings of a training; and what an undisturbed one leaves."""
    folder = tmp_path_factory.mktemp("kdas")
    common = prepared(KDAS, folder / "data", folder)
    common |= {"teacher_checkpoint": str(folder / "models" / "teacher.pt"), "epochs": 2, "epoch_length": 6}
    common |= {"labelled_fraction": 0.5, "num_workers": 2, "log_interval": 1}

    def settings(folder, **more):
        return {**common, "ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval"), **more}

    Bundle(KDAS).run("train.json", **settings(folder / "whole"))
    return settings, results(folder / "whole")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="finds the loading processes in /proc")
def test_a_bundle_whose_loader_is_killed_and_that_is_preempted(kdas, tmp_path):
    settings, expected = kdas
    bundle, models = Bundle(KDAS), tmp_path / "models"
    first = Process(bundle, tmp_path, **settings(tmp_path))
    first.wait_for("Iter: ", 7)
    os.kill(first.loaders()[-1], signal.SIGKILL)
    assert first.end() == 1
    shown = first.shown()
    assert "Traceback" not in shown
    assert "error: DataLoader worker (pid" in shown
    assert f"'{models}/distilled_resume.pt' holds the end of epoch 1: continue with the same command" in shown

    second = Process(bundle, tmp_path, **settings(tmp_path, resume="auto"))
    second.wait_for("Iter: ", 2)
    os.killpg(second.process.pid, signal.SIGTERM)  # the processes that load data too
    assert second.end() == 143
    shown = second.shown()
    assert "Traceback" not in shown
    assert "stopped in epoch 2 after step " in shown
    assert f"'{models}/distilled_resume.pt' holds epoch 2 up to step " in shown

    bundle.run("train.json", **settings(tmp_path, resume="auto"))
    assert differing(results(tmp_path), expected) == []


@pytest.mark.slow
def test_a_bundle_that_is_stopped_while_it_fills_its_cache(tmp_path):
    begun = tmp_path / "begun"
    read = f"$lambda picture: (open({str(begun)!r}, 'w').close(), __import__('time').sleep(100))"
    lesions = crckd.write_lesions(tmp_path / "data", dict.fromkeys(crckd.HAM10000_CLASSES, 6))
    more = {"num_workers": 2, "load_transforms#0#converter": read}
    training = Process(Bundle(CRCKD), tmp_path, **crckd.settings(lesions, tmp_path, **more))
    while not begun.exists():
        assert training.process.poll() is None, training.shown()[-3000:]
        time.sleep(0.02)
    os.killpg(training.process.pid, signal.SIGINT)
    assert training.end() == 130
    shown = training.shown()
    assert "Traceback" not in shown
    assert "stopped by SIGINT" in shown
    assert not (tmp_path / "models").exists() or not any((tmp_path / "models").iterdir())


DIES = (
    "$None if (os.environ['TORCHELASTIC_RESTART_COUNT'], os.environ['RANK']) != ('0', '1') else "
    "@train#trainer.add_event_handler(monai.engines.workflow.Events.ITERATION_COMPLETED(once=8), "
    "lambda: os._exit(3))"
)


@pytest.mark.faults
def test_torchrun_restarts_a_training_whose_process_has_died(kdas, tmp_path):
    """``--max-restarts``: it goes on behind the last epoch that this job has stored, whatever lies there of another."""
    settings, _ = kdas
    begin, run = json.loads((Bundle(KDAS).configs / "train.json").read_text(encoding="utf-8"))["run"]
    dying = tmp_path / "dying.json"
    dying.write_text(json.dumps({"run": [begin, DIES, run]}), encoding="utf-8")
    for name, overrides, launcher in (
        ("whole", [], TORCHRUN),
        ("other", [dying], [*TORCHRUN, "--max-restarts=1"]),
        ("other", [], TORCHRUN),
        ("other", [dying], [*TORCHRUN, "--max-restarts=1"]),
    ):
        common = settings(tmp_path / name, batch_size=3, num_workers=0)
        del common["device"]
        training = Process(Bundle(KDAS), tmp_path, "multi_gpu_train.json", *overrides, launcher=launcher, **common)
        assert training.end() == 0, training.shown()[-5000:]
        begun = [training.shown().count(f"Epoch: {epoch}/2, Iter: 1/6 --") for epoch in (1, 2)]
        assert begun == [1, 1 + bool(overrides)]
        found = differing(results(tmp_path / name), results(tmp_path / "whole"))
        assert [key for key in found if not key.endswith("/job")] == []
