from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from monai_kd.losses import structure
from monai_kd.losses.structure import StructureLoss, structure_loss, structure_weights


def sine(shape: tuple[int, ...], frequency: float, phase: float = 0.0) -> torch.Tensor:
    return torch.sin(frequency * torch.arange(math.prod(shape), dtype=torch.float64) + phase).reshape(shape)


def direct_mean(x: torch.Tensor, kernel_size: int) -> torch.Tensor:
    pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
    return pool(F.pad(x, [kernel_size // 2] * 2 * (x.ndim - 2)), kernel_size, stride=1)


def naive(logits: torch.Tensor, mask: torch.Tensor, kernel_size: int, weighted_bce: bool) -> torch.Tensor:
    """One image and channel after the other, the window mean in one piece."""
    losses = []
    for z, g, mean in zip(logits.flatten(0, 1), mask.flatten(0, 1), direct_mean(mask, kernel_size).flatten(0, 1)):
        w, p = 1 + 5 * (mean - g).abs(), z.sigmoid()
        bce = -(g * p.log() + (1 - g) * (1 - p).log())
        cross_entropy = (w * bce).sum() / w.sum() if weighted_bce else bce.mean()
        inter, union = (p * g * w).sum(), ((p + g) * w).sum()
        losses.append(cross_entropy + 1 - (inter + 1) / (union - inter + 1))
    return torch.stack(losses).mean()


def test_values_of_the_released_function():
    logits, mask = 3 * sine((2, 1, 32, 32), 0.37), (sine((2, 1, 32, 32), 0.011) > 0.3).double()
    assert mask.sum() == 921
    assert StructureLoss(weighted_bce=False)(logits, mask).item() == pytest.approx(1.7739145375555223, rel=1e-6)
    assert StructureLoss()(logits, mask).item() == pytest.approx(1.772146629793967, rel=1e-6)


def test_golden_file():
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("the golden files lie next to $MONAI_KD_DATA, which is not set")
    path = Path(os.environ["MONAI_KD_DATA"]).parent / "golden" / "kdas.npz"
    if not path.is_file():
        pytest.skip(f"no golden file {path}")
    golden = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    for head in ("p1", "p2"):
        actual = StructureLoss(weighted_bce=False)(golden[f"student_{head}"], golden["mask"])
        torch.testing.assert_close(actual, golden[f"structure_loss_{head}"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("weighted_bce", [True, False])
@pytest.mark.parametrize(
    ("shape", "kernel_size"), [((2, 1, 20, 36), 31), ((1, 3, 17, 13), 5), ((2, 1, 6, 9, 12), 7), ((1, 2, 4, 5, 3), 1)]
)
def test_matches_the_formula(shape, kernel_size, weighted_bce):
    logits, mask = torch.randn(shape, dtype=torch.float64), torch.rand(shape, dtype=torch.float64)
    torch.testing.assert_close(
        StructureLoss(weighted_bce, kernel_size)(logits, mask), naive(logits, mask, kernel_size, weighted_bce)
    )


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 64, 352), (1, 1, 20, 30, 40)])
def test_window_means_equal_the_direct_average(shape, binary):
    x = torch.rand(shape)
    x = (x > 0.5).float() if binary else x
    expected = direct_mean(x.double(), 31).float()
    for mean in (structure._integral_mean, structure._pooled_mean):
        torch.testing.assert_close(mean(x, 31), expected, rtol=0, atol=1e-6)


def test_weights_are_1_inside_and_largest_at_the_outline():
    mask = torch.zeros(1, 1, 101, 101)
    mask[..., 50:] = 1
    row = structure_weights(mask)[0, 0, 50]
    assert row[20].item() == pytest.approx(1)
    assert row[49].item() == pytest.approx(1 + 5 * 15 / 31)
    assert row.argmax() in (49, 50, 100)  # outside the image counts as background


def test_weights_take_no_gradient():
    mask = torch.rand(1, 1, 8, 8, requires_grad=True)
    assert not structure_weights(mask).requires_grad


@pytest.mark.parametrize("weighted_bce", [True, False])
@pytest.mark.parametrize("spatial", [(6, 7), (3, 4, 5)])
def test_gradient(spatial, weighted_bce):
    logits = torch.randn(2, 1, *spatial, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 1, *spatial, dtype=torch.float64)
    assert torch.autograd.gradcheck(StructureLoss(weighted_bce, kernel_size=3), (logits, mask))


@pytest.mark.parametrize("weighted_bce", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 20, 36), (2, 1, 6, 9, 12)])
def test_the_gradient_is_that_of_the_formula(shape, weighted_bce):
    logits, mask = 3 * torch.randn(shape, dtype=torch.float64), (torch.rand(shape) > 0.5).double()
    upstream = torch.rand(shape[0])[:, None].double()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    (upstream * structure_loss(ours, mask, weighted_bce, 5)).sum().backward()
    sum(
        weight * naive(theirs[i : i + 1], mask[i : i + 1], 5, weighted_bce) * shape[1]
        for i, weight in enumerate(upstream[:, 0])
    ).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("weighted_bce", [True, False])
@pytest.mark.parametrize("scale", [9.0, 12.0, 40.0])
def test_what_confident_logits_cost_is_kept(scale, weighted_bce):
    mask = torch.ones(1, 1, 20, 36)
    logits = (scale * mask).requires_grad_()
    loss = structure_loss(logits, mask, weighted_bce, 5)
    weights, p = structure_weights(mask, 5).double().sum(), 1 / (1 + math.exp(-scale))
    expected = math.log1p(math.exp(-scale)) + 1 - (p * weights + 1) / (weights + 1)
    torch.testing.assert_close(loss.squeeze().double(), expected, rtol=0, atol=1e-6)
    assert loss.item() >= 0


def test_the_inputs_stay_as_they_are():
    """Its work is done in place, but not in theirs; and a graph that is kept gives the same gradient again."""
    logits, mask = torch.randn(2, 1, 16, 16), (torch.rand(2, 1, 16, 16) > 0.5).float().requires_grad_()
    given, leaf = (logits.clone(), mask.detach().clone()), logits.clone().requires_grad_()
    loss = StructureLoss()(leaf, mask)
    first = torch.autograd.grad(loss, leaf, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, leaf)[0], first)
    assert torch.equal(leaf.detach(), given[0])
    assert torch.equal(mask.detach(), given[1])
    assert mask.grad is None


def test_one_map_is_kept_for_the_gradient():
    logits, mask = torch.randn(2, 1, 32, 32, requires_grad=True), torch.rand(2, 1, 32, 32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        StructureLoss()(logits, mask)
    assert sum(count for count in kept if count > 2) == logits.numel()


@pytest.mark.parametrize("fill", [0.0, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("batch", [1, 2])
def test_empty_and_full_masks_are_finite(fill, scale, batch):
    logits = (scale * torch.randn(batch, 1, 16, 16)).requires_grad_()
    loss = StructureLoss()(logits, torch.full((batch, 1, 16, 16), fill))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_zero_for_a_perfect_prediction():
    mask = (torch.rand(2, 1, 16, 16) > 0.5).float()
    assert StructureLoss()(100 * (2 * mask - 1), mask).item() == pytest.approx(0, abs=1e-5)


def test_the_batch_is_a_mean_of_its_images():
    logits, mask = torch.randn(4, 1, 16, 16), torch.rand(4, 1, 16, 16)
    single = [StructureLoss()(logits[i : i + 1], mask[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(StructureLoss()(logits, mask), torch.stack(single).mean())
    torch.testing.assert_close(structure_loss(logits, mask)[:, 0], torch.stack(single))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_integer_masks(dtype):
    logits, mask = torch.randn(2, 1, 16, 16), torch.rand(2, 1, 16, 16) > 0.5
    torch.testing.assert_close(StructureLoss()(logits, mask.to(dtype)), StructureLoss()(logits, mask.float()))


def test_float32_under_autocast():
    logits, mask = torch.randn(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = StructureLoss()(logits, mask)
        half = StructureLoss()(logits.bfloat16(), mask)
    torch.testing.assert_close(loss, StructureLoss()(logits, mask))
    assert half.dtype == torch.float32


def test_messages():
    with pytest.raises(ValueError, match="kernel_size must be odd and positive"):
        StructureLoss(kernel_size=30)
    with pytest.raises(ValueError, match=r"logits \(1, 1, 4, 4\) and mask \(1, 4, 4\) must have one shape"):
        StructureLoss()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="expected logits of shape"):
        StructureLoss()(torch.zeros(4, 4), torch.zeros(4, 4))
