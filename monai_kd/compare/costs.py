"""What the compared networks cost to run, measured side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from monai.bundle.config_parser import ConfigParser

from monai_kd.report.cost import costs_side_by_side, save_costs
from monai_kd.report.evaluation import load_evaluations

__all__ = ["measure_costs"]

_FEWEST, _MOST = 5, 20  # rounds
_BUDGET = 60_000  # ms that the rounds may take, where more than the fewest are to be had


def measure_costs(root: Path, recipes: Mapping[str, ConfigParser], runs: Mapping[str, Path], key: str) -> Path:
    """Time all networks in turns and keep what was found as ``cost.json``.

    The weights are those that a network begins with, which cost as much as trained ones.

    Args:
        root: folder of the comparison.
        recipes: the evaluation's configuration of every network, by name.
        runs: folder of one evaluated run of each, which says the shape of its input.
        key: of the network in the configuration.
    """
    networks, shapes, milliseconds = {}, {}, 0.0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, recipe in recipes.items():
        networks[name] = recipe.get_parsed_content(key).to(device)
        evaluation = load_evaluations(runs[name])[name]
        shapes[name] = evaluation.input_shape
        milliseconds += evaluation.cost.milliseconds
    rounds = max(_FEWEST, min(_MOST, int(_BUDGET / max(milliseconds, 1e-3))))
    costs = costs_side_by_side(networks, shapes, rounds)
    return save_costs(root, costs, torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU", rounds)
