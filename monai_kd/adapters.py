"""Learnable maps from a student's feature to the shape of its teacher's."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ProjectionAdapter"]

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_INTERPOLATIONS = {1: "linear", 2: "bilinear", 3: "trilinear"}


class ProjectionAdapter(nn.Module):
    """A 1x1 convolution to the teacher's channels, then a resize to its resolution; a linear map for (B, C) features.

    The convolution comes first: the two commute, and before an enlargement it costs a fraction.

    Args:
        student_shape: shape of the student's feature, (B, C, *spatial).
        teacher_shape: shape of the teacher's, with as many axes.

    Raises:
        ValueError: when the features have different numbers of axes.

    Example:
        >>> import torch
        >>> adapter = ProjectionAdapter((2, 8, 16, 16), (2, 64, 32, 32))
        >>> adapter(torch.zeros(1, 8, 24, 24)).shape
        torch.Size([1, 64, 48, 48])
    """

    def __init__(self, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> None:
        super().__init__()
        dims = len(student_shape) - 2
        if len(student_shape) != len(teacher_shape) or dims not in (0, 1, 2, 3):
            raise ValueError(
                f"expected two features of shape (B, C, *spatial) with as many axes; "
                f"got student {tuple(student_shape)}, teacher {tuple(teacher_shape)}."
            )
        channels = student_shape[1], teacher_shape[1]
        self.projection: nn.Module = (
            nn.Linear(*channels) if dims == 0 else _CONVOLUTIONS[dims](*channels, kernel_size=1)
        )
        # A ratio, not a size: training may change its image size from batch to batch.
        self.scale = tuple(t / s for s, t in zip(student_shape[2:], teacher_shape[2:]))

    def forward(self, feature: Tensor) -> Tensor:
        """``feature`` (B, C, *spatial) as (B, C_teacher, *spatial_teacher)."""
        projected: Tensor = self.projection(feature)
        if all(ratio == 1 for ratio in self.scale):
            return projected
        size = [round(length * ratio) for length, ratio in zip(feature.shape[2:], self.scale)]
        return F.interpolate(projected, size=size, mode=_INTERPOLATIONS[len(size)], align_corners=False)
