"""How the files of a student differ from its teacher's, where bundles are written in several ways."""

import json
import shutil

import pytest

from monai_kd.zoo.student_configs import (
    evaluate_config,
    method_configs,
    multi_gpu_config,
    other_config,
    train_config,
    with_run,
)
from monai_kd.zoo.teacher_bundle import read_teacher_bundle

SPLEEN = "spleen_ct_segmentation"
TERMS = {"terms": [{"name": "soft_target"}]}
SHAPE = (2, 1, 16, 16, 16)
FIRST = ["readable_errors", "check_overrides"]


@pytest.fixture
def bundle(zoo, tmp_path):
    """The spleen-like bundle after a change of its ``train.json``."""

    def changed(change=lambda config: None, name=SPLEEN):
        root = shutil.copytree(zoo(name), tmp_path / "teacher", dirs_exist_ok=True)
        config = json.loads((zoo(name) / "configs" / "train.json").read_text(encoding="utf-8"))
        change(config)
        (root / "configs" / "train.json").write_text(json.dumps(config))
        return read_teacher_bundle(root)

    return changed


def train(bundle):
    return train_config(bundle, {"_target_": "UNet", "channels": [4]}, TERMS, SHAPE)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("$@network.parameters()", "$list(@network.parameters()) + list(@distiller.parameters())"),
        (
            "$monai.optimizers.generate_param_groups(@network, [], [])",
            "$list(monai.optimizers.generate_param_groups(@network, [], []))"
            " + [{'params': list(@distiller.parameters())}]",
        ),
        ([{"params": "@a", "lr": 1}], [{"params": "@a", "lr": 1}, {"params": "$list(@distiller.parameters())"}]),
    ],
)
def test_adapters_join_the_optimizer_as_its_parameters_are_given(bundle, params, expected):
    teacher = bundle(lambda config: config["optimizer"].update(params=params))
    assert train(teacher)["optimizer"]["params"] == expected
    assert {config["optimizer#params"] == params for config in method_configs(teacher).values()} == {True}


def test_distillation_goes_first_and_history_behind_the_validation(bundle):
    names = [handler["_target_"].rpartition(".")[2] for handler in train(bundle())["train"]["handlers"]]
    assert names == ["DistillationHandler", "ValidationHandler", "SaveHistory", "StatsHandler"]


def test_handlers_in_the_trainer_itself(bundle):
    def change(config):
        config["train"]["trainer"]["train_handlers"] = config["train"].pop("handlers")

    handlers = train(bundle(change))["train"]["trainer"]["train_handlers"]
    assert handlers[0]["_target_"] == "monai_kd.handlers.DistillationHandler"


def test_references_keep_their_spelling(bundle):
    config = train(bundle(lambda config: config["train"]["trainer"].update(train_handlers="@##handlers")))
    assert "::" not in json.dumps({key: value for key, value in config.items() if key != "validate"})
    validation = next(h for h in config["train"]["handlers"] if h["_target_"] == "ValidationHandler")
    assert validation["validator"] == "@validate#evaluator"


def test_the_file_has_a_name_by_key(bundle):
    saver = train(bundle())["validate"]["handlers"][-1]
    assert saver["key_metric_filename"] == "@checkpoint"
    assert [config["checkpoint"] for config in method_configs(bundle()).values()] == ["baseline.pt", "teacher.pt"]


def test_a_file_is_saved_where_the_teacher_saves_none(bundle):
    classifier = train(bundle(name="densenet_classification"))
    saver = classifier["val_handlers"][-1]
    assert (saver["_target_"], saver["key_metric_filename"]) == ("CheckpointSaver", "@checkpoint")
    assert classifier["ckpt_path"] == "$@bundle_root + '/models/' + @checkpoint"

    def no_validation(config):
        del config["validate"], config["train"]["handlers"][0]

    last = train(bundle(no_validation))["train"]["handlers"][-1]
    assert (last["save_final"], last["final_filename"]) == (True, "@checkpoint")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["$set_determinism(seed=5)", "$other()"], ["$set_determinism(seed=@seed)", "+", "$other()"]),
        (["$first()", "$monai.utils.set_determinism(5)"], ["$first()", "$monai.utils.set_determinism(@seed)", "+"]),
        (["$first()"], ["$monai.utils.set_determinism(seed=@seed)", "+", "$first()"]),
    ],
)
def test_weights_and_batches_are_seeded_by_one_key(bundle, steps, expected):
    config = train(bundle(lambda config: config.update(initialize=steps)))
    again = ["$@network_def", "$@optimizer", "$monai.utils.set_determinism(seed=@seed)"]
    at = expected.index("+")
    assert named(config["initialize"][:2]) == FIRST
    assert config["initialize"][2:] == [*expected[:at], *again, *expected[at + 1 :]]
    assert config["seed"] == (5 if "5" in str(steps) else 0)


def named(steps):
    return [step["_target_"].rpartition(".")[2] for step in steps]


def test_evaluation_needs_no_teacher(bundle):
    teacher = bundle()
    evaluate = evaluate_config(
        teacher, json.loads((teacher.root / "configs" / "evaluate.json").read_text(encoding="utf-8"))
    )
    assert named(evaluate["initialize"][:2]) == FIRST
    assert "optimizer" not in str(evaluate["initialize"])
    assert evaluate["validate#handlers"][0]["load_path"] == "$@ckpt_dir + '/' + @checkpoint"
    assert "@run_name" in evaluate["run"][-1]
    made = evaluate_config(teacher, None)
    assert made["run"][0] == "$@validate#evaluator.run()"
    with pytest.raises(ValueError, match="no evaluator"):
        evaluate_config(bundle(lambda config: config.pop("validate") and config["train"]["handlers"].pop(0)), None)


def test_a_loaders_plain_path_gets_the_key_too(bundle):
    loader = {"_target_": "CheckpointLoader", "load_path": "models/model.pt", "load_dict": {}}
    evaluate = evaluate_config(bundle(), {"validate#handlers": [loader], "run": []})
    assert evaluate["validate#handlers"][0]["load_path"] == "$'models/' + @checkpoint"


def test_processes_keep_their_adapters_equal(bundle):
    config = multi_gpu_config(bundle(), {"initialize": ["$dist.init()", "$set_determinism(seed=1)"]})
    assert "DistributedDataParallel(@distiller_def.to(@device)" in config["distiller"]
    assert named(config["initialize"][:2]) == FIRST
    assert config["initialize"][2:5] == ["$dist.init()", "$set_determinism(seed=@seed)", "$@network_def"]


def test_other_files_get_the_student_and_keep_their_own_numbers(bundle):
    teacher = bundle()
    theirs = {"bundle_root": "/somewhere", "net": {**teacher.part("network_def"), "dropout": 0.5}, "other": {}}
    student = {**teacher.part("network_def"), "channels": [4, 8, 16]}
    scaled = other_config(teacher, theirs, student, scaled=True)
    assert scaled == {"bundle_root": ".", "net": {**student, "dropout": 0.5}, "other": {}}
    assert other_config(teacher, theirs, {"_target_": "VNet"}, scaled=False)["net"] == {"_target_": "VNet"}


def test_one_list_of_steps_becomes_two():
    steps = ["$first()", "$@trainer.run()", "$last()"]
    assert with_run({"training": steps}) == {"initialize": steps[:1], "run": steps[1:]}
    assert with_run({"training": steps, "run": []}) == {"training": steps, "run": []}
