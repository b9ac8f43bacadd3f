"""Enlarging by products is interpolation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_kd import _resize
from monai_kd._resize import resize

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
SIZES = [((5,), (13,)), ((3, 4), (6, 8)), ((4, 3), (4, 7)), ((2, 3, 4), (5, 3, 16)), ((1, 2, 2), (4, 4, 4))]


def interpolated(x, size):
    return F.interpolate(x, size=size, mode=MODES[x.ndim - 2], align_corners=False)


@pytest.fixture
def products(monkeypatch):
    """The calls of what enlarges by products."""
    taken, enlarged = [], _resize._enlarged
    monkeypatch.setattr(_resize, "_enlarged", lambda *args: taken.append(args) or enlarged(*args))
    return taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_enlarging_is_interpolation(old, new, dtype, products):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *old, dtype=dtype)
    result = resize(x, new)
    assert products
    assert result.dtype == dtype
    torch.testing.assert_close(result, interpolated(x, new), rtol=1e-5, atol=2e-6)


def test_so_is_its_gradient(products):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 2, 3, 4, requires_grad=True)
    weights = torch.randn(1, 2, 5, 6, 4)
    gradients = [torch.autograd.grad((way(x, (5, 6, 4)) * weights).sum(), x)[0] for way in (resize, interpolated)]
    assert len(products) == 1
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [((4, 8), (8, 4)), ((65,), (130,))], ids=["shrinking", "long"])
def test_what_products_would_not_save_is_interpolated(old, new, products):
    x = torch.randn(1, 2, *old)
    assert torch.equal(resize(x, new), interpolated(x, new))
    assert not products


def test_autocast_does_not_round(products):
    x = torch.randn(1, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(resize(x, (8, 8)), interpolated(x, (8, 8)), rtol=1e-5, atol=2e-6)
    assert products
