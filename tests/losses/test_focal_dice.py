from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.losses import DeepSupervisionLoss
from monai.networks.utils import one_hot

from monai_kd.losses.focal_dice import FocalDiceLoss


def sine(shape, frequency):
    return torch.sin(frequency * torch.arange(math.prod(shape), dtype=torch.float64)).reshape(shape)


def naive(logits, label):
    """Position by position, then class by class."""
    classes = logits.shape[1]
    rows = logits.movedim(1, -1).reshape(-1, classes).softmax(dim=1).tolist()
    truth = label.flatten().long().tolist()
    focal = sum(-((1 - p[c]) ** 2) * math.log(p[c]) for p, c in zip(rows, truth)) / len(rows)
    dice = []
    for k in range(1, classes):
        overlap = sum(p[k] for p, c in zip(rows, truth) if c == k)
        size = sum(p[k] for p in rows) + sum(c == k for c in truth)
        dice.append(1 - (2 * overlap + 1) / (size + 1))
    return 0.5 * focal + 0.5 * sum(dice) / len(dice)


def example(classes=3, size=(5, 4), batch=2):
    return torch.randn(batch, classes, *size), torch.randint(0, classes, (batch, 1, *size))


def test_values_of_the_released_function():
    logits, label = 2 * sine((2, 2, 16, 16), 0.37), (sine((2, 1, 16, 16), 0.05) > 0.4).double()
    assert label.sum() == 186
    loss = FocalDiceLoss()
    assert loss(logits, label).item() == pytest.approx(0.4129335723680967, rel=1e-6)
    assert 2 * loss.focal(logits, one_hot(label, 2)).item() == pytest.approx(0.2526415195346498, rel=1e-6)
    assert loss.dice(logits, one_hot(label, 2)).item() == pytest.approx(0.5732256252015435, rel=1e-12)


def test_golden_file():
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("the golden files lie next to $MONAI_KD_DATA, which is not set")
    path = Path(os.environ["MONAI_KD_DATA"]).parent / "golden" / "hlfd.npz"
    if not path.is_file():
        pytest.skip(f"no golden file {path}")
    golden = {name: torch.from_numpy(value).double() for name, value in np.load(path).items()}
    logits, target = golden["seg_logits"], golden["seg_target"]
    for label in (target, target.argmax(dim=1, keepdim=True)):
        assert FocalDiceLoss()(logits, label).item() == pytest.approx(golden["seg_loss"].item(), rel=1e-6)
    assert FocalDiceLoss().dice(logits, target).item() == pytest.approx(golden["seg_dice"].item(), rel=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("size", [(7,), (5, 4), (4, 3, 2)])
def test_matches_the_formula(size, classes):
    logits, label = example(classes, size)
    assert FocalDiceLoss()(logits, label).item() == pytest.approx(naive(logits, label), rel=1e-5)


def test_one_hot_and_indices_are_the_same():
    logits, label = example()
    expected = FocalDiceLoss()(logits, label)
    for dtype in (torch.uint8, torch.float32):
        torch.testing.assert_close(FocalDiceLoss()(logits, label.to(dtype)), expected)
        torch.testing.assert_close(FocalDiceLoss()(logits, one_hot(label, 3).to(dtype)), expected)


def test_gradient():
    logits, label = example()
    logits = logits.requires_grad_()
    FocalDiceLoss()(logits, label).backward()
    step = 1e-3 * torch.randn_like(logits)
    difference = naive(logits.double() + step, label) - naive(logits.double() - step, label)
    assert (2 * (logits.grad * step).sum()).item() == pytest.approx(difference, rel=1e-2)


def test_the_average_over_processes_is_the_loss_of_all_batches(monkeypatch):
    """Of two processes, by what each would be told by the other."""
    logits, label = example(batch=4)
    label[2:] = 0  # a foreground in the first one's batch alone
    logits.requires_grad_()
    expected = FocalDiceLoss()(logits, label)
    gradient = torch.autograd.grad(expected, logits)[0]
    halves = [(logits[part], label[part]) for part in (slice(2), slice(2, None))]
    assert not torch.isclose(sum(FocalDiceLoss()(*half) for half in halves) / 2, expected)

    sums = []
    monkeypatch.setattr("monai_kd.losses.focal_dice.together", lambda: True)
    monkeypatch.setattr("monai_kd.losses.focal_dice.sum_of_all", lambda own: sums.append(own.detach()) or own)
    for half in halves:
        FocalDiceLoss()(*half)
    total = sum(sums)
    monkeypatch.setattr(
        "monai_kd.losses.focal_dice.sum_of_all", lambda own: total.clone() + 2 * (own - own.detach())
    )  # as sum_of_all has it
    average = sum(FocalDiceLoss()(*half) for half in halves) / 2
    torch.testing.assert_close(average, expected)
    torch.testing.assert_close(torch.autograd.grad(average, logits)[0], gradient)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    logits, label = example(size=(64, 64))
    half = (10 * logits).to(dtype)
    torch.testing.assert_close(FocalDiceLoss()(half, label), FocalDiceLoss()(half.float(), label))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(FocalDiceLoss()(logits, label), FocalDiceLoss()(logits, label.clone()))


@pytest.mark.parametrize("fill", [0, 1])
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_one_class_alone_is_finite(fill, scale):
    logits = (scale * torch.randn(2, 2, 8, 8)).requires_grad_()
    loss = FocalDiceLoss()(logits, torch.full((2, 1, 8, 8), fill))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_zero_for_a_perfect_prediction():
    _, label = example()
    assert FocalDiceLoss()(100 * one_hot(label, 3), label).item() == pytest.approx(0, abs=1e-5)


def test_takes_monai_tensors_and_several_heads():
    logits, label = example(size=(8, 8))
    value = FocalDiceLoss()(MetaTensor(logits), MetaTensor(label.float()))
    assert type(value) is torch.Tensor
    torch.testing.assert_close(value, FocalDiceLoss()(logits, label))
    heads = DeepSupervisionLoss(FocalDiceLoss(), weight_mode="same")([logits, logits[..., ::2, ::2]], label.float())
    assert heads > value


def test_errors():
    with pytest.raises(ValueError, match=r"1 channel is constant.*out_channels=2"):
        FocalDiceLoss()(torch.randn(2, 1, 4, 4), torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"class indices \(2, 1, 4, 4\) or one-hot \(2, 3, 4, 4\).*\(2, 4, 4\)"):
        FocalDiceLoss()(torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4))
