"""What a stopped run and the one that goes on with it must have in common."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from torch import nn

from monai_kd.checkpoints import CheckpointError
from monai_kd.settings import run_settings

from .handlers.test_resume import trainer_with

BUNDLES = Path(__file__).parents[1] / "bundles"
ITEMS = [{"image": f"/data/{case}/image.nii.gz", "label": f"/data/{case}/label.nii.gz"} for case in "abc"]
CLASSES = [{"image": f"/data/{name}.png", "label": number} for number, name in enumerate("abc")]


def digest(items):
    return run_settings({}, training=items)["training"]


def test_items_may_lie_elsewhere():
    moved = [{key: value.replace("/data", "/other/disk") for key, value in item.items()} for item in ITEMS]
    assert digest(moved) == digest(ITEMS)
    assert digest([{key: Path(value) for key, value in item.items()} for item in ITEMS]) == digest(ITEMS)


@pytest.mark.parametrize(
    "other",
    [
        ITEMS[:2],
        ITEMS[::-1],
        [*ITEMS[:2], {"image": "/data/d/image.nii.gz", "label": "/data/d/label.nii.gz"}],
        [*ITEMS[:2], {"image": ITEMS[2]["image"]}],
        [],
    ],
)
def test_other_items_are_seen(other):
    assert digest(other) != digest(ITEMS)


def test_other_classes_are_seen():
    assert digest([{**CLASSES[0], "label": 2}, *CLASSES[1:]]) != digest(CLASSES)


def test_a_run_may_go_on_with_more_epochs_and_workers():
    assert run_settings({"seed": 1, "epochs": 3, "num_workers": 4}) == {"seed": 1}


def resumable(path, **settings):
    trainer, resume = trainer_with(path, nn.Linear(2, 2))
    resume.settings = settings
    return trainer, resume


def test_a_run_with_other_settings_does_not_go_on(tmp_path):
    first, _ = resumable(tmp_path / "r.pt", seed=0, learning_rate=0.1, rate=1)
    first.run()
    trainer, resume = resumable(tmp_path / "r.pt", seed=0, learning_rate=0.5, fold=2)
    with pytest.raises(CheckpointError) as caught:
        resume.begin(trainer, "auto")
    for said in ("'fold' was not there, here it is 2", "'learning_rate' was 0.1, here it is 0.5", "'rate' was 1, here"):
        assert said in str(caught.value)
    trainer, resume = resumable(tmp_path / "r.pt", seed=0, learning_rate=0.1, rate=1)
    assert resume.begin(trainer, "auto") > 0


@pytest.mark.parametrize("path", sorted(BUNDLES.glob("*/configs/train.json")), ids=lambda path: path.parents[1].name)
def test_every_bundle_stores_its_settings_and_items(path):
    resume = json.loads(path.read_text(encoding="utf-8"))["resume_checkpoint"]
    assert re.fullmatch(r"\$run_settings\(@checked_settings, training=@\S+, validation=@\S+\)", resume["settings"])
