from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_kd.labelled import labelled_items, select_items

FLAGS = [True, False, True, False]


@pytest.mark.parametrize(
    "flags",
    [
        FLAGS,
        torch.tensor(FLAGS),
        torch.tensor(FLAGS)[:, None],
        torch.tensor(FLAGS).float(),
        MetaTensor(torch.tensor(FLAGS)),
        [torch.tensor(flag) for flag in FLAGS],
    ],
    ids=["list", "bool", "column", "float", "MetaTensor", "list of tensors"],
)
def test_indices_of_the_labelled_items_in_any_form_of_flags(flags):
    index = labelled_items(flags, "cpu")
    assert index.tolist() == [0, 2]
    assert type(index) is torch.Tensor


def test_a_batch_with_all_labels_needs_no_selection():
    assert labelled_items(torch.ones(3, 1), "cpu") is None


def test_a_batch_without_labels_gives_no_items():
    assert labelled_items([False, False], "cpu").shape == (0,)


@pytest.mark.parametrize("dims", [0, 2, 3])
def test_select_items_takes_the_same_items_of_everything(dims):
    x, index = torch.randn(4, 3, *[2] * dims), torch.tensor([0, 2])
    selected = select_items({"heads": [x, (x + 1,)], "meta": MetaTensor(x), "name": "case"}, index)
    assert torch.equal(selected["heads"][0], x[[0, 2]])
    assert torch.equal(selected["heads"][1][0], x[[0, 2]] + 1)
    assert type(selected["meta"]) is torch.Tensor
    assert selected["name"] == "case"


def test_gradients_reach_the_selected_items_only():
    x = torch.randn(4, 3, requires_grad=True)
    select_items(x, torch.tensor([0, 2])).sum().backward()
    assert x.grad[:, 0].tolist() == [1, 0, 1, 0]
