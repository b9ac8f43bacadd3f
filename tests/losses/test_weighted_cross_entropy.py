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


@pytest.mark.parametrize("options", [{}, {"weight": WEIGHT}, {"weight": WEIGHT, "ignore_index": 1}])
@pytest.mark.parametrize("cut", [4, 3])
def test_the_average_over_processes_is_the_loss_of_all_items(monkeypatch, options, cut):
    """Of two processes, by what each would be told by the other; also where they have unequal numbers of items."""
    (logits, target), loss = example(), WeightedCrossEntropyLoss(**options)
    logits.requires_grad_()
    expected = loss(logits, target)
    gradient = torch.autograd.grad(expected, logits)[0]
    shares = [(logits[part], target[part]) for part in (slice(cut), slice(cut, None))]

    own = []
    monkeypatch.setattr("monai_kd.losses.weighted_cross_entropy.together", lambda: True)
    monkeypatch.setattr("monai_kd.losses.weighted_cross_entropy.share", lambda value: own.append(value) or value)
    for share in shares:
        loss(*share)
    total = sum(own)
    monkeypatch.setattr("monai_kd.losses.weighted_cross_entropy.share", lambda value: 2 * value / total)
    average = sum(loss(*share) for share in shares) / 2
    torch.testing.assert_close(average, expected)
    torch.testing.assert_close(torch.autograd.grad(average, logits)[0], gradient)


def test_probabilities_are_no_classes():
    logits, _ = example()
    with pytest.raises(ValueError, match=r"expected class indices .* got \(8, 3\) of torch.float32"):
        WeightedCrossEntropyLoss()(logits, logits.softmax(dim=1))
