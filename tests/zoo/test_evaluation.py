"""What the written evaluations keep of their cases, and where it is left out."""

import json

import numpy as np
import pytest
from PIL import Image

from monai_kd.report.case_tables import read_cases
from monai_kd.zoo import distil_bundle
from monai_kd.zoo.evaluation import class_names, compare_config, keep_cases

SEGMENTATION, CLASSIFICATION = (1, 2, 16, 16, 16), (1, 3)
NO_METADATA: dict = {}


def metadata(*names):
    return {"network_data_format": {"outputs": {"pred": {"channel_def": {str(i): n for i, n in enumerate(names)}}}}}


def train(steps=(), key_metric=None, **evaluator):
    """A training with an evaluator, as most bundles of the zoo have it."""
    return {
        "validate": {
            "postprocessing": {"_target_": "Compose", "transforms": list(steps)},
            "key_metric": {"val_dice": {"_target_": "MeanDice"}} if key_metric is None else key_metric,
            "handlers": [{"_target_": "StatsHandler"}, {"_target_": "CheckpointSaver"}],
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "postprocessing": "@validate#postprocessing",
                "key_val_metric": "@validate#key_metric",
                "val_handlers": "@validate#handlers",
                **evaluator,
            },
        },
        "dataset_dir": "data",
    }


SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
DISCRETE = {"_target_": "AsDiscreted", "keys": ["pred", "label"], "argmax": [True, False], "to_onehot": 3}


def targets(parts):
    return [part["_target_"].rpartition(".")[2] for part in parts]


@pytest.mark.parametrize(
    ("found", "channels", "expected"),
    [
        (metadata("background", "spleen"), 2, ["background", "spleen"]),
        (metadata("background", "tool"), 1, ["background", "tool"]),
        (metadata(*"abcdefghijkl"), 12, list("abcdefghijkl")),  # "10" is behind "9"
        (metadata("same", "same"), 2, ["class 0", "class 1"]),
        (metadata("one"), 2, ["class 0", "class 1"]),
        (NO_METADATA, 1, ["class 0"]),
    ],
)
def test_classes_are_named_by_the_metadata(found, channels, expected):
    assert class_names(found, channels) == expected


def test_cases_are_saved_first_and_no_weights(tmp_path):
    evaluate = keep_cases({"run": []}, train([SOFTMAX]), metadata("background", "spleen"), SEGMENTATION)
    saver, *others = evaluate["validate#handlers"]
    assert (saver["class_names"], saver["dice"]) == (["background", "spleen"], "val_dice")
    assert targets(others) == ["StatsHandler"]
    assert list(evaluate)[-1] == "run"


def test_the_evaluations_own_handlers_stay():
    own = {"validate::handlers": [{"_target_": "MetricsSaver"}], "run": []}
    evaluate = keep_cases(own, train([SOFTMAX]), NO_METADATA, SEGMENTATION)
    assert targets(evaluate["validate#handlers"]) == ["SaveCases", "MetricsSaver"]
    assert "validate::handlers" not in evaluate


@pytest.mark.parametrize(
    ("steps", "shape", "more", "kept"),
    [
        ([SOFTMAX], SEGMENTATION, {}, True),
        ([SIGMOID], SEGMENTATION, {}, False),  # channels may overlap
        ([SIGMOID], (1, 1, 16, 16), {}, True),
        ([SOFTMAX], (1, 2, 16, 16), {"load": {"_target_": "LoadImaged", "reverse_indexing": False}}, False),
        (["$make()"], SEGMENTATION, {}, False),
        ([SOFTMAX], SEGMENTATION, {"masks_dir": "theirs"}, False),
    ],
)
def test_masks_of_exclusive_classes_with_listed_steps(steps, shape, more, kept):
    evaluate = keep_cases({"run": []}, {**train(steps), **more}, NO_METADATA, shape)
    assert ("masks_dir" in evaluate) is kept
    assert ("validate#postprocessing" in evaluate) is kept
    if kept:
        *first, copy, labels, save = evaluate["validate#postprocessing"]["transforms"]
        assert first == steps
        assert {step["_disabled_"] for step in (copy, labels, save)} == {"$@masks_dir is None"}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([SOFTMAX, DISCRETE], ["Activationsd", "CopyItemsd", "Lambdad", "AsDiscreted"]),
        ([DISCRETE], ["CopyItemsd", "Lambdad", "Activationsd", "AsDiscreted"]),
        ([SOFTMAX], ["Activationsd", "CopyItemsd", "Lambdad"]),
    ],
)
def test_probabilities_are_copied_before_they_become_classes(steps, expected):
    evaluate = keep_cases({"run": []}, train(steps), metadata("a", "b", "c"), CLASSIFICATION)
    assert targets(evaluate["validate#postprocessing"]["transforms"]) == expected
    assert evaluate["validate#evaluator#additional_metrics"]["accuracy"]["class_names"] == ["a", "b", "c"]
    assert targets(evaluate["validate#handlers"])[0] == "SavePredictions"


def test_no_predictions_of_overlapping_classes():
    assert keep_cases({"run": []}, train([SIGMOID]), NO_METADATA, CLASSIFICATION) == {"run": []}


def test_an_accuracy_of_their_own_stays_alone():
    key = {"accuracy": {"_target_": "ignite.metrics.Accuracy"}}
    evaluate = keep_cases({"run": []}, train([SOFTMAX], key), NO_METADATA, CLASSIFICATION)
    assert "validate#evaluator#additional_metrics" not in evaluate
    assert compare_config(evaluate, train([SOFTMAX], key), "net")["score"] == "accuracy"


def test_the_comparison_is_in_the_key_metric():
    config = compare_config({"run": []}, train(additional_metrics={"other": {"_target_": "MeanIoU"}}), "net")
    assert (config["score"], config["network"]) == ("val_dice", "net")
    assert config["networks"]["teacher"]["checkpoint"] == "teacher.pt"
    accuracy = train([SOFTMAX], {"val_acc": {"_target_": "ignite.metrics.Accuracy"}})
    evaluate = keep_cases({"run": []}, accuracy, NO_METADATA, CLASSIFICATION)
    assert compare_config(evaluate, accuracy, "net")["score"] == "accuracy"
    auc = train([SOFTMAX], {"val_auc": {"_target_": "ROCAUC"}})
    assert compare_config(keep_cases({"run": []}, auc, NO_METADATA, CLASSIFICATION), auc, "net")["score"] == "val_auc"


# The written bundles.


def evaluated(zoo, run_bundle, tmp_path, name, change=None):
    root = distil_bundle(zoo(name), tmp_path / "student").root
    path = root / "configs" / "evaluate.json"
    if change is not None:
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}))
    settings = {"dataset_dir": str(zoo(name).with_name("data")), "output_dir": str(tmp_path / "eval")}
    if "masks_dir" in json.loads(path.read_text(encoding="utf-8")):
        settings["masks_dir"] = str(tmp_path / "masks")
    flow = run_bundle(root, "train", "teacher", "evaluate", **settings)
    return flow, read_cases(tmp_path / "eval", "teacher")


def test_a_mask_lies_on_the_pixels_of_its_frame(zoo, run_bundle, tmp_path):
    """Also where the network sees frames of another size."""
    resize = {"_target_": "Resized", "keys": ["image", "label"], "spatial_size": [24, 16], "mode": "nearest"}
    load = [{"_target_": name, "keys": ["image", "label"]} for name in ("LoadImaged", "EnsureChannelFirstd")]
    scale = {"_target_": "ScaleIntensityd", "keys": ["image", "label"]}
    change = {"validate#preprocessing": {"_target_": "Compose", "transforms": [*load, scale, resize]}}
    flow, table = evaluated(zoo, run_bundle, tmp_path, "endoscopic_tool_segmentation", change)
    (path,) = (tmp_path / "masks").rglob("*.png")
    assert path.name == "0_seg.png"
    mask = np.asarray(Image.open(path))
    assert mask.shape == (32, 32)
    assert set(np.unique(mask)) <= {0, 255}
    network_mask = flow.parser.get_parsed_content("validate#evaluator").state.output[0]["pred"][0].T.numpy()
    assert mask.mean() / 255 == pytest.approx(network_mask.mean(), abs=0.03)
    assert table.regions == ("class 0",)


def test_a_classifiers_predictions_are_those_of_the_network(zoo, run_bundle, tmp_path):
    flow, table = evaluated(zoo, run_bundle, tmp_path, "densenet_classification")
    evaluator = flow.parser.get_parsed_content("evaluator")
    expected = np.stack([item["probabilities"].numpy() for item in evaluator.state.output])
    np.testing.assert_allclose(table.probabilities, expected, atol=1e-5)
    assert table.labels.tolist() == [0, 1, 2]
    assert table.of_score("accuracy").mean() == pytest.approx(evaluator.state.metrics["accuracy"])
