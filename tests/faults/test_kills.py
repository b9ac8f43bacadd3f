"""A training that is killed, or stopped, and resumed leaves what an uninterrupted one leaves, bit for bit."""

import random
from collections import Counter
from itertools import count
from pathlib import Path

import pytest

from ..bundles import test_crckd_skin_lesion_classification as crckd
from ..bundles.first_steps import prepared
from ..bundles.running import Bundle, differing
from .killing import KINDS, Training, left

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="says by /proc what a process is doing"),
]

CRCKD = "crckd_skin_lesion_classification"
HALF = {"labelled_fraction": 0.5}
TRAININGS = {
    "kdas_polyp_segmentation": {"epochs": 4, "epoch_length": 3, **HALF},
    "hlfd_kidney_tumor_segmentation": {"epochs": 4, "epoch_length": 3, "num_workers": 2, **HALF},
    CRCKD: {"epochs": 3, **HALF},
    "hdkd_skin_lesion_classification": {"epochs": 4, **HALF},
}
SHORT = dict(zip(TRAININGS, ("resume file", "step", "resume file", "best model")))
KILLS = 20  # of each training in the long form
STOPS = 4


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """``uninterrupted(name)``: a training, what it leaves, and how many steps it has."""
    known = {}

    def train(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            if name == CRCKD:
                lesions = dict.fromkeys(crckd.HAM10000_CLASSES, 6)
                common = crckd.settings(crckd.write_lesions(folder / "data", lesions), folder)
            else:
                common = prepared(name, folder / "data", folder)
                common["teacher_checkpoint"] = str(folder / "models" / "teacher.pt")
            training = Training(Bundle(name), {**common, **TRAININGS[name]})
            steps = training.whole(folder / "whole")
            known[name] = training, left(folder / "whole"), steps
        return known[name]

    return train


def check(uninterrupted, folder, name, kind, seed):
    training, expected, steps = uninterrupted(name)
    draw = random.Random(f"{name} {seed}")
    for attempt in count():  # a training may end before it comes to the point, such as a model better than all before
        assert attempt < 10
        one = folder / str(attempt)
        if training.killed(one, kind, draw.randint(1, steps), delay=draw.uniform(0, 0.3)):
            break
    training.finish(one)
    assert differing(left(one), expected) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_a_killed_training_goes_on_as_if_it_had_not_been(uninterrupted, tmp_path, name):
    check(uninterrupted, tmp_path, name, SHORT[name], seed=0)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(1, KILLS + 1))
@pytest.mark.parametrize("name", TRAININGS)
def test_any_point_will_do(uninterrupted, tmp_path, name, seed):
    kind = KINDS[(0, 1, 0, 2)[seed % 4]]
    check(uninterrupted, tmp_path, name, kind, seed)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(1, STOPS + 1))
@pytest.mark.parametrize("name", TRAININGS)
def test_any_step_will_do_for_a_signal(uninterrupted, tmp_path, name, seed):
    check(uninterrupted, tmp_path, name, "signal", seed)


@pytest.mark.parametrize("name", TRAININGS)
def test_what_is_compared_is_what_training_changes(uninterrupted, name):
    _, expected, steps = uninterrupted(name)
    kinds = Counter(path.partition(".")[2] for path in expected)
    assert kinds["history.csv"] == kinds["pt.previous"] == 1
    assert {"models/model.pt", "models/distilled_resume.pt", "names"} < expected.keys()
    newest, before = (expected[f"models/distilled_resume.pt{end}"] for end in ("", ".previous"))
    assert newest["trainer"]["iteration"] == steps
    changed = differing(newest["objects"], before["objects"])
    parts = {"network", "optimizer", "lr_scheduler", "distiller"}
    frozen = {"distiller"} - {key for key, value in newest["objects"].items() if value["state"]}
    assert {key.split("/")[1] for key in changed} >= parts - frozen
