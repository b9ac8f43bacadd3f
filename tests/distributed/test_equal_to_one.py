"""Trainings in several processes are those in one with the same global batch, for every bundle.

What is drawn of an item is drawn by the item, batch statistics are off, the optimiser is SGD: its steps are in
proportion to the gradients, where Adam's make whole steps of a gradient that is 0 but for rounding. Everything else is
the bundle's own: the sampler's shuffle, labelled and unlabelled loaders, adapters, banks, mean teachers, schedules.

Sums are in another order, so numbers agree to float32's rounding, not to the bit. A weight near 1 is rounded by 1e-7 in
each of some ten steps, and what the rounding of gradients does is in proportion to the way that the weights have gone.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ..bundles.running import differing, environment, files, table, weights
from . import trainings
from .recipes import AS_THEY_ARE, LAW, REFUSED, VALIDATION, WRONG, made, training

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PROCESSES = [2, pytest.param(4, marks=pytest.mark.distributed)]
ABSOLUTE, OF_THE_WAY = 1e-6, 1e-5
KINDS = {"law": LAW, "validation": VALIDATION, "wrong": WRONG, "as they are": AS_THEY_ARE, "refused": REFUSED}
SEVERAL_ONLY = ("wrong", "as they are", "refused")


class Runs:
    """All trainings of one number of processes, done together when the first is asked for."""

    def __init__(self, folder):
        self.folder = folder
        self.common = {}
        self.asked = set()

    def folder_of(self, kind, name, processes):
        return self.folder / str(processes) / kind.replace(" ", "_") / name.replace(" ", "_")

    def records(self, kind, name, processes):
        """What each process has noted of a training."""
        if processes not in self.asked:
            self.asked.add(processes)  # once, also if they fail
            self._run(processes)
        folder = self.folder_of(kind, name, processes)
        return [weights(folder / f"rank{rank}.pt") for rank in range(processes)]

    def _run(self, processes):
        plan = []
        for kind, recipes in KINDS.items():
            if processes == 1 and kind in SEVERAL_ONLY:
                continue
            for name, recipe in recipes.items():
                if recipe[0] not in self.common:
                    self.common[recipe[0]] = made(recipe[0], self.folder / recipe[0])
                arguments = training(recipe, self.common[recipe[0]], self.folder_of(kind, name, processes), processes)
                plan.append({**arguments, "by_item": kind != "as they are", "refused": kind == "refused"})
        if processes == 1:
            for one in plan:
                trainings.train(**one)
            return
        path = self.folder / f"plan{processes}.json"
        path.write_text(json.dumps(plan), encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        words = [sys.executable, *launcher, trainings.__file__, str(path)]
        run = subprocess.run(words, env=environment(), capture_output=True, encoding="utf-8", timeout=550)
        assert run.returncode == 0, (run.stdout + run.stderr)[-5000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("several"))


def way(record, part):
    """How far the training has moved a part, at most."""
    before, after = record["before"][part], record["after"][part]
    moves = ((after[key] - before[key]).nan_to_num().abs() for key in numbers(after))  # unset, a constant is NaN
    return max([float(move.max()) for move in moves], default=0.0)


def numbers(state):
    return [key for key, value in state.items() if isinstance(value, torch.Tensor) and value.is_floating_point()]


def furthest(one, other):
    """The largest difference of two states."""
    assert one.keys() == other.keys()
    kept = {key: value for key, value in one.items() if key not in numbers(one)}
    assert differing(kept, {key: other[key] for key in kept}) == []
    return max([float((one[key] - other[key]).abs().max()) for key in numbers(one)], default=0.0)


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("name", LAW)
class TestLaw:
    def test_student_adapters_banks_and_mean_teacher(self, runs, name, processes):
        (one,), several = runs.records("law", name, 1), runs.records("law", name, processes)
        for part in one["after"]:
            assert differing(*(record["after"][part] for record in several[:2])) == []
            gone = way(one, part)
            assert gone > 1e-3 or not numbers(one["after"][part])
            for record in several:
                torch.testing.assert_close(record["before"][part], one["before"][part], rtol=0, atol=0, equal_nan=True)
                assert furthest(record["after"][part], one["after"][part]) <= ABSOLUTE + OF_THE_WAY * gone, part

    def test_the_order_of_the_data_and_every_loss(self, runs, name, processes):
        (one,), several = runs.records("law", name, 1), runs.records("law", name, processes)
        for step, *shares in zip(one["steps"], *(record["steps"] for record in several), strict=True):
            assert len({len(share["items"]) for share in shares}) == 1
            together = torch.cat([share["items"] for share in shares])
            assert torch.equal(together.sort()[0], step["items"].sort()[0])
            for term, value in step["losses"].items():
                mean = sum(share["losses"][term] for share in shares) / processes
                assert mean == pytest.approx(value, rel=1e-5, abs=1e-6), term

    def test_the_table_of_epochs_and_the_scores(self, runs, name, processes):
        """Not the Dice: the last bit of a weight may bring a voxel to the other side of a threshold."""
        records = [runs.records("law", name, count)[0] for count in (1, processes)]
        histories = [Path(runs.folder_of("law", name, count), "0", "eval") for count in (1, processes)]
        one, several = (table(next(folder.glob("*.history.csv"))) for folder in histories)
        assert len(one) == 2
        for ours, theirs in zip(several, one, strict=True):
            assert ours.keys() == theirs.keys()
            for key, value in theirs.items():
                if key in records[0]["steps"][0]["losses"]:
                    assert float(ours[key]) == pytest.approx(float(value), rel=2e-5, abs=2e-6), key
        if "val_mean_dice" not in records[0]["metrics"]:
            assert records[1]["metrics"] == pytest.approx(records[0]["metrics"], abs=1e-6, nan_ok=True)

    def test_the_first_process_alone_writes(self, runs, name, processes):
        runs.records("law", name, 1), runs.records("law", name, processes)
        one, several = (runs.folder_of("law", name, count) for count in (1, processes))
        assert sorted(path.name for path in several.iterdir() if path.is_dir()) == ["0"]
        ours, theirs = (
            [path for path in files(folder / "0") if "tensorboard" not in path] for folder in (several, one)
        )
        assert ours == theirs
        assert any(path.endswith("_resume.pt") for path in ours)


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("name", VALIDATION)
def test_one_network_has_the_score_that_it_has_in_one_process(runs, name, processes):
    """Cases are shared unevenly, and none counts twice."""
    (one,), several = runs.records("validation", name, 1), runs.records("validation", name, processes)
    assert way(one, "student") < 1e-20
    assert 0 < one["metrics"]["val_mean_dice"] < 1
    for record in several:
        assert record["metrics"] == pytest.approx(one["metrics"], rel=1e-6)


def test_the_law_sees_a_mean_over_the_means_of_the_processes(runs):
    (one,), several = runs.records("law", "hdkd", 1), runs.records("wrong", "hdkd", 2)
    allowed = ABSOLUTE + OF_THE_WAY * way(one, "student")
    assert furthest(several[0]["after"]["student"], one["after"]["student"]) > 100 * allowed


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_with_all_that_is_drawn_and_uneven_counts_processes_hold_the_same_networks(runs, name, processes):
    """But for batch statistics, each process's own."""
    first, *others = runs.records("as they are", name, processes)
    for record in others:
        for part, state in first["after"].items():
            own = {key for key in state if "running_" in key or "tracked" in key}
            mine, theirs = ({k: v for k, v in x.items() if k not in own} for x in (state, record["after"][part]))
            assert differing(mine, theirs) == []


@pytest.mark.parametrize("processes", PROCESSES)
def test_every_image_is_trained_on_and_remembered_though_counts_are_uneven(runs, processes):
    records = runs.records("as they are", "crckd", processes)
    steps = [[step["index"] for step in record["steps"]] for record in records]
    assert len({tuple(map(len, one)) for one in steps}) == 1  # in each step as many in each process
    share = -(-13 // processes)
    first_pass = [[index for step in one for index in step][:share] for one in steps]
    met = sorted(index for one in first_pass for index in one)
    assert sorted(set(met)) == list(range(13))
    assert len(met) == share * processes
    before, after = (records[0][when]["distiller"] for when in ("before", "after"))
    for name in ("student_rows", "teacher_rows"):
        key = f"terms.class_contrast.loss.memory.{name}"
        assert (after[key] != before[key]).any(dim=1).all()
        torch.testing.assert_close(after[key].norm(dim=1), torch.ones(13))


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("name", REFUSED)
def test_fewer_cases_than_processes_are_refused_before_the_training(runs, name, processes):
    said = f"{processes} processes need one item each, but there are 1 in validation; give more data"
    for message in runs.records("refused", name, processes):
        assert message.startswith(said)
    records = [f"rank{rank}.pt" for rank in range(processes)]
    assert files(runs.folder_of("refused", name, processes)) == records
