"""Relational knowledge distillation: distances and angles between the items of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd.losses._common import promote


def squared_distances(items: Tensor) -> Tensor:
    """Squared distances between items, from their inner products.

    These are computed in double precision (except on Apple's devices, which have none), so that the distance of two
    items that are nearly alike is not lost in rounding.

    Args:
        items: shape (B, D).

    Returns:
        Squared distances, shape (B, B), 0 on the diagonal.
    """
    items = items if items.device.type == "mps" else items.double()
    items = items - items.mean(dim=0)
    with torch.autocast(device_type=items.device.type, enabled=False):
        products = items @ items.mT
    squares = products.diagonal()
    return torch.add(squares.unsqueeze(0) + squares.unsqueeze(1), products, alpha=-2)


def pair_distances(squared: Tensor) -> Tensor:
    """Distances between items, in units of their mean over all pairs.

    Args:
        squared: distances between items, shape (B, B).

    Returns:
        Distances, shape (B, B).
    """
    distances = squared.clamp(min=1e-30).sqrt()  # the square root has no derivative at 0
    pairs = max(squared.shape[0] * (squared.shape[0] - 1), 1)
    return distances / (distances.sum() / pairs).clamp(min=1e-8)


def triplet_cosines(squared: Tensor) -> Tensor:
    """Cosines of the angles that items i and k form at item j, by the law of cosines.

    Args:
        squared: distances between items, shape (B, B).

    Returns:
        Cosines, shape (B, B, B), indexed [j, i, k]. Sides below a thousandth of the spread of the batch have no
        direction: their cosines fade to 0.
    """
    spread = squared.detach().mean() / 2
    squared = squared / spread.clamp(min=1e-16)
    inverse = squared.clamp(min=1e-6).rsqrt()
    # The cosine of two sides a and b that meet, and c across: (a^2 + b^2 - c^2) / 2ab.
    doubled = (squared.unsqueeze(2) + squared.unsqueeze(1) - squared) * inverse.unsqueeze(2)
    return doubled * (inverse / 2).unsqueeze(1)


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
        student, teacher = _pool(student), _pool(teacher.detach())
        size = student.shape[0]
        ours, theirs = squared_distances(student), squared_distances(teacher)
        distances = F.smooth_l1_loss(pair_distances(ours), pair_distances(theirs), reduction="sum")
        distance = distances / max(size * (size - 1), 1)
        angles = F.smooth_l1_loss(triplet_cosines(ours), triplet_cosines(theirs), reduction="none")
        # Where an item meets itself both cosines are 0; an angle has two other items besides.
        angle = (angles.sum() - angles.diagonal(dim1=1, dim2=2).sum()) / max(size * (size - 1) * (size - 2), 1)
        return (self.distance_weight * distance + self.angle_weight * angle).to(student.dtype)


def _pool(features: Tensor) -> Tensor:
    features = promote(features)
    return features.flatten(2).mean(dim=2) if features.ndim > 2 else features
