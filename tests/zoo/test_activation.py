"""Softmax or sigmoid: what a bundle's post-processing says, or its loss, or nobody."""

import pytest

from monai_kd.zoo.activation import output_activation


def transforms(*steps):
    return {"train": {"postprocessing": {"_target_": "Compose", "transforms": list(steps)}}}


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
@pytest.mark.parametrize("name", ["Activationsd", "monai.transforms.Activationsd", "ActivationsDict", "ActivationsD"])
def test_activation_of_the_prediction(kind, name):
    assert output_activation(transforms({"_target_": name, "keys": "pred", kind: True}), 3) == kind
    keys = {"keys": ["label", "@pred"], kind: [False, True]}
    assert output_activation(transforms({"_target_": name, **keys}), 3) == kind


def test_argmax_of_the_prediction():
    step = {"_target_": "AsDiscreted", "keys": ["pred", "label"], "argmax": [True, False]}
    assert output_activation(transforms(step), 2) == "softmax"
    with pytest.raises(ValueError, match="says neither"):
        output_activation(transforms({**step, "argmax": [False, True]}), 2)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"_target_": "DiceCELoss", "softmax": True}, "softmax"),
        ({"_target_": "DeepSupervisionLoss", "loss": {"_target_": "DiceLoss", "sigmoid": True}}, "sigmoid"),
        ({"_target_": "torch.nn.CrossEntropyLoss"}, "softmax"),
        ({"_target_": "torch.nn.BCEWithLogitsLoss"}, "sigmoid"),
    ],
)
def test_loss_where_transforms_say_nothing(loss, expected):
    assert output_activation({"loss": loss}, 2) == expected
    other = {"softmax": "sigmoid", "sigmoid": "softmax"}[expected]
    said = transforms({"_target_": "Activationsd", "keys": "pred", other: True})
    assert output_activation({"loss": loss, **said}, 2) == other


def test_one_channel_is_a_question_of_yes_or_no():
    assert output_activation({}, 1) == "sigmoid"


def test_both_is_unclear():
    steps = [{"_target_": "Activationsd", "keys": "pred", kind: True} for kind in ("sigmoid", "softmax")]
    with pytest.raises(ValueError, match=r"says both.*activation='softmax'"):
        output_activation(transforms(*steps), 2)
