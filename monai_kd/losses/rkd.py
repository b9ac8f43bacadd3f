"""Relational knowledge distillation: distances and angles between the items of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd.losses._common import promote


def pair_distances(items: Tensor) -> Tensor:
    """Distances between items, in units of their mean over all pairs.

    Args:
        items: shape (B, D).

    Returns:
        Distances, shape (B, B), 0 on the diagonal.
    """
    distances = torch.linalg.vector_norm(items.unsqueeze(0) - items.unsqueeze(1), dim=2)
    pairs = max(items.shape[0] * (items.shape[0] - 1), 1)
    return distances / (distances.sum() / pairs).clamp(min=1e-8)


def triplet_cosines(items: Tensor) -> Tensor:
    """Cosines of the angles that items i and k form at item j.

    Args:
        items: shape (B, D).

    Returns:
        Cosines, shape (B, B, B), indexed [j, i, k]. Sides below a thousandth of the spread of the batch have no
        direction: their cosines fade to 0.
    """
    spread = torch.linalg.vector_norm((items - items.mean(dim=0)).detach()) / items.shape[0] ** 0.5
    items = items / spread.clamp(min=1e-8)
    sides = F.normalize(items.unsqueeze(0) - items.unsqueeze(1), dim=2, eps=1e-3)
    with torch.autocast(device_type=items.device.type, enabled=False):
        return sides @ sides.mT


class RKDLoss(nn.Module):
    """Distance-wise and angle-wise relations of [0] with the Huber loss, averaged over pairs and triplets of items.

    Features with spatial axes are averaged over positions first, so the relations are between images. Student and
    teacher may differ in everything but the batch size. Batches of one or two items have nothing to compare (no angle,
    and one distance, which is its own mean): the loss is 0 and teaches nothing.

    [0] Park et al., Relational Knowledge Distillation, 2019, https://arxiv.org/abs/1904.05068

    Args:
        distance_weight: weight of the distances.
        angle_weight: weight of the angles; the paper's RKD-DA has twice the weight of the distances here.

    Raises:
        ValueError: when a weight is negative.

    Example:
        >>> student, teacher = torch.randn(4, 8, 16, 16), torch.randn(4, 32)
        >>> RKDLoss()(student, teacher).shape
        torch.Size([])
    """

    def __init__(self, distance_weight: float = 1.0, angle_weight: float = 2.0) -> None:
        super().__init__()
        if not (distance_weight >= 0 and angle_weight >= 0):
            raise ValueError(f"weights must not be negative, got distance {distance_weight}, angle {angle_weight}.")
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of features (B, C, *spatial) and (B, D, *spatial), or (B, C) and (B, D)."""
        if student.shape[0] != teacher.shape[0]:
            raise ValueError(
                f"features must come from one batch, got {student.shape[0]} items of the student and "
                f"{teacher.shape[0]} of the teacher."
            )
        student, teacher = _pool(student), _pool(teacher).detach()
        distance = _mean_over_distinct(_huber(pair_distances(student), pair_distances(teacher)))
        angle = _mean_over_distinct(_huber(triplet_cosines(student), triplet_cosines(teacher)))
        return self.distance_weight * distance + self.angle_weight * angle


def _pool(features: Tensor) -> Tensor:
    features = promote(features)
    return features.flatten(2).mean(dim=2) if features.ndim > 2 else features


def _huber(student: Tensor, teacher: Tensor) -> Tensor:
    return F.smooth_l1_loss(student, teacher, reduction="none")


def _mean_over_distinct(values: Tensor) -> Tensor:
    """Mean over pairs (B, B) or triplets (B, B, B) of different items."""
    size = values.shape[0]
    distinct = ~torch.eye(size, dtype=torch.bool, device=values.device)
    count = size * (size - 1)
    if values.ndim == 3:
        distinct = distinct.unsqueeze(0) & distinct.unsqueeze(1) & distinct.unsqueeze(2)
        count = count * (size - 2)
    return torch.where(distinct, values, 0.0).sum() / max(count, 1)
