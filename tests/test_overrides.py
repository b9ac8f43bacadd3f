"""Keys that a run's configuration does not have are said with the closest that it has."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow, run

from monai_kd.overrides import missing_part, override_problems

TRAIN = {
    "imports": ["$from monai_kd.errors import readable_errors", "$from monai_kd.overrides import check_overrides"],
    "epochs": 3,
    "amp": True,
    "resume": False,
    "output_dir": "out",
    "train": {
        "dataset": {"_target_": "monai.data.Dataset", "data": []},
        "dataloader": {"_target_": "DataLoader", "dataset": "@train#dataset"},
        "handlers": [{"_target_": "CheckpointSaver", "save_dict": {"model": "@network"}}],
        "key_metric": {"dice": {"_target_": "MeanDice"}},
        "evaluator": {"_target_": "SupervisedEvaluator", "key_val_metric": "@train#key_metric"},
        "limits": {"least": 0, "most": "$@train#limits#least + 1"},
    },
    "network": None,
    "initialize": ["$readable_errors()", "$check_overrides()"],
    "run": ["$print('epochs', @epochs) if str(@resume).lower() != 'true' else None"],
}


@pytest.fixture
def configs(tmp_path):
    """``configs(name=content)`` writes files; gives their paths."""
    folder = tmp_path / "configs"
    folder.mkdir()

    def write(**contents):
        for name, content in contents.items():
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        return [str(folder / f"{name}.json") for name in contents]

    return write


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        ({"epohcs": 3}, ["no key 'epohcs' in train.json; did you mean 'epochs'?"]),
        (
            {"bundel_root": "."},
            ["no key 'bundel_root' in train.json; nothing reads it (a note's key begins with '_')."],
        ),
        ({"_comment": "mine", "train#_comment": "mine"}, []),
        ({"epohcs": 3, "apm": True}, ["no key 'epohcs'", "no key 'apm' in train.json; did you mean 'amp'?"]),
        ({"trian#dataset": None}, ["no key 'trian' in train.json; did you mean 'train'?"]),
        ({"train#dataste": None}, ["no key 'train#dataste' in train.json; did you mean 'train#dataset'?"]),
        ({"train::dataste": None}, ["no key 'train#dataste' in train.json; did you mean 'train#dataset'?"]),
        ({"train#handlers#0#_disabled_": True, "train#handlers#0#seed": 0}, []),
        ({"train#dataloader#batch_size": 2, "train::dataset::data": [], "_meta_#name": ""}, []),
        ({"train#handlers#0#save_dict#optimizer": "@network"}, []),  # within a component
        ({"train#key_metric#iou": {"_target_": "MeanIoU"}}, []),  # a mapping that is referred to as a whole
        ({"train#losses": {"a": 1}, "train#losses#b": 2, "epochs": "$len(@#train#losses)"}, []),
        ({"train#limits#laest": 3}, ["no key 'train#limits#laest' in train.json; did you mean 'train#limits#least'?"]),
        ({"helper": 1, "epochs": "$@helper + 1"}, []),
        ({"train#sampler": 1, "train#dataloader#sampler": "@train#sampler"}, []),
        ({"train#sampler": 1, "train#dataloader#sampler": "@##sampler"}, []),
        ({"copied": 1, "epochs": "%copied"}, []),
        ({"workflow_type": "train", "tracking": "mlflow", "tracking_uri": "x"}, []),
        ({"tracking_uri": "x"}, ["no key 'tracking_uri'"]),
        ({"amp": "false"}, ["'amp' was given the text 'false', which is not the value; write --amp False."]),
        ({"amp": "TRUE"}, ["write --amp True."]),
        ({"epochs": "null"}, ["write --epochs '$None'."]),
        ({"resume": "true"}, []),
    ],
)
def test_overrides(configs, overrides, problems):
    found = override_problems(configs(train=TRAIN), overrides)
    assert len(found) == len(problems)
    for line, expected in zip(found, problems):
        assert expected in line


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"epohcs": 3}, "no key 'epohcs' in train.json, which other.json sets; did you mean 'epochs'?"),
        ({"train#dataste": {}}, "no key 'train#dataste' in train.json, which other.json sets"),
        ({"epochs": 3, "+imports": ["$import os"], "finalize": ["$print()"]}, None),
        ({"count": 3, "epochs": "@count"}, None),
        ({"learning_rate": 3}, None),  # of a file of the bundle that is not among those of the run
    ],
)
def test_files(configs, content, problem):
    train, other, _ = configs(train=TRAIN, other=content, further={"learning_rate": 0.1})
    found = override_problems([train, other])
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


def test_a_file_from_elsewhere_has_the_keys_of_those_before_it(configs, tmp_path):
    train, _ = configs(train=TRAIN, further={"learning_rate": 0.1})
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"learning_rate": 3}), encoding="utf-8")
    (problem,) = override_problems([train, mine])
    assert problem.startswith("no key 'learning_rate' in train.json, which mine.json sets; nothing reads it")


def test_a_file_before_the_bundles(configs, tmp_path):
    """What is common to several runs may come first, and is held against the bundle's own all the same."""
    names = configs(train={**TRAIN, "slices": 2}, other={"learning_rate": 1}, further={"learning_rate": 0.1})
    common = tmp_path / "common.json"
    common.write_text(json.dumps({"output_dir": "mine", "epochs": 1}), encoding="utf-8")
    assert override_problems([common, names[0], names[1]], {"slices": 3}) == []
    common.write_text(json.dumps({"epohcs": 1}), encoding="utf-8")
    (problem,) = override_problems([common, *names[:2]])
    assert problem == "no key 'epohcs' in train.json, which common.json sets; did you mean 'epochs'?"


BUNDLES = sorted((Path(__file__).parents[1] / "bundles").glob("*/configs/train.json"))


@pytest.mark.parametrize("train", BUNDLES, ids=lambda path: path.parents[1].name)
def test_our_bundles(train, tmp_path):
    common = tmp_path / "common.json"
    common.write_text(json.dumps({"dataset_dir": "data", "seed": 1}), encoding="utf-8")
    given = {
        "resume": "true",
        "resume_checkpoint#objects#ema": "@network",
        "validate#handlers#1#save_dict#optimizer": "@optimizer",
        "validate#key_metric#second": {"_target_": "MeanIoUHandler"},
    }
    assert override_problems([common, train], given) == []


def test_tracking_settings_of_a_file(configs, tmp_path):
    (train,) = configs(train=TRAIN)
    mine = tmp_path / "tracking.json"
    settings = {
        "handlers_id": {},
        "configs": {"my_uri": "x", "trainer": {"_target_": "MLFlowHandler", "tags": "@tags"}},
    }
    mine.write_text(json.dumps(settings), encoding="utf-8")
    for tracking in (str(mine), settings):
        assert override_problems([train], {"tracking": tracking, "my_uri": "y", "tags": {}}) == []
        (problem,) = override_problems([train], {"tracking": tracking, "my_url": "y"})
        assert "no key 'my_url'" in problem


def test_missing_part():
    config = {"a": {"b": [{"_target_": "X"}], "c": "$text"}}
    for whole in ("a", "a#b", "a#b#0", "a#b#0#new", "a#c#x", "+a"):
        assert missing_part(config, whole) is None
    assert missing_part(config, "a#d#e") == ("a#d", ["a#b", "a#c"])


def command(*words):
    words = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--logging_file", "False", *words]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_the_command_line_says_it_before_anything_else(configs):
    (train,) = configs(train=TRAIN)
    Path(train).with_name("metadata.json").write_text("{}", encoding="utf-8")
    status, shown, errors = command("--config_file", train, "--epohcs", "3")
    assert status == 1
    assert "error: no key 'epohcs' in train.json; did you mean 'epochs'?" in errors
    assert "Traceback" not in errors
    assert "epochs 3" not in shown


def test_arguments_in_a_file(configs, tmp_path):
    (train,) = configs(train=TRAIN)
    Path(train).with_name("metadata.json").write_text("{}", encoding="utf-8")
    arguments = tmp_path / "arguments.json"
    common = {"config_file": train, "logging_file": False}
    arguments.write_text(json.dumps({**common, "epohcs": 3}), encoding="utf-8")
    with pytest.raises(Exception, match="check_overrides") as caught:
        run(args_file=str(arguments))
    assert "no key 'epohcs'" in str(caught.value.__cause__)
    arguments.write_text(json.dumps({**common, "epochs": 5}), encoding="utf-8")
    run(args_file=str(arguments))


def test_another_program_may_add_keys(configs):
    (train,) = configs(train=TRAIN)
    flow = ConfigWorkflow(config_file=train, meta_file=None, logging_file=False, epohcs=3)
    flow.initialize()
