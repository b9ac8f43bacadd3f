"""What a network costs to run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from monai_kd.taps import dry_run, unwrap

__all__ = ["Cost", "network_cost"]


@dataclass(frozen=True)
class Cost:
    """Parameters, multiply-accumulates and time of one forward pass."""

    parameters: int
    gmac: float
    milliseconds: float


def network_cost(network: nn.Module | Sequence[nn.Module], input_shape: Sequence[int], repeats: int = 10) -> Cost:
    """Cost of one forward pass in eval mode, where the network lies.

    Args:
        network: any network called with one tensor; left as it was. Of several, an ensemble, it is the sum.
        input_shape: shape of that tensor, (B, C, *spatial).
        repeats: timed passes after two that are not; the median is taken.

    Returns:
        Trainable or not, all parameters; 10^9 multiply-accumulates (half of torch's FLOP count); median milliseconds of
        a pass of the whole batch, with torch's current number of threads.

    Example:
        >>> network_cost(nn.Conv2d(3, 8, 3, bias=False), (1, 3, 34, 34)).parameters
        216
    """
    if not isinstance(network, nn.Module):
        costs = [network_cost(one, input_shape, repeats) for one in network]
        return Cost(
            parameters=sum(cost.parameters for cost in costs),
            gmac=sum(cost.gmac for cost in costs),
            milliseconds=sum(cost.milliseconds for cost in costs),
        )
    network = unwrap(network)
    parameter = next(network.parameters())
    images = torch.zeros(tuple(input_shape), device=parameter.device, dtype=parameter.dtype)
    times = []
    with dry_run(network, training=False):
        # The counter does not see into torch's fused attention.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            network(images)
        for _ in range(2 + repeats):
            _synchronise(images)
            start = time.perf_counter()
            network(images)
            _synchronise(images)
            times.append(time.perf_counter() - start)
    return Cost(
        parameters=sum(p.numel() for p in network.parameters()),
        gmac=counter.get_total_flops() / 2e9,
        milliseconds=1000 * statistics.median(times[2:]),
    )


def _synchronise(images: torch.Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
