"""Settings of a bundle that cannot be end its run before training, with a message that names them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_kd.errors import root_cause, user_message
from monai_kd.settings import _RULES, check_settings

BUNDLES = sorted(path.parents[1] for path in (Path(__file__).parents[2] / "bundles").glob("*/configs/train.json"))
FEW = settings(deadline=None, derandomize=True, max_examples=200)
# Where a wrong value is of a kind that most settings cannot have.
WRONG = {
    "amp": "false", "class_names": [], "device": "gpu", "hounsfield": "yes", "key_score": 5, "label_values": [0.5],
    "mask_overlay": 1, "mean": [1, 2], "native_resolution": None, "patch_size": "big", "run_name": "../student",
    "scales": [0.0], "spacing": [1.0], "std": [0, 0, 0], "teacher_names": ["a", "a"], "tumour_value": "two",
    "weighted_bce": "no", "epochs": "ten", "batch_size": -1, "learning_rate": "fast", "image_size": 0,
    "val_fraction": 1.5, "labelled_fraction": 0, "temperature": 0, "seed": -1, "num_workers": "two",
    "val_interval": 1.5, "cache_rate": math.nan, "weight_decay": math.inf, "fold": True, "folds": 1,
}  # fmt: skip


def name_of(bundle):
    return bundle.name


def flow_of(bundle, **overrides):
    return ConfigWorkflow(
        config_file=str(bundle / "configs" / "train.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle),
        **overrides,
    )


def checked_keys(bundle):
    """The keys that a bundle's training begins with checking."""
    train = json.loads((bundle / "configs" / "train.json").read_text(encoding="utf-8"))
    return re.findall(r"(\w+)=@\1", train["checked_settings"])


def message_of(bundle, **overrides):
    flow = flow_of(bundle, **overrides)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        flow.initialize()
    return user_message(caught.value)


@pytest.mark.parametrize("bundle", BUNDLES, ids=name_of)
def test_all_that_is_wrong_is_named_at_once(bundle):
    wrong = {key: WRONG.get(key, "wrong") for key in checked_keys(bundle) if key not in ("device", "amp")}
    said = message_of(bundle, **wrong)
    assert "settings that cannot be used" in said
    for key, value in wrong.items():
        assert f"\n  {key} must be " in said
        assert f", got {value!r}" in said


@pytest.mark.parametrize("bundle", BUNDLES, ids=name_of)
@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("epochs", "ten", "a whole number from 1"),
        ("batch_size", 0, "a whole number from 1"),
        ("learning_rate", "fast", "a number above 0"),
        ("amp", "false", "True or False"),
        ("device", "gpu", "a device such as 'cpu'"),
    ],
)
def test_each_is_named_alone(bundle, key, value, what):
    assert message_of(bundle, **{key: value}) == (
        f"settings that cannot be used:\n  {key} must be {message_rule(key)}, got {value!r}"
    )
    assert what in message_rule(key)


def message_rule(key):
    return _RULES[key][0]


@pytest.mark.parametrize("bundle", BUNDLES, ids=name_of)
def test_a_bundles_own_settings_pass(bundle):
    """Those of every file that may follow train.json; some files are of one slice or another data set."""
    configs = bundle / "configs"
    files = [
        path
        for path in sorted(configs.glob("*.json"))
        if not re.match("metadata|compare|inference|.*_inference", path.stem)
    ]
    for path in files:
        parser = ConfigParser()
        parser.read_config([str(configs / "train.json"), *([] if path.stem == "train" else [str(path)])])
        parser["device"] = "cpu"
        for step in ("$check_settings(device=@device)", "$@checked_settings"):
            parser["checked_now"] = step
            parser.get_parsed_content("checked_now")


@pytest.mark.parametrize("bundle", BUNDLES, ids=name_of)
@pytest.mark.parametrize("file", ["train.json", "multi_gpu_train.json", "evaluate.json"])
def test_it_comes_before_all_else(bundle, file):
    steps = json.loads((bundle / "configs" / file).read_text(encoding="utf-8"))["initialize"]
    first = steps.index("$check_settings(device=@device)")
    assert steps[first : first + 2] == ["$check_settings(device=@device)", "$@checked_settings"]
    before = ["$readable_errors()", "$check_overrides()"]
    if file == "multi_gpu_train.json":  # where ``@device`` is that of a process of a group
        before.append("$join_processes()")
    assert steps[:first] == before


@pytest.mark.parametrize("bundle", BUNDLES, ids=name_of)
def test_every_setting_that_has_a_rule_is_checked(bundle):
    train = json.loads((bundle / "configs" / "train.json").read_text(encoding="utf-8"))
    assert set(checked_keys(bundle)) == (set(train) & set(_RULES)) - {"device"}


# Words of which some are known: what gets them says so.


@pytest.mark.parametrize(
    ("bundle", "key", "component"),
    [
        ("crckd_skin_lesion_classification", "ema_buffers", "teacher"),
        ("hdkd_skin_lesion_classification", "targets", "terms"),
        ("hdkd_skin_lesion_classification", "normalization", "terms"),
        ("hlfd_kidney_tumor_segmentation", "edition", "datalist"),
        ("kdas_polyp_segmentation", "on_unreadable", "unreadable"),
        ("mhakd_gi_endoscopy_classification", "query", "fusion_def"),
    ],
)
def test_unknown_words_are_refused_by_what_gets_them(bundle, key, component):
    [folder] = [one for one in BUNDLES if one.name == bundle]
    flow = flow_of(folder, **{key: "no_such_word", "device": "cpu", "image_size": 64})
    flow.parser["initialize"] = []
    flow.initialize()
    with pytest.raises(Exception) as caught:  # noqa: PT011
        flow.parser.get_parsed_content(component)
    assert "no_such_word" in (user_message(caught.value) or f"no message: {root_cause(caught.value)}")


# The rules by themselves.

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)


@FEW
@given(name=st.sampled_from(sorted(_RULES)), value=VALUES)
def test_a_value_passes_unchanged_or_is_named(name, value):
    what, rule = _RULES[name]
    if rule(value):
        assert check_settings(**{name: value}) == {name: value}
        return
    with pytest.raises(ValueError, match=re.escape(f"settings that cannot be used:\n  {name} must be {what}, got ")):
        check_settings(**{name: value})


@FEW
@given(
    name=st.sampled_from(["epochs", "batch_size", "val_interval", "image_size", "num_heads"]),
    value=st.integers(max_value=0) | st.floats() | st.text() | st.booleans() | st.none() | st.lists(st.integers()),
)
def test_counts_are_counts(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number from 1"):
        check_settings(**{name: value})


def test_a_window_has_a_width():
    with pytest.raises(ValueError, match="hu_min must be below hu_max, got 300 and -200"):
        check_settings(hu_min=300, hu_max=-200)


def test_a_name_without_a_rule_is_the_bundles_mistake():
    with pytest.raises(TypeError, match="settings without a rule: epoch"):
        check_settings(epoch=5)
