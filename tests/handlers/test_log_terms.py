from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor, decollate_batch

from monai_kd.handlers import log_terms

OUTPUT = {
    "image": torch.zeros(2, 1, 4, 4),
    "label": torch.zeros(2, 1, 4, 4),
    "pred": [torch.zeros(2, 3, 4, 4)],
    "loss": torch.tensor(0.75),
    "task_loss": MetaTensor(torch.tensor(0.25)),
    "soft_target": 0.5,
}


def test_scalars_only_as_floats():
    logged = log_terms(OUTPUT)
    assert logged == {"loss": 0.75, "task_loss": 0.25, "soft_target": 0.5}
    assert {type(value) for value in logged.values()} == {float}


def test_a_decollated_output_gives_the_same():
    output = {**OUTPUT, "pred": torch.zeros(2, 3, 4, 4)}
    assert log_terms(
        decollate_batch({**output, "loss": [0.75, 0.75], "task_loss": [0.25] * 2, "soft_target": [0.5] * 2})
    ) == {
        "loss": 0.75,
        "task_loss": 0.25,
        "soft_target": 0.5,
    }


@pytest.mark.parametrize("label", [torch.tensor(2), 2])
def test_the_label_of_a_decollated_classification_batch_is_no_loss(label):
    item = {"image": torch.zeros(1, 4, 4), "label": label, "pred": torch.zeros(3), "loss": 0.5}
    assert log_terms([item]) == {"loss": 0.5}


@pytest.mark.parametrize("output", [torch.tensor(1.0), [torch.tensor(1.0)], 0.5, None])
def test_other_outputs_are_refused(output):
    with pytest.raises(TypeError, match="expected an engine output of dicts"):
        log_terms(output)
