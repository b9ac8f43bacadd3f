"""Noise-contrastive estimation against a memory bank: the positives of an anchor are told from its negatives."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd.losses._common import check_temperature
from monai_kd.losses.contrast_memory import ContrastMemory, gather

__all__ = ["NoiseContrastiveLoss"]

_LARGE_BANK = 100_000  # rows; above, drawing is cheaper than comparing with all
_AT_ONCE = 512  # drawn rows of an anchor


class NoiseContrastiveLoss(nn.Module):
    """What ``CRDLoss`` and ``ClassContrastiveLoss`` have in common.

    An anchor g of one network is compared with rows M_j of the *other* network's bank, in both directions:
    ``-[mean_p log h_p + sum_k log(1 - h_k)]`` over P positives p and K negatives k, averaged over the batch, with
    ``h = x / (x + K Pn)`` and ``x = exp(g . M / temperature) / Z``. With ``logit = g . M / temperature - log Z - log(K
    Pn)`` these are ``logsigmoid(logit)`` and ``logsigmoid(-logit)``, finite for every cosine. Z comes from the first
    batch and stays. A batch is scored before it is written. Z and banks change in training mode only.

    Nothing is drawn by default: every row counts as often as it would be drawn on average, which is exactly the
    expectation of the sampled loss and one matrix product. The gradient is computed with the loss, so that of the
    scores nothing is kept (and there is no second derivative).

    Example:
        >>> memory = ContrastMemory([0, 0, 1], student_channels=8)
        >>> loss = NoiseContrastiveLoss(memory, 1, 4, temperature=0.07, noise="uniform", sampled=False)
        >>> student, teacher = torch.rand(2, 2, 8)
        >>> loss.contrast(student, teacher, index=torch.tensor([0, 2]), label=None, table=None).shape
        torch.Size([])
    """

    log_partition: Tensor
    _order: Tensor
    _sorted_labels: Tensor

    def __init__(
        self,
        memory: ContrastMemory,
        positives: int,
        negatives: int,
        temperature: float,
        noise: Literal["uniform", "class"],
        sampled: bool | None,
    ) -> None:
        super().__init__()
        if positives < 1 or negatives < 1:
            raise ValueError(f"positives and negatives must be 1 or more, got {positives} and {negatives}.")
        if noise not in ("uniform", "class"):
            raise ValueError(f"noise must be 'uniform' or 'class', got {noise!r}.")
        self.memory = memory
        self.positives = positives
        self.negatives = negatives
        self.temperature = check_temperature(temperature)
        self.noise = noise
        self.sampled = len(memory.labels) > _LARGE_BANK if sampled is None else sampled
        self.register_buffer("log_partition", torch.full((2,), math.nan))  # for student and teacher anchors
        order = torch.argsort(memory.labels, stable=True)
        self.register_buffer("_order", order, persistent=False)
        self.register_buffer("_sorted_labels", memory.labels[order], persistent=False)

    def contrast(
        self, student: Tensor, teacher: Tensor, index: Tensor, label: Tensor | None, table: Tensor | None
    ) -> Tensor:
        """The loss of both directions; arguments as in the losses' ``forward``."""
        ours, theirs = self.memory.embed(student, teacher)
        index = self.memory.check_index(index, len(ours))
        label = None if label is None else self.memory.check_label(label, index)
        with torch.no_grad(), torch.autocast(ours.device.type, enabled=False):
            if self.sampled or table is not None:
                compared = self._drawn(index, label, table)
            else:
                compared = self._all_rows(index, label)
            from_student = self._direction(0, ours.detach(), self.memory.teacher_rows, compared)
            from_teacher = self._direction(1, theirs.detach(), self.memory.student_rows, compared)
            if self.training:
                self.memory.update(index, ours, theirs)
        first: Tensor = _WithGradient.apply(ours, *from_student)
        second: Tensor = _WithGradient.apply(theirs, *from_teacher)
        return first + second

    def _direction(self, which: int, anchors: Tensor, rows: Tensor, compared: _Compared) -> tuple[Tensor, Tensor]:
        """Loss of anchors (B, D) against rows (N, D), and its gradient (B, D)."""
        columns, positive, negative, log_noise = compared
        scaled = anchors / self.temperature
        logits = scaled @ rows.mT if columns is None else _products(scaled, rows, columns)
        constant = self.log_partition[which]
        if constant.device.type != "cpu" or constant.isnan():  # an accelerator would be waited for to ask
            estimate = self._log_partition(logits, positive * self.positives + negative)
            constant = torch.where(constant.isnan(), estimate, constant)
            if self.training:
                self.log_partition[which] = constant
        logits = logits.sub_(constant + log_noise)
        both = positive + negative
        value = _dot(negative, logits) - _dot(both, F.logsigmoid(logits))
        slope = logits.sigmoid_().mul_(both).sub_(positive)
        gradient = slope @ rows if columns is None else _weighted_rows(slope, rows, columns)
        return value / len(anchors), gradient / (self.temperature * len(anchors))

    def _log_partition(self, logits: Tensor, drawn: Tensor) -> Tensor:
        """log of N times the mean exp(logit) over what an anchor is compared with, over all processes."""
        parts = gather(torch.stack([torch.logsumexp((logits + drawn.log()).flatten(), 0), drawn.sum().log()])[None])
        return math.log(len(self.memory.labels)) + torch.logsumexp(parts[:, 0], 0) - torch.logsumexp(parts[:, 1], 0)

    def _all_rows(self, index: Tensor, label: Tensor | None) -> _Compared:
        """Every row, with how often it would be drawn on average."""
        labels, own = self.memory.labels, index.unsqueeze(1)
        start, stop, known = self._sorted_ranges(index, label)
        if label is None:
            same = torch.arange(len(labels), device=index.device) == own
            other = ~same
        else:
            same = (labels == label.unsqueeze(1)) & (labels >= 0)
            other = (labels >= 0) & ~same
        alike = (stop - start).unsqueeze(1)
        others = len(labels) - known - alike
        share, dtype = 1.0 / self.positives, self.log_partition.dtype
        positive = torch.where(same, (1.0 - share) / alike.clamp(min=1).to(dtype), 0.0)
        positive.scatter_add_(1, own, torch.where(alike > 0, share, torch.ones_like(own, dtype=dtype)))
        negative = torch.where(other, self.negatives / others.clamp(min=1).to(dtype), 0.0)
        return _Compared(None, positive, negative, self._log_noise(others))

    def _drawn(self, index: Tensor, label: Tensor | None, table: Tensor | None) -> _Compared:
        """P positives and K negatives of each anchor, from ``table`` or drawn; the first positive is its own row."""
        count = len(self.memory.labels)
        is_positive = torch.arange(self.positives + self.negatives, device=index.device) < self.positives
        start, stop, known = self._sorted_ranges(index, label)
        others = count - known - (stop - start)
        if table is None:
            alike = (stop - start).clamp(min=1)
            positive = start.unsqueeze(1) + _below(alike, self.positives)
            negative = known + _below(others.clamp(min=1), self.negatives)
            negative = negative + (stop - start).unsqueeze(1) * (negative >= start.unsqueeze(1))
            table = torch.cat([positive, negative], dim=1).clamp(max=count - 1)
            table = table if label is None else self._order[table]
            table = torch.where(is_positive & (stop == start).unsqueeze(1), index.unsqueeze(1), table)
        else:
            self._check_table(table, len(index))
        table = torch.cat([index.unsqueeze(1), table[:, 1:].long()], dim=1)
        others = others.unsqueeze(1)
        is_positive = is_positive.expand(table.shape)
        positive = is_positive.to(self.log_partition.dtype) / self.positives
        negative = (~is_positive & (others > 0)).to(self.log_partition.dtype)
        return _Compared(table, positive, negative, self._log_noise(others))

    def _sorted_ranges(self, index: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """From and to where rows sorted by class are of an anchor's class (B,), and where the known classes begin (1,).

        Without ``label`` each row is a class of its own.
        """
        if label is None:
            return index, index + 1, index.new_zeros(1)
        known = torch.searchsorted(self._sorted_labels, label.new_zeros(1))
        start = torch.searchsorted(self._sorted_labels, label).clamp(min=known)
        return start, torch.searchsorted(self._sorted_labels, label, right=True).clamp(min=known), known

    def _log_noise(self, others: Tensor) -> Tensor:
        """log(K Pn) of each anchor, (B, 1)."""
        count = others.clamp(min=1) if self.noise == "class" else torch.full_like(others, len(self.memory.labels))
        return math.log(self.negatives) - count.to(self.log_partition.dtype).log()

    def _check_table(self, table: Tensor, batch_size: int) -> None:
        expected = (batch_size, self.positives + self.negatives)
        if table.shape != expected or table.is_floating_point():
            raise ValueError(
                f"the table names {self.positives} positives and {self.negatives} negatives of each anchor by their "
                f"rows, integers {expected}; got {tuple(table.shape)} of {table.dtype}."
            )


class _Compared(NamedTuple):
    """What anchors are compared with: rows (B, n), all of them for ``None``, their weights (B, n), log(K Pn)."""

    columns: Tensor | None
    positive: Tensor
    negative: Tensor
    log_noise: Tensor


class _WithGradient(torch.autograd.Function):
    """A loss whose gradient at the embeddings is known already."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer * gradient, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products, without the products in memory."""
    return torch.dot(a.reshape(-1), b.reshape(-1))


def _products(anchors: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Products (B, n) of anchors (B, D) with their own rows, columns (B, n), without all of them in memory."""
    parts = [torch.einsum("bd,bnd->bn", anchors, rows[part]) for part in columns.split(_AT_ONCE, dim=1)]
    return torch.cat(parts, dim=1)


def _weighted_rows(weights: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sums (B, D) of the rows that columns (B, n) name, by weights (B, n)."""
    return F.embedding_bag(columns, rows, mode="sum", per_sample_weights=weights.to(rows.dtype))


def _below(bound: Tensor, count: int) -> Tensor:
    """``count`` integers from 0 to below each bound (B,), drawn with replacement: (B, count)."""
    bound = bound.unsqueeze(1)
    draws = torch.rand(len(bound), count, device=bound.device)
    return torch.minimum((draws * bound).long(), bound - 1)
