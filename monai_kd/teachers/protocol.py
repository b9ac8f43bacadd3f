"""What every teacher offers to the terms of a distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

__all__ = ["OUTPUT", "Teacher"]

OUTPUT = "output"
"""Tap name of a network's own output."""


@runtime_checkable
class Teacher(Protocol):
    """What every teacher offers: frozen, moving average, or served by an exported runtime.

    A teacher is an ``nn.Module`` whose ``parameters()`` are empty (nothing of it is trained) and whose ``state_dict``
    holds only what a resumed run could not find elsewhere (nothing for a frozen network, the weights of a moving
    average).
    """

    def __call__(self, batch: Mapping[str, Tensor], taps: Sequence[str]) -> dict[str, Any]:
        """Outputs of the tapped layers for the images of ``batch``, without gradients."""
        ...

    def check(self, taps: Sequence[str], name: str) -> None:
        """Raise ``ValueError`` when a tap does not exist; ``name`` is what the user calls this teacher."""
        ...

    @property
    def input_key(self) -> str:
        """The batch key of this teacher's images."""
        ...
