"""One row an epoch: means of the losses, scores of the validation; a resumed run goes on with the file."""

import csv

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from torch import nn

from monai_kd import DistillationHandler, DistillationTerm, Distiller, FrozenTeacher
from monai_kd.handlers import SaveHistory
from monai_kd.losses import HintLoss

LOSSES = ("loss", "task_loss", "hint")


def batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [{key: torch.rand(2, 1, 4, 4, generator=generator) for key in ("image", "label")} for _ in range(count)]


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def trainer(epochs, path, interval=1, extra=()):
    torch.manual_seed(0)
    network = nn.Conv2d(1, 1, 3, padding=1)
    error = Average(output_transform=lambda output: (output[0]["pred"] - output[0]["label"]).square().mean().item())
    evaluator = SupervisedEvaluator("cpu", batches(1, seed=9), network, key_val_metric={"val_error": error})
    handlers = [
        *[make(network) for make in extra],
        ValidationHandler(interval, evaluator),
        SaveHistory(path, evaluator),
    ]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return SupervisedTrainer("cpu", epochs, batches(3), network, optimizer, nn.MSELoss(), train_handlers=handlers)


def distil(network):
    torch.manual_seed(1)
    term = DistillationTerm("hint", HintLoss())
    return DistillationHandler(Distiller(network, FrozenTeacher(nn.Conv2d(1, 1, 3, padding=1)), [term]))


def test_losses_are_means_over_the_iterations_of_an_epoch(tmp_path):
    seen = []

    class Watch:
        def attach(self, engine):
            engine.add_event_handler(
                Events.ITERATION_COMPLETED,
                lambda engine: seen.append({key: float(engine.state.output[0][key]) for key in LOSSES}),
            )

    trainer(2, tmp_path / "history.csv", extra=[distil, lambda network: Watch()]).run()
    found = rows(tmp_path / "history.csv")
    assert [row["epoch"] for row in found] == ["1", "2"]
    for epoch, row in enumerate(found):
        for key in LOSSES:
            expected = sum(one[key] for one in seen[3 * epoch : 3 * epoch + 3]) / 3
            assert float(row[key]) == pytest.approx(expected, rel=1e-5)


def test_scores_stand_in_the_epochs_that_were_validated(tmp_path):
    trainer(3, tmp_path / "history.csv", interval=2).run()
    assert [bool(row["val_error"]) for row in rows(tmp_path / "history.csv")] == [False, True, False]


def test_no_data_is_taken_for_a_loss(tmp_path):
    trainer(1, tmp_path / "history.csv").run()
    assert set(rows(tmp_path / "history.csv")[0]) == {"epoch", "loss", "val_error"}


def test_a_resumed_run_goes_on_with_the_rows_before_it(tmp_path):
    path = tmp_path / "history.csv"
    trainer(3, path).run()
    before = path.read_text(encoding="utf-8").splitlines()
    resumed = trainer(4, path)
    resumed.state.epoch, resumed.state.iteration = 2, 6  # the third epoch was not kept by the checkpoint
    resumed.run()
    after = path.read_text(encoding="utf-8").splitlines()
    assert after[:3] == before[:3]
    assert [row["epoch"] for row in rows(path)] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("kept", [1, 2])
def test_the_file_of_a_resumed_run_is_that_of_an_uninterrupted_one(tmp_path, kept):
    """To the byte, columns that come late included, whether the row that was not kept was written or only begun."""
    whole, path = tmp_path / "whole.csv", tmp_path / "stopped" / "history.csv"
    trainer(4, whole, interval=2).run()
    columns, *lines = whole.read_text(encoding="utf-8").splitlines()
    path.parent.mkdir()
    path.write_text("\n".join([columns, *lines[: kept + 1], ""]), encoding="utf-8")
    (path.parent / f".history.csv.{'0' * 32}").write_text("epoch,lo", encoding="utf-8")
    before = trainer(kept, tmp_path / "before.csv", interval=2)
    before.run()
    resumed = trainer(4, path, interval=2)
    resumed.network.load_state_dict(before.network.state_dict())
    resumed.state.epoch, resumed.state.iteration = kept, 3 * kept
    resumed.run()
    assert path.read_bytes() == whole.read_bytes()
    assert list(path.parent.iterdir()) == [path]


def test_a_new_run_begins_a_new_file(tmp_path):
    path = tmp_path / "history.csv"
    trainer(3, path).run()
    trainer(1, path).run()
    assert len(rows(path)) == 1


def test_a_run_that_fails_keeps_the_epochs_it_finished(tmp_path):
    path = tmp_path / "history.csv"
    trainer(2, path).run()
    before = path.read_text(encoding="utf-8")

    def fail(network):
        raise RuntimeError("stop")

    stopped = trainer(2, path)
    stopped.network.register_forward_hook(lambda *_: fail(None))
    with pytest.raises(RuntimeError, match="stop"):
        stopped.run()
    assert path.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_that_is_no_dict_is_refused(tmp_path):
    engine = Engine(lambda engine, batch: 0.5)
    SaveHistory(tmp_path / "history.csv").attach(engine)
    with pytest.raises(TypeError, match="output of dicts, got float"):
        engine.run([0])
