"""What the compared networks cost to run, measured side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle.config_parser import ConfigParser
from torch import nn

from monai_kd.report.cost import costs_side_by_side, save_costs
from monai_kd.report.evaluation import load_evaluations

__all__ = ["measure_costs"]

_FEWEST, _MOST = 5, 20  # rounds
_BUDGET = 60_000  # ms that the rounds may take, where more than the fewest are to be had


def measure_costs(root: Path, recipes: Mapping[str, ConfigParser], runs: Mapping[str, Path], key: str) -> Path:
    """Time all networks in turns and keep what was found as ``cost.json``.

    The weights are those that a network begins with, which cost as much as trained ones. Networks that differ in
    nothing else, such as a student alone and a distilled one, are measured as one.

    Args:
        root: folder of the comparison.
        recipes: the evaluation's configuration of every network, by name.
        runs: folder of one evaluated run of each, which says the shape of its input.
        key: of the network in the configuration.
    """
    networks: dict[str, nn.Module] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    first_of: dict[Any, str] = {}
    same_as: dict[str, str] = {}
    milliseconds = 0.0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, recipe in recipes.items():
        network = recipe.get_parsed_content(key).to(device)
        evaluation = load_evaluations(runs[name])[name]
        same_as[name] = first_of.setdefault((_architecture(network), evaluation.input_shape), name)
        if same_as[name] == name:
            networks[name], shapes[name] = network, evaluation.input_shape
            milliseconds += evaluation.cost.milliseconds
    rounds = max(_FEWEST, min(_MOST, int(_BUDGET / max(milliseconds, 1e-3))))
    costs = costs_side_by_side(networks, shapes, rounds)
    every = {name: costs[first] for name, first in same_as.items()}
    return save_costs(root, every, torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU", rounds)


def _architecture(network: nn.Module) -> tuple[Any, ...]:
    """Layers with their settings, and what they hold."""
    return repr(network), tuple((name, tuple(value.shape)) for name, value in network.state_dict().items())
