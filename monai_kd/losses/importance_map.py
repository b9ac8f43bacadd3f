"""Importance maps of HLFD: where one layer, or several layers joined, respond most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from monai_kd._resize import check_joinable, resize, smallest_size
from monai_kd.losses._coarsest import averaged, check_native_resolution, coarsest_size
from monai_kd.losses._common import promote
from monai_kd.losses._power_sum import largest, power_sum
from monai_kd.losses.attention_transfer import unit_vectors


def importance_map(
    features: Tensor | Sequence[Tensor], size: Sequence[int], p: float = 4.0, native_resolution: bool = False
) -> Tensor:
    """``mean_c |x_c|^p`` at ``size``, as a vector over positions with unit length.

    Several features are resized to the smallest of their sizes, joined along the channels, and resized to ``size``. The
    joined tensor of that size (3.8 GB for 448 channels of 128^3) is never there: the powers are summed over a few
    channels at a time, which is exact, and computed again for the gradient.

    Args:
        features: shape (B, C, *spatial), or a list of such; channels and sizes may differ.
        size: spatial size of the map.
        p: larger values favour the strongest responses.
        native_resolution: take the powers of every feature at its own size and average them to ``size``, which must not
            be longer than a feature along any axis.

    Returns:
        One unit vector an item, shape (B, positions), in float32 (float64 stays); 0 where all features are 0.
    """
    features = [promote(x) for x in ([features] if isinstance(features, Tensor) else features)]
    if not native_resolution:
        smallest = smallest_size(features)
        features = [resize(x, smallest) for x in features]
    # One scale for all that is joined: it keeps |x|^p from overflowing and does not change the unit vector.
    peak = torch.stack([largest(x.detach()) for x in features]).amax(dim=0)
    sizes = [x.shape[2:] if native_resolution else size for x in features]
    sums = (averaged(power_sum(x, peak, at, p), size) for x, at in zip(features, sizes))
    return unit_vectors(reduce(torch.add, sums))


class ImportanceMapLoss(nn.Module):
    """Squared distance between the importance maps of [0], averaged over the batch: from 0 to 2 on any feature size.

    One teacher feature is the individual transfer: the student's map is brought to its size. A list of teacher features
    is the unified transfer: they are joined, and their map is brought to the student's size. A list of student
    features is joined likewise. Student and teacher may differ in channels and size; enlarging and shrinking are
    linear, without antialiasing.

    With ``native_resolution``, a departure from [0], nothing is enlarged: all maps are compared at the coarsest of the
    sizes, the least length of each axis among all features. The powers of a feature are taken at its own size, summed
    over its channels and averaged to that size, so that a strong response still counts where many positions become
    one. Where all sizes are equal this is the same loss.

    The scale of the features does not matter. (In the released code it does for very small features, and fp16
    overflows; and features are only resized when their first spatial axis differs.)

    [0] HLFD, 2023, https://arxiv.org/abs/2311.16700

    Args:
        p: power of the responses, at least 1.
        native_resolution: compare at the coarsest of the sizes; a fraction of the time where a coarse teacher is joined
            for a fine student.

    Raises:
        ValueError: when ``p`` is below 1, or ``native_resolution`` is no boolean.

    Example:
        >>> student, teachers = torch.randn(2, 8, 32, 32), [torch.randn(2, 64, 16, 16), torch.randn(2, 128, 8, 8)]
        >>> ImportanceMapLoss()(student, teachers).shape
        torch.Size([])
    """

    def __init__(self, p: float = 4.0, native_resolution: bool = False) -> None:
        super().__init__()
        if not 1 <= p < math.inf:
            raise ValueError(f"p must be at least 1 and finite (below 1 the gradient at 0 is infinite), got {p}.")
        self.p = p
        self.native_resolution = check_native_resolution(native_resolution)

    def forward(self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> Tensor:
        """
        Args:
            student: features (B, C, *spatial), 1D to 3D, or a list of such.
            teacher: features (B, D, *spatial), or a list of such; receive no gradient.

        Returns:
            The mean over the batch, a scalar.

        Raises:
            ValueError: batches or numbers of axes differ, or a map would have one position only.
        """
        students = [student] if isinstance(student, Tensor) else list(student)
        teachers = [teacher] if isinstance(teacher, Tensor) else list(teacher)
        check_joinable([*students, *teachers], "student and teacher")
        native, both = self.native_resolution, [*students, *teachers]
        for features in [both] if native else [students, teachers]:
            if (coarsest_size(features) if native else smallest_size(features)).numel() == 1:
                raise ValueError(
                    "the importance map of 1 position is constant and says nothing; got features "
                    f"{[tuple(x.shape) for x in features]}. Tap layers with a spatial size, or give larger images."
                )
        size = coarsest_size(both) if native else smallest_size(teachers if isinstance(teacher, Tensor) else students)
        with torch.no_grad():
            target = importance_map(teachers, size, self.p, native)
        difference = importance_map(students, size, self.p, native) - target
        return difference.square().sum(dim=1).mean()
