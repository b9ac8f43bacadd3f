"""A trained network that only answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from monai_kd.checkpoints import CheckpointError, check_sha256, load_weights
from monai_kd.teachers._network import NetworkTeacher

__all__ = ["FrozenTeacher"]


class FrozenTeacher(NetworkTeacher):
    """A trained network that only answers: eval mode, no gradients, never in an optimiser or a checkpoint.

    Calling ``train()`` on it, or on anything that holds it, leaves it in eval mode. It follows ``.to(device)``.

    Args:
        network: the teacher's network.
        checkpoint: file with its weights; every name and shape must fit. ``None`` keeps the weights it has.
        input_key: batch key of the teacher's images, where they differ from the student's (another spacing, window,
            modality or size).
        transform: applied to those images, (B, C, *spatial), before the network, on the device (a resize, say).
        name: said in the message when the checkpoint is refused, where there are several teachers.
        sha256: that the file must have, as ``sha256sum`` prints it; held against it before anything in it is looked
            at. ``None`` for no check.

    Raises:
        FileNotFoundError: no file at ``checkpoint``.
        CheckpointError: another file than ``sha256`` says, or one that does not fit the network.
        ValueError: ``sha256`` is no digest, or there is no ``checkpoint``.

    Example:
        >>> teacher = FrozenTeacher(nn.Conv2d(1, 2, 1))
        >>> teacher({"image": torch.zeros(1, 1, 4, 4)}, ["output"])["output"].requires_grad
        False
    """

    def __init__(
        self,
        network: nn.Module,
        checkpoint: str | Path | None = None,
        input_key: str = "image",
        transform: Callable[[Tensor], Tensor] | None = None,
        name: str = "",
        sha256: str | None = None,
    ) -> None:
        super().__init__(input_key, transform)
        if not isinstance(network, nn.Module):
            raise TypeError(f"the teacher's network must be a torch.nn.Module, got {type(network).__name__}.")
        check_sha256(sha256, checkpoint)
        if checkpoint is not None:
            try:
                load_weights(network, checkpoint, sha256=sha256)
            except (FileNotFoundError, CheckpointError) as error:
                raise type(error)(f"teacher '{name}': {error}" if name else str(error)) from None
        # In a tuple, so that the network is no child: its weights stay out of parameters() and state_dict().
        self._frozen = (network.eval().requires_grad_(False),)

    @property
    def network(self) -> nn.Module:  # type: ignore[override]  # cannot be replaced
        """The teacher's network."""
        return self._frozen[0]

    def forward(self, batch: Mapping[str, Tensor], taps: Sequence[str]) -> dict[str, Any]:
        """Outputs of the tapped layers, ``{tap: output}``.

        Args:
            batch: must hold the images under ``input_key``, (B, C, *spatial), on the network's device.
            taps: layer names, or "output" for what the network returns.
        """
        self.network.eval()  # someone may have reached the network, or a layer of it, itself
        return super().forward(batch, taps)

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stay in eval mode whatever ``mode`` says."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenTeacher:
        self.network._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self
