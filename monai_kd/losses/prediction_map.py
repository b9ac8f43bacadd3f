"""Prediction maps of HLFD: softened class distributions a position, of logits or of joined decoder features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monai_kd._resize import check_joinable, concatenate, resize
from monai_kd.losses._coarsest import averaged, check_native_resolution, coarsest_size
from monai_kd.losses._common import check_temperature, promote
from monai_kd.losses.soft_target import categorical_kl


class PredictionMapLoss(nn.Module):
    """KL divergence from the teacher's to the student's softened distribution over channels [0], a mean over positions.

    One teacher map is the individual transfer: the student is resized to it. A list of teacher maps is the unified
    transfer: they are resized to the smallest of their sizes, joined along the channels, and resized to the student.

    The student must have as many channels as the teacher, or as all joined: put ``monai_kd.adapters.ChannelAdapter`` in
    front. A 1x1 convolution and a linear resize commute, so the order of both does not matter.

    With ``native_resolution``, a departure from [0], nothing is enlarged: the student and all teacher maps, logits or
    features, are averaged to the coarsest of the sizes, the least length of each axis among them. Where all sizes are
    equal this is the same loss.

    Two deviations from the released code. There the projection is drawn anew each step, so that its target says nothing
    of the teacher in expectation; here it is learned with the student, and stands on the student's side also in the
    unified transfer: on the teacher's side it could learn a constant target. And the released divisor makes the loss
    2 / C of the mean over positions.

    [0] HLFD, 2023, https://arxiv.org/abs/2311.16700

    Args:
        temperature: values above 1 flatten both distributions; the loss is scaled by its square.
        native_resolution: compare at the coarsest of the sizes.

    Raises:
        ValueError: when ``temperature`` is not positive, or ``native_resolution`` is no boolean.

    Example:
        >>> student, teachers = torch.randn(2, 24, 16, 16), [torch.randn(2, 16, 8, 8), torch.randn(2, 8, 16, 16)]
        >>> PredictionMapLoss()(student, teachers).shape
        torch.Size([])
    """

    def __init__(self, temperature: float = 4.0, native_resolution: bool = False) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.native_resolution = check_native_resolution(native_resolution)

    def forward(self, student: Tensor, teacher: Tensor | Sequence[Tensor]) -> Tensor:
        """
        Args:
            student: logits or projected features, shape (B, C, *spatial).
            teacher: logits or features, shape (B, C, *spatial), or a list of such with C channels in all; receives no
                gradient.

        Returns:
            The mean over batch and positions, a scalar.

        Raises:
            ValueError: channels, batches or numbers of axes differ, or there is one channel only.
        """
        teachers = [teacher] if isinstance(teacher, Tensor) else list(teacher)
        check_joinable([student, *teachers], "student and teacher")
        channels = sum(x.shape[1] for x in teachers)
        if student.shape[1] != channels:
            raise ValueError(
                f"the student has {student.shape[1]} channels, the teacher {channels} in {len(teachers)} map(s); got "
                f"{tuple(student.shape)} and {[tuple(x.shape) for x in teachers]}. Map the student's channels with "
                "adapter=monai_kd.adapters.ChannelAdapter."
            )
        if channels == 1:
            raise ValueError(
                f"softmax over 1 channel is constant, the loss would always be 0; got {tuple(student.shape)}. Give the "
                "networks a background channel (out_channels=2)."
            )
        student, teachers = promote(student), [promote(x).detach() for x in teachers]
        if self.native_resolution:
            size = coarsest_size([student, *teachers])
            student, target = averaged(student, size), torch.cat([averaged(x, size) for x in teachers], dim=1)
        elif isinstance(teacher, Tensor):
            student, target = resize(student, teachers[0].shape[2:]), teachers[0]
        else:
            target = resize(concatenate(teachers), student.shape[2:])
        return categorical_kl(student, target, self.temperature, dim=1, mean=True)
