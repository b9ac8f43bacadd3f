"""Attention over the feature maps of several teachers: one map for the student to learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd._resize import resize
from monai_kd.losses._common import promote

__all__ = ["MultiTeacherAttentionFusion"]


class MultiTeacherAttentionFusion(nn.Module):
    """Fuses the feature maps F_k of K teachers into one of the student's channels, by multi-head attention.

    The idea is that of [0], which was read by its abstract; no code of it is published, so what follows is our
    reconstruction. With n positions and d channels:

    * tokens ``X_k = LN(W_k F_k) + e_k + p``: a linear map, the embedding of the teacher and that of the position;
    * attention across teachers and positions, ``U = LN(X + MHA(X))`` over the K n tokens;
    * the fused map ``sum_k w_k U_k``, w the softmax over the teachers of a linear score of U_k. The score begins at 0,
      so the fused map as the mean over the teachers;
    * class logits of the fused map's mean over positions.

    LN normalises without weights: the linear map before it and the embeddings behind it have them. A map of another
    size than ``positions`` is resampled linearly.

    It learns from its own class logits, by ``FusionTaskLoss``: a distance to the student alone is least for two
    constants. ``FusionHintLoss`` and ``FusionSoftTargetLoss`` teach the student. Give one fusion to all of them.

    [0] Gammulle et al., Learning Through Guidance: Knowledge Distillation for Endoscopic Image Classification, 2023,
    https://arxiv.org/abs/2308.08731

    Args:
        channels: of each teacher's map.
        num_classes: classes.
        dimension: d, the channels of the student's map.
        num_heads: attention heads.
        positions: size of the student's map along each spatial axis, two or three of them; n is their product.
        query: what asks: the "teachers", or the "student", whose detached map then stands for the teachers' in the
            queries, ``LN(F_s) + e_k + p``, and in them alone. Such targets change with the student.

    Raises:
        ValueError: no teacher, a size below 1, heads that do not divide ``dimension``, an unknown ``query``.

    Example:
        >>> fusion = MultiTeacherAttentionFusion((32, 64), num_classes=3, dimension=16, positions=(4, 4))
        >>> fused = fusion(None, [torch.randn(2, 32, 4, 4), torch.randn(2, 64, 8, 8)])
        >>> fused.shape, fusion.logits(fused).shape
        (torch.Size([2, 16, 4, 4]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        dimension: int = 160,
        num_heads: int = 8,
        positions: Sequence[int] = (7, 7),
        query: Literal["teachers", "student"] = "teachers",
    ) -> None:
        super().__init__()
        if not channels or min(*channels, num_classes, dimension, num_heads) < 1:
            raise ValueError(
                "expected a teacher at least, and 1 or more of everything; got "
                f"channels {tuple(channels)}, {num_classes} classes, dimension {dimension}, {num_heads} heads."
            )
        if dimension % num_heads:
            raise ValueError(f"the heads share the dimension: {num_heads} heads do not divide {dimension}.")
        if len(positions) not in (2, 3) or min(positions) < 1:
            raise ValueError(f"positions is the size of the student's map, two or three axes, got {tuple(positions)}.")
        if query not in ("teachers", "student"):
            raise ValueError(f"query must be 'teachers' or 'student', got {query!r}.")
        self.channels = tuple(channels)
        self.dimension = dimension
        self.positions = tuple(positions)
        self.query = query
        self.projections = nn.ModuleList(nn.Linear(count, dimension) for count in channels)
        self.teacher_embedding = nn.Parameter(0.02 * torch.randn(len(channels), 1, dimension))
        self.position_embedding = nn.Parameter(0.02 * torch.randn(math.prod(positions), dimension))
        self.attention = nn.MultiheadAttention(dimension, num_heads, batch_first=True)
        self.score = nn.Linear(dimension, 1, bias=False)  # a bias would be the same for all teachers
        nn.init.zeros_(self.score.weight)
        self.head = nn.Linear(dimension, num_classes)

    def forward(self, student: Tensor | None, teacher: Sequence[Tensor]) -> Tensor:
        """
        Args:
            student: its map, (B, dimension, *positions); read where the student asks, and never given a gradient.
            teacher: a map of each teacher, (B, channels[k], *spatial); receive no gradient.

        Returns:
            The fused map, shape (B, dimension, *positions), in float32.

        Raises:
            ValueError: maps that do not fit what the fusion was built for.
        """
        self._check_teachers(teacher)
        with torch.autocast(teacher[0].device.type, enabled=False):
            tokens = self._tokens(teacher)
            queries = tokens if self.query == "teachers" else self._queries(student)
            attended, _ = self.attention(
                queries.flatten(1, 2), tokens.flatten(1, 2), tokens.flatten(1, 2), need_weights=False
            )
            attended = self._normalize(tokens + attended.unflatten(1, tokens.shape[1:3]))
            fused = (self.score(attended).softmax(dim=1) * attended).sum(dim=1)
        return fused.mT.unflatten(2, self.positions)

    def logits(self, fused: Tensor) -> Tensor:
        """Class logits (B, num_classes) of a fused map."""
        with torch.autocast(fused.device.type, enabled=False):
            logits: Tensor = self.head(fused.flatten(2).mean(dim=2))
        return logits

    def check_student(self, student: Tensor | None) -> Tensor:
        """The student's map, or ``ValueError`` unless it has the fusion's channels and positions."""
        expected = (self.dimension, *self.positions)
        if student is None or student.shape[1:] != expected:
            raise ValueError(
                f"expected a map of the student of shape {('B', *expected)}, got "
                f"{None if student is None else tuple(student.shape)}: build the fusion with its channels as "
                "'dimension' and its size as 'positions', or give the term an adapter."
            )
        return student

    def _tokens(self, teacher: Sequence[Tensor]) -> Tensor:
        """(B, K, n, d) of the teachers' maps; the clone is for teachers that ran in inference mode."""
        kind = self.head.weight.dtype
        maps = [resize(promote(one).to(kind).detach().clone(), self.positions) for one in teacher]
        tokens = [projection(one.flatten(2).mT) for projection, one in zip(self.projections, maps)]
        return self._embed(torch.stack(tokens, dim=1))

    def _queries(self, student: Tensor | None) -> Tensor:
        """(B, K, n, d) of the student's map: in the place of each teacher's."""
        ours = promote(self.check_student(student)).to(self.head.weight.dtype)
        return self._embed(ours.detach().flatten(2).mT.unsqueeze(1))

    def _embed(self, x: Tensor) -> Tensor:
        return self._normalize(x) + self.teacher_embedding + self.position_embedding

    def _normalize(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.dimension,))

    def _check_teachers(self, teacher: Sequence[Tensor]) -> None:
        if isinstance(teacher, Tensor):
            raise ValueError("expected a list of maps, one a teacher, got one tensor: give the term a list of taps.")
        axes = len(self.positions) + 2
        if [x.shape[1] for x in teacher] != list(self.channels) or any(x.ndim != axes for x in teacher):
            raise ValueError(
                f"expected maps of {len(self.channels)} teachers with {self.channels} channels and {axes - 2} spatial "
                f"axes, in this order; got {[tuple(x.shape) for x in teacher]}."
            )
