"""What teachers have in common that are networks in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monai_kd.taps import FeatureTaps, check_tap_names
from monai_kd.teachers.protocol import OUTPUT


class NetworkTeacher(nn.Module):
    """Answers with the outputs of a network's layers; the mode is the network's."""

    network: nn.Module

    def __init__(self, input_key: str, transform: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self._input_key = input_key
        self.transform = transform

    @property
    def input_key(self) -> str:
        """The batch key of this teacher's images."""
        return self._input_key

    def check(self, taps: Sequence[str], name: str = "teacher") -> None:
        """Raise ``ValueError`` when a tap does not exist."""
        check_tap_names(self.network, [tap for tap in taps if tap != OUTPUT], owner=f"the teacher '{name}'")

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], taps: Sequence[str]) -> dict[str, Any]:
        """Outputs of the tapped layers.

        Args:
            batch: must hold the images under ``input_key``, (B, C, *spatial), on the network's device.
            taps: layer names, or "output" for what the network returns.

        Returns:
            ``{tap: output}``.
        """
        images = batch[self.input_key]
        if self.transform is not None:
            images = self.transform(images)
        with FeatureTaps(self.network, [tap for tap in taps if tap != OUTPUT]) as recorder:
            output = self.network(images)
            return {OUTPUT: output, **recorder.outputs()}
