from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_kd.losses import WeightedCrossEntropyLoss

WEIGHT = torch.tensor([0.5, 1.0, 4.0])


def example(shape=(8, 3)):
    torch.manual_seed(0)
    return torch.randn(shape), torch.randint(0, 3, (shape[0], *shape[2:]))


@pytest.mark.parametrize("shape", [(8, 3), (2, 3, 5, 4)])
@pytest.mark.parametrize("options", [{}, {"weight": WEIGHT}, {"ignore_index": 1}, {"label_smoothing": 0.1}])
def test_one_process_has_the_loss_of_pytorch(shape, options):
    logits, target = example(shape)
    assert torch.equal(WeightedCrossEntropyLoss(**options)(logits, target), F.cross_entropy(logits, target, **options))


def of_two(monkeypatch, loss, shares):
    """The values in two processes, by what each would be told by the other."""
    module, own = "monai_kd.losses.weighted_cross_entropy", []
    monkeypatch.setattr(f"{module}.together", lambda: True)
    monkeypatch.setattr(f"{module}.processes", lambda: 2)
    monkeypatch.setattr(f"{module}.sum_of_all", lambda value: own.append(value) or value)
    for share in shares:
        loss(*share)
    total = sum(own)
    monkeypatch.setattr(f"{module}.sum_of_all", lambda value: total)
    return [loss(*share) for share in shares]


@pytest.mark.parametrize(
    "options",
    [{}, {"weight": WEIGHT}, {"weight": WEIGHT, "ignore_index": 1}, {"weight": WEIGHT, "label_smoothing": 0.1}],
)
@pytest.mark.parametrize("cut", [4, 3])
def test_the_average_over_processes_is_the_loss_of_all_items(monkeypatch, options, cut):
    """Also where they have unequal numbers of items."""
    (logits, target), loss = example(), WeightedCrossEntropyLoss(**options)
    logits.requires_grad_()
    expected = loss(logits, target)
    gradient = torch.autograd.grad(expected, logits)[0]
    shares = [(logits[part], target[part]) for part in (slice(cut), slice(cut, None))]

    average = sum(of_two(monkeypatch, loss, shares)) / 2
    torch.testing.assert_close(average, expected)
    torch.testing.assert_close(torch.autograd.grad(average, logits)[0], gradient)


@pytest.mark.parametrize("options", [{"ignore_index": 1}, {"weight": torch.tensor([1.0, 0.0, 2.0])}])
def test_a_process_without_an_item_that_counts_leaves_the_loss_to_the_others(monkeypatch, options):
    """All of its items are of the class that is ignored, or of weight 0."""
    (logits, target), loss = example(), WeightedCrossEntropyLoss(**options)
    logits.requires_grad_()
    target[:4] = 1
    gradient = torch.autograd.grad(loss(logits, target), logits)[0]
    empty, other = of_two(monkeypatch, loss, [(logits[:4], target[:4]), (logits[4:], target[4:])])
    assert empty == 0
    torch.testing.assert_close(torch.autograd.grad((empty + other) / 2, logits)[0], gradient)


def test_where_no_item_counts_in_any_process_nothing_is_learnt(monkeypatch):
    logits, target = example()[0].requires_grad_(), torch.ones(8, dtype=torch.long)
    values = of_two(monkeypatch, WeightedCrossEntropyLoss(ignore_index=1), [(logits[:4], target[:4])] * 2)
    assert values == [0, 0]
    assert torch.autograd.grad(sum(values), logits)[0].abs().max() == 0


def test_probabilities_are_no_classes():
    logits, _ = example()
    with pytest.raises(ValueError, match=r"expected class indices .* got \(8, 3\) of torch.float32"):
        WeightedCrossEntropyLoss()(logits, logits.softmax(dim=1))
