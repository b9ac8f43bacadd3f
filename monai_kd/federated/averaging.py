"""The step of a federation's server: one network from those of the sites."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["average_weights"]


def average_weights(states: Mapping[str, Mapping[str, Tensor]], cases: Mapping[str, int]) -> dict[str, Tensor]:
    """The mean of the sites' weights, each site counted by its cases, as federated averaging [0] does.

    Summed in float64 and in the order of the sites' names, so that the order in which they answer changes no bit. What
    counts (whole numbers such as a batch norm's ``num_batches_tracked``) is rounded.

    [0] McMahan et al., Communication-efficient learning of deep networks from decentralized data, 2017,
    https://arxiv.org/abs/1602.05629

    Args:
        states: by site, the tensors by name; the same names, shapes and types at each.
        cases: by site, how many it was trained on.

    Returns:
        Tensors of the names, shapes and types that the sites have.

    Raises:
        ValueError: no site, a site without cases, names, shapes or types that differ, a value that is not finite; the
            site is in the message.

    Example:
        >>> states = {"a": {"weight": torch.tensor([0.0, 8.0])}, "b": {"weight": torch.tensor([4.0, 0.0])}}
        >>> average_weights(states, {"a": 1, "b": 3})
        {'weight': tensor([3., 2.])}
    """
    if not states:
        raise ValueError("an average is of one site or more, got none.")
    sites = sorted(states)
    first = states[sites[0]]
    for site in sites:
        if not isinstance(cases.get(site), int) or cases[site] < 1:
            raise ValueError(f"site '{site}' counts by its cases, a whole number from 1; got {cases.get(site)!r}.")
        _check(site, states[site], sites[0], first)
    total = sum(cases[site] for site in sites)
    return {name: _mean([(cases[site] / total, states[site][name]) for site in sites]) for name in first}


def _check(site: str, state: Mapping[str, Tensor], other: str, expected: Mapping[str, Tensor]) -> None:
    wrong = sorted(state.keys() ^ expected.keys())
    wrong = wrong or [name for name, value in state.items() if _kind(value) != _kind(expected[name])]
    if wrong:
        raise ValueError(
            f"the networks of the sites '{other}' and '{site}' differ: {len(wrong)} entries in name, shape or type, "
            f"'{wrong[0]}' the first. All sites train the same student: give all the same settings of it."
        )
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"site '{site}' sent '{name}' with values that are not finite; its training diverged.")


def _kind(value: Tensor) -> tuple[torch.Size, torch.dtype]:
    return value.shape, value.dtype


def _mean(shares: list[tuple[float, Tensor]]) -> Tensor:
    kind = shares[0][1].dtype
    mean = torch.stack([share * value.double() for share, value in shares]).sum(0)
    return (mean if kind.is_floating_point else mean.round()).to(kind)
