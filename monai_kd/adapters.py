"""Learnable maps from a student's features to the shape of its teacher's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from monai_kd._resize import concatenate, resize

__all__ = ["ChannelAdapter", "ProjectionAdapter"]

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class ProjectionAdapter(nn.Module):
    """A 1x1 convolution to the teacher's channels, then a resize to its resolution; a linear map for (B, C) features.

    The convolution comes first: the two commute, and before an enlargement it costs a fraction.

    Args:
        student_shape: shape of the student's feature, (B, C, *spatial).
        teacher_shape: shape of the teacher's, with as many axes.

    Raises:
        ValueError: when the features have different numbers of axes, or are several.

    Example:
        >>> import torch
        >>> adapter = ProjectionAdapter((2, 8, 16, 16), (2, 64, 32, 32))
        >>> adapter(torch.zeros(1, 8, 24, 24)).shape
        torch.Size([1, 64, 48, 48])
    """

    def __init__(self, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> None:
        super().__init__()
        if not all(isinstance(length, int) for length in (*student_shape, *teacher_shape)):
            raise ValueError(
                f"this adapter is for one student and one teacher tap; got student {student_shape}, teacher "
                f"{teacher_shape}. For lists of taps take ChannelAdapter."
            )
        self.projection = _projection([student_shape], [teacher_shape])
        # A ratio, not a size: training may change its image size from batch to batch.
        self.scale = tuple(t / s for s, t in zip(student_shape[2:], teacher_shape[2:]))

    def forward(self, feature: Tensor) -> Tensor:
        """``feature`` (B, C, *spatial) as (B, C_teacher, *spatial_teacher)."""
        size = [round(length * ratio) for length, ratio in zip(feature.shape[2:], self.scale)]
        return resize(self.projection(feature), size)


class ChannelAdapter(nn.Module):
    """A 1x1 convolution from the student's channels to the teacher's, for one tap or a list of taps of each side.

    The student keeps its size; several features of the student are resized to the smallest of their sizes and joined
    first. The output has the channels of all teacher features together. What follows must resize, as
    ``monai_kd.losses.PredictionMapLoss`` does.

    Args:
        student_shape: shape of the student's feature, (B, C, *spatial), or a list of such.
        teacher_shape: the same of the teacher, with as many axes.

    Raises:
        ValueError: when the features have different numbers of axes.

    Example:
        >>> import torch
        >>> adapter = ChannelAdapter([(2, 8, 16, 16), (2, 16, 8, 8)], (2, 3, 32, 32))
        >>> adapter([torch.zeros(1, 8, 24, 24), torch.zeros(1, 16, 12, 12)]).shape
        torch.Size([1, 3, 12, 12])
    """

    def __init__(
        self,
        student_shape: Sequence[int] | Sequence[Sequence[int]],
        teacher_shape: Sequence[int] | Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        self.projection = _projection(_listed(student_shape), _listed(teacher_shape))

    def forward(self, feature: Tensor | Sequence[Tensor]) -> Tensor:
        """``feature`` (B, C, *spatial), or a list of such, as (B, C_teacher, *spatial)."""
        projected: Tensor = self.projection(feature if isinstance(feature, Tensor) else concatenate(feature))
        return projected


def _listed(shape: Sequence[int] | Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The shapes of a list of taps, or the one shape in a list."""
    return [shape] if isinstance(shape[0], int) else list(shape)  # type: ignore[list-item, arg-type]


def _projection(students: Sequence[Sequence[int]], teachers: Sequence[Sequence[int]]) -> nn.Module:
    """From the channels of all student shapes to those of all teacher shapes, position by position."""
    dims = len(students[0]) - 2
    if len({len(shape) for shape in (*students, *teachers)}) > 1 or dims not in (0, 1, 2, 3):
        raise ValueError(
            "expected features of shape (B, C, *spatial) with as many axes; "
            f"got student {_spelt(students)}, teacher {_spelt(teachers)}."
        )
    ours, theirs = sum(shape[1] for shape in students), sum(shape[1] for shape in teachers)
    return nn.Linear(ours, theirs) if dims == 0 else _CONVOLUTIONS[dims](ours, theirs, kernel_size=1)


def _spelt(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)
