"""The segmentation bundles' trainings, stopped and resumed, end as those that were not stopped, bit for bit."""

import json
from copy import deepcopy

import pytest

from monai_kd.report import load_evaluations

from .first_steps import prepared
from .running import TORCHRUN, Bundle, differing, files, results, weights

pytestmark = pytest.mark.filterwarnings("ignore")

KDAS, KIDNEY, LIVER = (
    "kdas_polyp_segmentation",
    "hlfd_kidney_tumor_segmentation",
    "hlfd_liver_tumor_segmentation",
)
HALF = {"labelled_fraction": 0.5}
AS_TEACHER = {"network_def": "@teacher_def"}
FILTERS = "network_def#filters"
FOLDS = {"teacher_checkpoints": "$[@teacher_checkpoint] * 2"}
RECIPES = [
    (KDAS, [], {**HALF, "num_workers": 2}),
    (KDAS, ["baseline.json"], {}),
    (KDAS, ["teacher.json"], AS_TEACHER),
    (KDAS, ["cached_teacher.json"], {**HALF, "teacher_views": 2}),
    (KIDNEY, [], HALF),
    (KIDNEY, ["teacher.json", "fold_teacher.json"], {**AS_TEACHER, FILTERS: None, "folds": 2}),
    (KIDNEY, ["five_folds.json"], {**HALF, **FOLDS}),
    (KIDNEY, ["fast_student.json"], {**HALF, FILTERS: [4, 8, 8]}),
    (LIVER, [], HALF),
]
MORE = [  # of the long form
    (KDAS, [], HALF),
    (KDAS, ["runtime_teacher.json"], {**HALF, "teacher_threads": 1}),
    (KIDNEY, [], {**HALF, "num_workers": 2}),
    (KIDNEY, ["soft_targets.json"], HALF),
    (KIDNEY, ["cached_teacher.json"], {**HALF, "teacher_views": 2}),
    (KIDNEY, ["runtime_teacher.json"], {**HALF, "teacher_threads": 1}),
    (LIVER, [], {**HALF, "num_workers": 2}),
]
RECIPES += [pytest.param(*recipe, marks=pytest.mark.faults) for recipe in MORE]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """``made(name)``: a bundle's settings, with data and a teacher of random weights."""
    known = {}

    def make(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            common = prepared(name, folder / "data", folder)
            # An odd number of steps, for it is no multiple of the number of scales.
            known[name] = {**common, "epoch_length": 3, "teacher_checkpoint": str(folder / "models" / "teacher.pt")}
        return known[name]

    return make


def settings(common, folder, **more):
    merged = {**common, "ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval"), "epochs": 3, **more}
    return {key: value for key, value in deepcopy(merged).items() if value is not None}


@pytest.mark.parametrize(("name", "recipe", "more"), RECIPES, ids=lambda value: str(value))
def test_a_stopped_run_goes_on_as_if_it_had_not_been(made, tmp_path, name, recipe, more):
    bundle, whole, halves = Bundle(name), tmp_path / "whole", tmp_path / "halves"
    bundle.run("train.json", *recipe, **settings(made(name), whole, **more))
    bundle.stop(1, "train.json", *recipe, **settings(made(name), halves, **more))
    (file,) = (halves / "models").glob("*_resume.pt")
    before = weights(file)
    assert before["trainer"]["epoch"] == 1
    bundle.run("train.json", *recipe, **settings(made(name), halves, **more, resume=True))
    assert differing(results(halves), results(whole)) == []

    kinds = [path.partition(".")[2] for path in results(whole)]
    assert sorted(kinds) == ["history.csv", "pt", "pt", "pt.previous"]
    (table,) = (value for path, value in results(whole).items() if path.endswith(".csv"))
    assert [line.split(b",")[0] for line in table.splitlines()] == [b"epoch", b"1", b"2", b"3"]
    after = weights(whole / "models" / file.name)
    assert any("/network/" in key for key in differing(before["objects"], after["objects"]))
    for part in ("best", "savers"):
        assert after[part]
    distils = not {"teacher.json", "baseline.json"} & set(recipe)
    assert ("distiller" in after["objects"]) is distils


@pytest.mark.parametrize(
    ("name", "recipe", "more"),
    [
        (KDAS, [], HALF),
        (KIDNEY, ["cached_teacher.json"], {**HALF, "teacher_views": 2}),
        (KIDNEY, ["five_folds.json"], {**HALF, **FOLDS}),
    ],
    ids=lambda value: str(value),
)
def test_a_run_that_a_signal_stops_within_an_epoch_goes_on_there(made, tmp_path, name, recipe, more):
    bundle, whole, halves = Bundle(name), tmp_path / "whole", tmp_path / "halves"
    bundle.run("train.json", *recipe, **settings(made(name), whole, **more, epochs=2))
    bundle.stop_within(5, "train.json", *recipe, **settings(made(name), halves, **more, epochs=2))
    (file,) = (halves / "models").glob("*_resume.pt")
    assert (weights(file)["trainer"]["epoch"], weights(file)["within"]["steps"]) == (1, 2)
    bundle.run("train.json", *recipe, **settings(made(name), halves, **more, epochs=2, resume="auto"))
    assert differing(results(halves), results(whole)) == []


@pytest.mark.parametrize("name", [KIDNEY])
def test_the_law_fails_without_the_seeds_of_the_epochs(made, tmp_path, name):
    bundle, whole, halves = Bundle(name), tmp_path / "whole", tmp_path / "halves"
    more = {**HALF, "train#handlers#0": {"_target_": "GarbageCollector"}}
    bundle.run("train.json", **settings(made(name), whole, **more))
    bundle.stop(1, "train.json", **settings(made(name), halves, **more))
    bundle.run("train.json", **settings(made(name), halves, **more, resume=True))
    found = differing(results(halves), results(whole))
    assert "/eval/distilled.history.csv" in found
    assert any(key.startswith("/models/distilled_resume.pt/objects/network/") for key in found)


@pytest.mark.parametrize("name", [KDAS, KIDNEY, LIVER])
def test_what_cannot_be_resumed_says_so_and_changes_nothing(made, tmp_path, name):
    bundle, common = Bundle(name), settings(made(name), tmp_path, epochs=1)
    message = bundle.message_of("train.json", **common, resume=True)
    assert f"nothing to resume: there is no '{tmp_path}/models/distilled_resume.pt'" in message
    assert files(tmp_path / "models") == []

    bundle.run("train.json", **common)
    before = {file: (tmp_path / "models" / file).read_bytes() for file in files(tmp_path / "models")}
    other = {"network_def#embed_dims": [8, 16, 20, 40]} if name == KDAS else {FILTERS: [4, 8, 12]}
    cases = [({"epoch_length": 2}, "an epoch has 3 iterations in the file, 2 here"), (other, "other shape")]
    cases += [({"seed": 9}, "'seed' was 0, here it is 9"), ({"labelled_fraction": 0.5}, "'training' was ")]
    if name != KDAS:
        cases.append(({"epochs": 2}, "'lr_scheduler' was planned with T_max=1, here with 2"))
    for more, reason in cases:
        message = bundle.message_of("train.json", **{**common, **more}, resume=True)
        assert "distilled_resume.pt" in message
        assert reason in message
    assert {file: (tmp_path / "models" / file).read_bytes() for file in files(tmp_path / "models")} == before


@pytest.mark.parametrize("name", [KDAS, KIDNEY, LIVER])
def test_evaluation_neither_needs_nor_writes_resume_files(made, tmp_path, name):
    bundle, common = Bundle(name), settings(made(name), tmp_path, epochs=1)
    bundle.run("train.json", **common)
    (tmp_path / "models" / "distilled_resume.pt").unlink()
    for more in ({}, {"resume": True}):
        bundle.run("train.json", "evaluate.json", **common, **more)
        assert set(load_evaluations(tmp_path / "eval")) == {"distilled"}
        assert files(tmp_path / "models") == ["model.pt"]


@pytest.mark.slow
def test_two_processes_go_on_as_if_they_had_not_been_stopped(made, tmp_path):
    """Batch statistics are each process's own, until the first one's are taken over by all."""
    rank = "$torch.save(@network_def.state_dict(), f\"{@output_dir}/rank{os.environ['RANK']}.pt\")"
    load = json.loads((Bundle(KDAS).configs / "train.json").read_text(encoding="utf-8"))["run"]
    (tmp_path / "override.json").write_text(json.dumps({"run": [*load, rank]}))
    for folder, epochs, resume in (("whole", 3, False), ("halves", 1, False), ("halves", 3, True)):
        common = settings(made(KDAS), tmp_path / folder, **HALF, batch_size=3, epochs=epochs, resume=resume)
        common.pop("device")
        names = ["train.json", "multi_gpu_train.json", tmp_path / "override.json"]
        status, shown, _ = Bundle(KDAS).command(TORCHRUN, *names, **common)
        assert status == 0, shown[-5000:]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    found = differing(results(halves), results(whole))
    assert [key for key in found if not key.endswith("/job")] == []  # torchrun's own name of each
    for name in ("rank0.pt", "rank1.pt"):
        assert differing(weights(halves / "eval" / name), weights(whole / "eval" / name)) == []
