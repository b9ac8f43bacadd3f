"""What a training went on without is said once, and written down."""

import csv
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, ScaleIntensityd
from PIL import Image
from torch import nn

from monai_kd.data import Case, ReadableDataset, UnreadableCases
from monai_kd.handlers import SaveSkippedCases


@pytest.fixture
def items(tmp_path):
    for number in range(8):
        Image.new("L", (4, 4), number).save(tmp_path / f"{number}.png")
    return [{"image": str(tmp_path / f"{number}.png"), "label": torch.zeros(1)} for number in range(8)]


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


def train(items, path, unreadable, epochs=2, workers=0, spoil=(), start=0):
    """A training in which the file of a case goes at the end of an epoch: ``{epoch: case}``."""
    load = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), ScaleIntensityd("image")])
    loader = DataLoader(ReadableDataset(items, load, unreadable, cache_rate=0.0), batch_size=2, num_workers=workers)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    handler = SaveSkippedCases(unreadable, path)
    trainer = SupervisedTrainer("cpu", epochs, loader, network, optimizer, nn.MSELoss(), train_handlers=[handler])

    def lose(engine):
        if engine.state.epoch in dict(spoil):
            os.remove(items[dict(spoil)[engine.state.epoch]]["image"])

    trainer.add_event_handler(Events.EPOCH_COMPLETED, lose)
    trainer.state.epoch, trainer.state.iteration, trainer.state.epoch_length = start, 4 * start, 4
    trainer.run()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_row_and_a_warning_for_each_case(items, tmp_path, caplog, workers):
    path = tmp_path / "out" / "skipped.csv"
    unreadable = UnreadableCases("skip", 0.5)
    unreadable.leave_out([(Case(6, items[6]["image"], "odd"), items[6])], 8)
    with caplog.at_level(logging.WARNING):
        train(items, path, unreadable, epochs=4, workers=workers, spoil={1: 5, 2: 3})
    expected = [("0", "6", "odd"), ("2", "5", "image: no such file"), ("3", "3", "image: no such file")]
    assert rows(path) == [(epoch, index, items[int(index)]["image"], problem) for epoch, index, problem in expected]
    assert [record.message.startswith("skipped: item") for record in caplog.records].count(True) == 3
    assert sorted(os.listdir(path.parent)) == ["skipped.csv"]


def test_a_note_is_read_once(items, tmp_path, monkeypatch):
    """However many steps follow."""
    read = []
    text_of = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **how: read.append(path) or text_of(path, **how))
    train(items, tmp_path / "skipped.csv", UnreadableCases("skip", 0.5), epochs=4, spoil={1: 5, 2: 3})
    assert len(read) == 2


def test_no_file_without_a_case_and_none_of_an_earlier_run(items, tmp_path):
    path = tmp_path / "skipped.csv"
    path.write_text("epoch,index,path,problem\n1,2,x,y\n", encoding="utf-8")
    train(items, path, UnreadableCases("skip"))
    assert not path.exists()


def test_a_resumed_run_keeps_the_rows(items, tmp_path):
    path = tmp_path / "skipped.csv"
    train(items, path, UnreadableCases("skip", 0.5), epochs=2, spoil={1: 5})
    train(items, path, UnreadableCases("skip", 0.5), epochs=4, spoil={3: 2}, start=2)
    assert [row[:2] for row in rows(path)] == [("2", "5"), ("4", "2")]


def test_where_nothing_is_skipped_nothing_is_done(items, tmp_path):
    train(items, tmp_path / "skipped.csv", UnreadableCases("stop"))
    assert not (tmp_path / "skipped.csv").exists()


SCRIPT = """
import sys
import torch.distributed as dist
from monai_kd.data import UnreadableError
from tests.handlers.test_skipped_cases import *

dist.init_process_group("gloo")
folder = sys.argv[1]
items = [{"image": f"{folder}/{number}.png", "label": torch.zeros(1)} for number in range(8)]
unreadable = UnreadableCases("skip", 0.5)
if dist.get_rank() == 0:
    unreadable.leave_out([(Case(6, items[6]["image"], "odd"), items[6])], 8)
else:
    unreadable.hear()
assert [items.index(item) for item in unreadable.readable(items)] == [0, 1, 2, 3, 4, 5, 7]
own = items[4 * dist.get_rank() :][:4]
train(own, f"{folder}/skipped.csv", unreadable, epochs=2, spoil={1: 1})
unreadable.share = 0.375
try:
    train(own, f"{folder}/more.csv", unreadable, epochs=3, spoil={1: 2})
except UnreadableError as error:
    print(f"process {dist.get_rank()} of 2: {str(error).partition(',')[0]}", flush=True)
dist.destroy_process_group()
"""


def test_the_first_process_hears_of_the_others_cases(items, tmp_path):
    (tmp_path / "run.py").write_text(SCRIPT, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = [*launcher, str(tmp_path / "run.py"), str(tmp_path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=120, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = rows(tmp_path / "skipped.csv")
    assert sorted(row[:1] + row[2:3] for row in found) == [
        ("0", items[6]["image"]),
        ("2", items[1]["image"]),
        ("2", items[5]["image"]),
    ]
    # Three of eight may be skipped: no process has more, both together have.
    for process in range(2):
        assert f"process {process} of 2: 4 of 8 training cases cannot be used" in done.stdout
    assert len(rows(tmp_path / "more.csv")) == 4
