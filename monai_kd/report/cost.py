"""What a network costs to run."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.autograd.profiler import profile
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from monai_kd._files import write_whole
from monai_kd.report._stored import expect, measured, read_object
from monai_kd.taps import dry_run, unwrap, zeros_like_input

__all__ = ["Cost", "SideBySide", "costs_side_by_side", "load_costs", "network_cost", "peak_memory", "save_costs"]

COSTS = "cost.json"


@dataclass(frozen=True)
class Cost:
    """Parameters, multiply-accumulates and time of one forward pass."""

    parameters: int
    gmac: float
    milliseconds: float


@dataclass(frozen=True)
class SideBySide(Cost):
    """Cost of a network measured in turns with others: the median of the passes, their quartiles, and memory."""

    low: float
    high: float
    peak_bytes: int


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
    images = zeros_like_input(network, input_shape)
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
        milliseconds=1000 * statistics.median(times[2:] or times),
    )


def costs_side_by_side(
    networks: Mapping[str, nn.Module | Sequence[nn.Module]],
    input_shape: Sequence[int] | Mapping[str, Sequence[int]],
    rounds: int = 20,
) -> dict[str, SideBySide]:
    """Cost of several networks, timed in turns so that whatever else the machine does slows all of them alike.

    Each round runs every network once, in an order that turns by one. The first two rounds are not counted.

    Args:
        networks: by name, each with one input tensor, where they lie; a sequence is an ensemble, run one by one.
        input_shape: shape of that tensor, (B, C, *spatial); one for all, or one each.
        rounds: timed passes of each network.

    Raises:
        ValueError: no network, or fewer than one round.

    Example:
        >>> costs = costs_side_by_side({"wide": nn.Conv2d(1, 8, 3), "narrow": nn.Conv2d(1, 2, 3)}, (1, 1, 16, 16), 3)
        >>> costs["wide"].parameters, costs["narrow"].parameters
        (80, 20)
    """
    if not networks or rounds < 1:
        raise ValueError(f"expected networks and one round at least, got {list(networks)} and {rounds}.")
    shapes = {n: tuple(input_shape[n] if isinstance(input_shape, Mapping) else input_shape) for n in networks}
    members = {name: _members(network) for name, network in networks.items()}
    sizes = {name: network_cost(members[name], shapes[name], repeats=0) for name in networks}
    memory = {name: peak_memory(members[name], shapes[name]) for name in networks}
    times: dict[str, list[float]] = {name: [] for name in networks}
    order = list(networks)
    for _ in range(2 + rounds):
        for name in order:
            times[name].append(sum(_timed(member, shapes[name]) for member in members[name]))
        order = order[1:] + order[:1]
    found = {}
    for name, cost in sizes.items():
        counted = sorted(times[name][2:])
        low, middle, high = statistics.quantiles(counted, n=4, method="inclusive") if rounds > 1 else counted * 3
        found[name] = SideBySide(cost.parameters, cost.gmac, middle, low, high, memory[name])
    return found


def peak_memory(network: nn.Module | Sequence[nn.Module], input_shape: Sequence[int]) -> int:
    """Bytes that one forward pass in eval mode needs at once, where the network lies.

    That is its weights and buffers, its input, and the most that the pass has allocated at any time. On a CPU torch's
    profiler sees every allocation; on CUDA it is ``torch.cuda.max_memory_allocated`` less what was there before. An
    ensemble keeps all weights and runs one network after the other.

    Example:
        >>> peak_memory(nn.ReLU(), (1, 1, 4, 4))  # 64 bytes in, 64 out
        128
    """
    members = _members(network)
    needed = [_pass_memory(member, input_shape) for member in members]
    tensors = {t.data_ptr(): t for member in members for t in [*member.parameters(), *member.buffers()]}
    return sum(t.numel() * t.element_size() for t in tensors.values()) + max(needed)


def save_costs(root: str | Path, costs: Mapping[str, SideBySide], device: str, rounds: int) -> Path:
    """Keep what :func:`costs_side_by_side` found in the folder of a comparison, as ``cost.json``.

    Args:
        root: the folder.
        costs: by the networks' names.
        device: on which it was measured, in words; threads and processor are added for a CPU.
        rounds: that were timed.
    """
    path = Path(root) / COSTS
    about = {"device": device, "processor": platform.processor() or platform.machine()}
    raw = {**about, "threads": torch.get_num_threads(), "rounds": rounds}
    raw["networks"] = {name: asdict(cost) for name, cost in costs.items()}
    write_whole(path, json.dumps(raw, indent=2, allow_nan=False) + "\n")
    return path


def load_costs(root: str | Path) -> tuple[dict[str, SideBySide], str] | None:
    """The stored costs of a comparison and how they were measured, in words; ``None`` where nothing is stored.

    Raises:
        ValueError: the file cannot be read, or is not as :func:`save_costs` writes it.
    """
    path = Path(root) / COSTS
    if not os.path.lexists(path):
        return None
    raw = read_object(path)
    missing = {"device", "processor", "threads", "rounds", "networks"} - raw.keys()
    expect(not missing, path, f"it lacks {', '.join(sorted(missing))}", sorted(raw))
    expect(isinstance(raw["networks"], dict), path, "'networks' are costs by name", raw["networks"])
    threads = f"{raw['threads']} thread" + "s" * (raw["threads"] != 1)
    how = f"{raw['device']}, {raw['processor']}, {threads}; median of {raw['rounds']} passes in turns"
    return {name: measured(SideBySide, cost, path, f"'{name}'") for name, cost in raw["networks"].items()}, how


def _members(network: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    return [unwrap(one) for one in ([network] if isinstance(network, nn.Module) else network)]


def _timed(network: nn.Module, input_shape: Sequence[int]) -> float:
    """Milliseconds of one pass."""
    images = zeros_like_input(network, input_shape)
    with dry_run(network, training=False):
        _synchronise(images)
        start = time.perf_counter()
        network(images)
        _synchronise(images)
        return 1000 * (time.perf_counter() - start)


def _pass_memory(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Bytes of the input and of the most that a pass has allocated at once."""
    images = zeros_like_input(network, input_shape)
    own = images.numel() * images.element_size()
    with dry_run(network, training=False):
        if images.is_cuda:
            before = torch.cuda.memory_allocated(images.device)
            torch.cuda.reset_peak_memory_stats(images.device)
            network(images)
            return own + torch.cuda.max_memory_allocated(images.device) - before
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells of its start otherwise
        with profile(profile_memory=True) as profiler:
            output = network(images)
    del output  # alive until here: freed within the profile it would hide the last allocation's end
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return own + peak


def _synchronise(images: torch.Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
