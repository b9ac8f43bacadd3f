"""The mean teacher: a moving average of the student itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from monai_kd.taps import unwrap
from monai_kd.teachers._network import NetworkTeacher

__all__ = ["EMATeacher"]


class EMATeacher(NetworkTeacher):
    """A mean teacher [0]: its weights are the exponential moving average of the student's.

    After the t-th optimiser step (t = 0, 1, ...) its weights become ``a * own + (1 - a) * student`` with
    ``a = min(1 - 1 / (t + 1), decay)``: a copy of the student after the first step, the plain mean of all steps at
    first, then the moving average. ``monai_kd.handlers.EMAUpdateHandler`` calls :meth:`update` there.

    It has no parameters: its weights are buffers under the names that they have in the student, so a ``state_dict`` of
    it holds them and its ``network`` loads and saves like the student.

    [0] Tarvainen and Valpola, Mean teachers are better role models, 2017, https://arxiv.org/abs/1703.01780

    Args:
        network: the student; it is copied, and left alone.
        decay: the largest ``a``, 0 <= decay < 1.
        buffers: what becomes of batch statistics. "own": the teacher gathers them from its own images; "copy": the
            student's are taken over at each update; "ema": they are averaged as the weights are.
        train_mode: answer in train mode, so with the statistics of the batch (and with dropout), as mean teachers do;
            ``False`` answers in eval mode.
        input_key: batch key of the teacher's images, where it sees another view than the student.
        transform: applied to those images, (B, C, *spatial), before the network.

    Raises:
        ValueError: a decay out of range, unknown ``buffers``, or statistics that would never change.

    Example:
        >>> student = nn.Linear(4, 2)
        >>> teacher = EMATeacher(student)
        >>> teacher.update(student)
        >>> torch.equal(teacher.network.weight, student.weight), list(teacher.parameters())
        (True, [])
    """

    def __init__(
        self,
        network: nn.Module,
        decay: float = 0.99,
        buffers: Literal["own", "copy", "ema"] = "own",
        train_mode: bool = True,
        input_key: str = "image",
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(input_key, transform)
        if not isinstance(network, nn.Module):
            raise TypeError(f"a mean teacher copies a torch.nn.Module, got {type(network).__name__}.")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be 0 or more and below 1, got {decay}.")
        if buffers not in ("own", "copy", "ema"):
            raise ValueError(f"buffers must be 'own', 'copy' or 'ema', got {buffers!r}.")
        student = unwrap(network)
        if buffers == "own" and not train_mode and any(True for _ in student.buffers()):
            raise ValueError(
                "a teacher in eval mode gathers no batch statistics of its own, they would stay as they are now: "
                "choose buffers='copy' or 'ema', or train_mode=True."
            )
        self.decay = decay
        self.buffers_mode = buffers
        self.train_mode = train_mode
        self.updates = 0
        self.network = _without_parameters(copy.deepcopy(student))
        self.train()

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Take in the student's weights after an optimiser step.

        Args:
            student: the network this teacher was made of, wrapped or not, on the same device.

        Raises:
            ValueError: another network.
        """
        student = unwrap(student)
        share = max(1.0 / (self.updates + 1), 1.0 - self.decay)
        own = dict(self.network.named_buffers(remove_duplicate=False))
        weights = dict(student.named_parameters(remove_duplicate=False))
        statistics = dict(student.named_buffers(remove_duplicate=False))
        theirs = weights | statistics
        wrong = sorted(own.keys() ^ theirs.keys())
        wrong = wrong or [name for name, value in weights.items() if own[name].shape != value.shape]
        if wrong:
            raise ValueError(
                f"this is a teacher of another network than this {type(student).__name__}: {len(wrong)} entries differ "
                f"in name or shape, '{wrong[0]}' the first; update it with the network it was made of."
            )
        averaged = list(weights)
        if self.buffers_mode == "ema":
            averaged += [name for name, value in statistics.items() if value.is_floating_point()]
        once = {id(own[name]): name for name in averaged}.values()  # tied weights have several names
        torch._foreach_lerp_([own[name] for name in once], [theirs[name] for name in once], share)
        if self.buffers_mode != "own":
            for name in statistics.keys() - set(averaged):
                own[name].copy_(statistics[name])
        self.updates += 1

    def forward(self, batch: Mapping[str, Tensor], taps: Sequence[str]) -> dict[str, Any]:
        """Outputs of the tapped layers, ``{tap: output}``, as those of a ``FrozenTeacher``."""
        self.network.train(self.train_mode)  # a validation of the teacher may have set it to eval mode
        return super().forward(batch, taps)

    def train(self, mode: bool = True) -> EMATeacher:
        """Stay in the mode of ``train_mode`` whatever ``mode`` says."""
        return super().train(self.train_mode)

    def get_extra_state(self) -> Tensor:
        """The number of updates, for ``state_dict``."""
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the number of updates from a ``state_dict``."""
        self.updates = int(state)


def _without_parameters(network: nn.Module) -> nn.Module:
    """Make every parameter of ``network`` a buffer of the same name, shared where it was shared."""
    made: dict[int, Tensor] = {}
    for module in network.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            del module._parameters[name]
            module.register_buffer(name, made.setdefault(id(parameter), parameter.detach()))
    return network
