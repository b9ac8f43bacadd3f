"""A fingerprint changes with anything of the network that its answers depend on, and with nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from monai_kd.teachers.fingerprint import network_fingerprint, tensor_digest


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LeakyReLU(0.1))


def one_weight(net):
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] += 1e-6


def a_statistic(net):
    net[1].running_mean[1] += 1e-6


def a_setting(net):
    net[2].negative_slope = 0.2


def another_layer(net):
    net[2] = nn.ReLU()


def another_type(net):
    net.half()


@pytest.mark.parametrize("change", [one_weight, a_statistic, a_setting, another_layer, another_type])
def test_any_change_shows(change):
    net = network()
    before = network_fingerprint(net)
    change(net)
    assert network_fingerprint(net) != before


def test_nothing_else_shows():
    net = network()
    before = network_fingerprint(net)
    assert network_fingerprint(copy.deepcopy(net).eval().requires_grad_(False)) == before
    assert network_fingerprint(torch.compile(net, backend="eager")) == before
    net.load_state_dict(network().state_dict())
    assert network_fingerprint(net) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_digest_is_of_type_shape_and_content(dtype):
    value = torch.eye(4).to(dtype)
    assert tensor_digest(value) == tensor_digest(value.t())  # not of how it lies in memory
    others = [value.flip(0), value.reshape(2, 8), value.to(torch.float64), value[:0]]
    assert len({tensor_digest(one) for one in [value, *others]}) == 5
    assert tensor_digest(torch.zeros(())) != tensor_digest(torch.zeros(1))
