"""What is compared: a bundle's own description, the usual one, and what cannot be."""

import json
from pathlib import Path

import pytest

import monai_kd
from monai_kd.compare import plan_comparison

BUNDLES = Path(monai_kd.__file__).parents[1] / "bundles"


@pytest.fixture
def bundle(tmp_path):
    configs = tmp_path / "bundle" / "configs"
    configs.mkdir(parents=True)
    for name in ("train", "evaluate", "teacher", "baseline", "soft_targets", "metadata"):
        (configs / f"{name}.json").write_text('{"epochs": 1, "amp": true}' if name == "train" else "{}")
    return configs.parent


def describe(bundle, networks, score="meanDice"):
    (bundle / "configs" / "compare.json").write_text(json.dumps({"score": score, "networks": networks}))


BASELINE = {"role": "baseline", "files": ["baseline.json"]}


def test_a_bundle_without_description_is_teacher_baseline_distilled(bundle):
    plan = plan_comparison(bundle, seeds=[3, 4])
    assert [(one.name, one.role, plan.seeds_of(one)) for one in plan.networks] == [
        ("teacher", "teacher", (3,)),
        ("baseline", "baseline", (3, 4)),
        ("distilled", "student", (3, 4)),
    ]
    assert plan.network("distilled").needs == {"teacher_checkpoint": "teacher"}
    assert plan.partner_seed("teacher", 4) == 3


def test_order_of_the_files(bundle, tmp_path):
    extra = tmp_path / "demo.json"
    extra.write_text("{}")
    plan = plan_comparison(bundle, config_files=[extra])
    names = [path.name for path in plan.files_of(plan.network("baseline"), evaluate=True)]
    assert names == ["train.json", "demo.json", "baseline.json", "evaluate.json"]


def test_a_method_is_a_student_with_the_teachers_of_the_others(bundle):
    plan = plan_comparison(bundle, methods=["soft_targets"])
    found = plan.network("soft_targets")
    assert (found.role, found.files, found.needs) == (
        "student",
        ("soft_targets.json",),
        {"teacher_checkpoint": "teacher"},
    )


def test_the_bundles_own_description(bundle):
    describe(bundle, {"baseline": BASELINE, "distilled": {"role": "student", "overrides": {"epochs": 3}}}, "accuracy")
    plan = plan_comparison(bundle)
    assert (plan.score, [one.name for one in plan.networks]) == ("accuracy", ["baseline", "distilled"])
    assert plan.network("distilled").overrides == {"epochs": 3}
    assert plan_comparison(bundle, score="kappa").score == "kappa"


def test_the_plan_is_plain_json(bundle):
    plain = plan_comparison(bundle, overrides={"epochs": 2, "amp": False}).as_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["overrides"] == {"epochs": 2, "amp": False}


@pytest.mark.parametrize("path", sorted(BUNDLES.iterdir()), ids=lambda path: path.name)
def test_every_bundle_can_be_compared(path):
    plan = plan_comparison(path)
    roles = [one.role for one in plan.networks]
    assert roles.count("teacher") == roles.count("baseline") == 1
    assert "student" in roles


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ({"baseline": BASELINE}, "no network is a 'student'"),
        ({"s": {"role": "student"}}, "no network is the 'baseline'"),
        ({"../b": BASELINE, "s": {"role": "student"}}, r"'../b' names a folder"),
        ({"cache": BASELINE, "s": {"role": "student"}}, r"'cache' names a folder"),
        ({"": BASELINE, "s": {"role": "student"}}, r"'' names a folder"),
        ({"a": BASELINE, "b": BASELINE, "s": {"role": "student"}}, "one network is the baseline, got several"),
        ({"s": {"role": "pupil"}}, "has the role 'pupil'; roles are teacher, auxiliary, baseline, student"),
        ({"s": {"role": "student", "files": ["none.json"]}}, "'s' has no configs/none.json"),
        ({"s": {"role": "student", "needs": {"k": "t"}}}, "'s' needs 't', which is not trained before it"),
        ({"s": {"role": "student", "evaluates": "t"}}, "'s' evaluates 't', which is not trained before it"),
        ({"s": {"role": "student", "colour": "red"}}, "describes no comparison .*colour"),
        ([], "describes no comparison"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(bundle, networks, message):
    describe(bundle, networks)
    with pytest.raises(ValueError, match=message):
        plan_comparison(bundle)


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1]])
def test_seeds_are_different_numbers(bundle, seeds):
    with pytest.raises(ValueError, match="seeds are one or more different numbers"):
        plan_comparison(bundle, seeds=seeds)


def test_keys_of_the_comparison_itself_are_refused(bundle):
    with pytest.raises(ValueError, match=r"\['ckpt_dir', 'seed'\] are set for each run"):
        plan_comparison(bundle, overrides={"seed": 3, "ckpt_dir": "here", "epochs": 1})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epoch": 3}, r"no key 'epoch' \(did you mean 'epochs'\?\)"),
        ({"teacher:epoch": 3}, r"'teacher' has no key 'epoch' \(did you mean 'epochs'\?\)"),
        ({"pupil:epochs": 3}, r"overrides are of the networks \['pupil'\]; compared are teacher, baseline, distilled"),
        ({"config_file": "x.json"}, r"\['config_file'\] are set for each run"),
        ({"teacher:seed": 3}, r"\['teacher:seed'\] are set for each run"),
    ],
)
def test_an_override_without_effect_is_refused(bundle, overrides, message):
    with pytest.raises(ValueError, match=message):
        plan_comparison(bundle, overrides=overrides)


def test_a_key_of_some_networks_may_be_set_for_all(bundle):
    (bundle / "configs" / "teacher.json").write_text('{"wide": {"channels": [1, 2]}}')
    plan = plan_comparison(bundle, overrides={"wide#channels#0": 3, "teacher:wide::channels::1": 4})
    assert plan.overrides == {"wide#channels#0": 3}
    assert plan.network("teacher").overrides == {"wide::channels::1": 4}


def test_a_path_that_configurations_misread_is_refused(bundle, tmp_path):
    extra = tmp_path / "demo#1.json"
    extra.write_text("{}")
    with pytest.raises(ValueError, match="have '#' or '::', which mean a path of keys"):
        plan_comparison(bundle, config_files=[extra])


def test_files_of_the_bundle_are_named_within_it(bundle, tmp_path):
    (tmp_path / "own.json").write_text("{}")
    files = [bundle / "configs" / "soft_targets.json", tmp_path / "own.json"]
    found = plan_comparison(bundle, config_files=files).as_json()["config_files"]
    assert found == ["configs/soft_targets.json", str(tmp_path / "own.json")]


def test_what_is_not_there_is_named(bundle, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"give a bundle's folder"):
        plan_comparison(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"did you mean soft_targets"):
        plan_comparison(bundle, methods=["soft_target"])
    with pytest.raises(FileNotFoundError, match=r"no configuration file at .*nowhere.json"):
        plan_comparison(bundle, config_files=[tmp_path / "nowhere.json"])
