"""Instance normalisation of large volumes in a form that OpenVINO computes precisely."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["with_row_statistics"]

_LARGE = 32**3  # positions; below, sums of all of them at once are precise enough


class _RowStatistics(nn.Module):
    """An ``InstanceNorm`` whose mean and variance are taken of rows first, then of these.

    OpenVINO sums all positions of an instance in one go: of 128^3 of them its variance is off by about a thousandth,
    which the layers behind make a percent of the output and more. A network of such norms takes about
    1.4 times as long in this form.
    """

    def __init__(self, norm: nn.InstanceNorm2d | nn.InstanceNorm3d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        if x[0, 0].numel() < _LARGE:  # decided when the network is traced
            answer: Tensor = self.norm(x)
            return answer
        apart = x - _mean(x)
        normal = apart * torch.rsqrt(_mean(apart * apart) + self.norm.eps)
        if self.norm.weight is None:
            return normal
        places = (1, -1, *[1] * (x.ndim - 2))
        return normal * self.norm.weight.reshape(places) + self.norm.bias.reshape(places)


def _mean(x: Tensor) -> Tensor:
    """Of each instance and channel, (B, C, 1, ...)."""
    # The reshape keeps the two means apart: one right after the other they would be merged into one.
    mean = x.mean(-1).flatten(2).mean(-1)
    return mean[(..., *[None] * (x.ndim - 2))]


def with_row_statistics(network: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode that computes the same, with precise sums in OpenVINO.

    Example:
        >>> volume = torch.randn(1, 2, 32, 32, 32)
        >>> network = nn.Sequential(nn.InstanceNorm3d(2, affine=True)).eval()
        >>> torch.allclose(with_row_statistics(network)(volume), network(volume), atol=1e-5)
        True
    """
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.InstanceNorm2d | nn.InstanceNorm3d) and not child.track_running_stats:
                setattr(parent, name, _RowStatistics(child))
    return network.eval()
