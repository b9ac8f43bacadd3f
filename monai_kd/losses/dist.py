"""DIST: the student keeps the teacher's relations between classes and positions, not its probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd.losses._common import (
    check_same_shape,
    check_softmax_channels,
    check_temperature,
    masked_mean,
    probabilities,
    valid_positions,
)

_EPS = 1e-8  # variance of a vector that counts as constant


def pearson_distance(student: Tensor, teacher: Tensor, valid: Tensor | None, dim: int) -> Tensor:
    """``1 - correlation`` along ``dim`` over the entries that are ``valid``, all for ``None``.

    It is computed as half the mean squared difference of the standardised vectors, which is the same number, zero at
    equality, and defined for constant vectors: they count as 0 after standardisation, and vectors with a standard
    deviation below 1e-4 fade towards that instead of amplifying rounding errors.

    Args:
        student: vectors along ``dim``.
        teacher: same shape.
        valid: booleans, same shape.
        dim: the axis of the vectors.

    Returns:
        Distances from 0 to 2, the shape without ``dim``.
    """
    if valid is None:
        return (_standardise_all(student, dim) - _standardise_all(teacher, dim)).square().mean(dim=dim) / 2
    count = valid.sum(dim=dim, keepdim=True).clamp(min=1)
    difference = _standardise(student, valid, count, dim) - _standardise(teacher, valid, count, dim)
    return (difference.square() / count).sum(dim=dim) / 2


class DISTLoss(nn.Module):
    """``beta`` times the inter-class plus ``gamma`` times the intra-class relation of [0].

    Inter-class: at each position, the correlation of student and teacher over the classes; averaged over positions.
    Intra-class: for each class, the correlation over all positions of the batch (over its items in classification);
    averaged over classes. A batch with one position has no intra-class relation: that part is 0.

    A correlation of two numbers is always 1 or -1 and has no gradient, so the inter-class part needs three channels:
    with one (``sigmoid=True``) or two only the intra-class part acts.

    The terms are not scaled by the square of the temperature, as in the paper's own listing: a correlation does not
    shrink when probabilities flatten. (The released code scales them.)

    [0] Huang et al., Knowledge Distillation from A Stronger Teacher, 2022, https://arxiv.org/abs/2205.10536

    Args:
        beta: weight of the inter-class part.
        gamma: weight of the intra-class part.
        temperature: values above 1 flatten both distributions.
        sigmoid: channels are independent yes/no questions instead of exclusive classes.

    Raises:
        ValueError: when ``temperature`` is not positive or a weight is negative.

    Example:
        >>> student, teacher = torch.randn(2, 2, 3, 16, 16, 16)
        >>> DISTLoss()(student, teacher).shape
        torch.Size([])
    """

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0, sigmoid: bool = False) -> None:
        super().__init__()
        if not (beta >= 0 and gamma >= 0):
            raise ValueError(f"weights must not be negative, got beta {beta}, gamma {gamma}.")
        self.beta = beta
        self.gamma = gamma
        self.temperature = check_temperature(temperature)
        self.sigmoid = sigmoid

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of logits (B, C, *spatial) where ``mask``, (B, *spatial) or (B, 1, *spatial), is not 0."""
        check_same_shape(student, teacher)
        if not self.sigmoid:
            check_softmax_channels(student)
        student = probabilities(student, self.temperature, self.sigmoid)
        teacher = probabilities(teacher, self.temperature, self.sigmoid).detach()
        if mask is None and student.ndim == 2 and student.shape[0] > 1:
            return self._of_items(student, teacher)
        valid = None if mask is None else valid_positions(mask, student).expand_as(student)
        loss = self.gamma * self.intra_class(student, teacher, valid)
        if student.shape[1] > 2:
            loss = loss + self.beta * self.inter_class(student, teacher, valid)
        return loss

    @staticmethod
    def inter_class(student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        """Mean over valid positions of the distance over classes; all of shape (B, C, *spatial)."""
        return masked_mean(pearson_distance(student, teacher, None, dim=1), None if valid is None else valid[:, 0])

    @staticmethod
    def intra_class(student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        """Mean over classes of the distance over valid positions of the batch; all of shape (B, C, *spatial)."""
        student, teacher = (x.transpose(0, 1).flatten(1) for x in (student, teacher))
        valid = None if valid is None else valid.transpose(0, 1).flatten(1)
        return pearson_distance(student, teacher, valid, dim=1).mean()

    def _of_items(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of probabilities (B, C), of which both parts are mean squared differences."""
        loss = F.mse_loss(_standardise_rows(student.T), _standardise_rows(teacher.T)) * (self.gamma / 2)
        if student.shape[1] > 2:
            loss = loss + F.mse_loss(_standardise_rows(student), _standardise_rows(teacher)) * (self.beta / 2)
        return loss


def _standardise_rows(x: Tensor) -> Tensor:
    return torch.layer_norm(x, x.shape[1:], eps=_EPS)


def _standardise(x: Tensor, valid: Tensor, count: Tensor, dim: int) -> Tensor:
    mean = torch.where(valid, x, 0.0).sum(dim=dim, keepdim=True) / count
    centred = torch.where(valid, x - mean, 0.0)
    variance = centred.square().sum(dim=dim, keepdim=True) / count
    return centred / (variance + _EPS).sqrt()


def _standardise_all(x: Tensor, dim: int) -> Tensor:
    centred = x - x.mean(dim=dim, keepdim=True)
    return centred * (centred.square().mean(dim=dim, keepdim=True) + _EPS).rsqrt()
