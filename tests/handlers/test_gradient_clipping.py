from __future__ import annotations

import math

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from monai_kd.handlers import clip_gradient_values


def test_every_element_is_clamped_and_small_ones_stay():
    weight = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    optimizer.register_step_pre_hook(clip_gradient_values(0.5))
    (weight * torch.tensor([9.0, -9.0, 0.25, 0.0])).sum().backward()
    optimizer.step()
    assert weight.tolist() == [-0.5, 0.5, -0.25, 0.0]


def test_all_groups_are_clipped_and_parameters_without_gradient_are_skipped():
    first, second, unused = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    optimizer = torch.optim.SGD([{"params": [first, unused]}, {"params": [second], "lr": 2.0}], lr=1.0)
    optimizer.register_step_pre_hook(clip_gradient_values(0.5))
    (9 * first + 9 * second).sum().backward()
    optimizer.step()
    assert [first.item(), second.item(), unused.item()] == [-0.5, -1.0, 0.0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("amp", [False, True])
def test_an_unmodified_trainer_clips(amp):
    net = nn.Linear(1, 1, bias=False)
    start = net.weight.item()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    optimizer.register_step_pre_hook(clip_gradient_values(0.125))
    batch = {"image": torch.ones(2, 1), "label": torch.full((2, 1), 1000.0)}
    SupervisedTrainer("cpu", 1, [batch], net, optimizer, nn.MSELoss(), amp=amp).run()
    assert net.weight.item() == pytest.approx(start + 0.125)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_limits_that_make_no_sense_are_refused(limit):
    with pytest.raises(ValueError, match="must be positive"):
        clip_gradient_values(limit)


def test_a_fused_optimiser_is_clipped_as_any_other():
    """It unscales inside its step: the limit must not be taken of the scaled gradient."""
    weights = []
    for fused in (False, True):
        weight = torch.nn.Parameter(torch.zeros(2))
        optimizer = torch.optim.SGD([weight], lr=1.0, fused=fused)
        optimizer.register_step_pre_hook(clip_gradient_values(0.5))
        scale = 1024.0 if fused else 1.0
        weight.grad = torch.tensor([0.1, 9.0]) * scale
        if fused:
            optimizer.grad_scale = torch.tensor(scale)
            optimizer.found_inf = torch.tensor(0.0)
        optimizer.step()
        weights.append(weight.detach())
    torch.testing.assert_close(weights[0], torch.tensor([-0.1, -0.5]))
    torch.testing.assert_close(weights[1], weights[0])
