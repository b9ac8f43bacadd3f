"""Endoscopic image classification: one teacher's answers or features, the mean of several, or attention over them.

In the spirit of Gammulle et al., Learning Through Guidance: Knowledge Distillation for Endoscopic Image Classification,
2023, https://arxiv.org/abs/2308.08731, which compares response-based, feature-based and relation-based (several
teachers, fused by multi-head attention) distillation. Its abstract was read and no code of it is published: networks,
losses and numbers here are our reconstruction, not to be compared with the paper's results.

Terms on the answers have the weight ``alpha`` beside the task loss, whose share is the rest:
``DistillationHandler(distiller, task_weight=1 - alpha)``. Terms on features are added to the whole task loss.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from monai_kd.adapters import ProjectionAdapter
from monai_kd.distiller import DistillationTerm
from monai_kd.losses import (
    EnsembleSoftTargetLoss,
    FusionHintLoss,
    FusionSoftTargetLoss,
    FusionTaskLoss,
    MultiTeacherAttentionFusion,
    NormalizedHintLoss,
    SoftTargetLoss,
)
from monai_kd.teachers import OUTPUT

__all__ = ["attention_fusion_terms", "feature_terms", "mean_teachers_terms", "response_terms"]


def response_terms(
    teacher: str = OUTPUT, alpha: float = 0.5, temperature: float = 4.0, student: str = OUTPUT
) -> list[DistillationTerm]:
    """Response-based: ``soft_target``, the softened class probabilities of one teacher.

    Args:
        teacher: tap of the logits, "<teacher>:<tap>" where there are several teachers.
        alpha: share of this term beside the task loss.
        temperature: of the soft targets.
        student: tap of the logits.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> [(term.name, term.weight) for term in response_terms(alpha=0.7)]
        [('soft_target', 0.7)]
    """
    return [DistillationTerm("soft_target", SoftTargetLoss(temperature), student, teacher, _share(alpha))]


def mean_teachers_terms(
    teachers: Sequence[str],
    weights: Sequence[float] | None = None,
    alpha: float = 0.5,
    temperature: float = 4.0,
    student: str = OUTPUT,
) -> list[DistillationTerm]:
    """Several teachers' answers: ``mean_soft_target``, the mean of their softened class probabilities.

    The gradient is that of one ``soft_target`` term for each teacher with a part of the weight.

    Args:
        teachers: taps of the logits, "<teacher>:<tap>".
        weights: of the teachers; equal ones if ``None``.
        alpha: share of this term beside the task loss.
        temperature: of the soft targets.
        student: tap of the logits.

    Raises:
        ValueError: no teacher, not one weight a teacher, or an argument out of its range.

    Example:
        >>> [term.name for term in mean_teachers_terms(["resnet:output", "densenet:output"])]
        ['mean_soft_target']
    """
    _check_taps(teachers)
    if weights is not None and len(weights) != len(teachers):
        raise ValueError(f"each teacher needs a weight, got {list(weights)} for {list(teachers)}.")
    loss = EnsembleSoftTargetLoss(temperature, weights)
    return [DistillationTerm("mean_soft_target", loss, student, list(teachers), _share(alpha))]


def feature_terms(student: str, teachers: Sequence[str], weight: float = 1.0) -> list[DistillationTerm]:
    """Feature-based: ``feature_<teacher's tap>``, directions of a teacher's features, position by position.

    Each term learns a 1x1 convolution from the student's channels to its teacher's, for training alone: give the
    ``Distiller`` ``input_shape``, and its parameters to the optimiser. Several teachers share the weight equally.

    Args:
        student: tap of the features.
        teachers: taps of the features, one or several, "<teacher>:<tap>".
        weight: of all teachers together.

    Raises:
        ValueError: no teacher, or a negative weight.

    Example:
        >>> [(term.name, term.weight) for term in feature_terms("features", ["resnet:layer4", "densenet:features"])]
        [('feature_resnet_layer4', 0.5), ('feature_densenet_features', 0.5)]
    """
    _check_taps(teachers)
    return [
        DistillationTerm(
            "feature_" + "_".join(re.findall(r"\w+", tap)),
            NormalizedHintLoss(),
            student,
            tap,
            weight / len(teachers),
            adapter=ProjectionAdapter,
        )
        for tap in teachers
    ]


def attention_fusion_terms(
    fusion: MultiTeacherAttentionFusion,
    student: str,
    teachers: Sequence[str],
    feature_weight: float = 1.0,
    response_weight: float = 0.0,
    fusion_weight: float = 1.0,
    temperature: float = 4.0,
    task_loss: nn.Module | None = None,
    student_logits: str = OUTPUT,
) -> list[DistillationTerm]:
    """Relation-based: teachers' features fused by attention; a term whose weight is 0 is left out.

    * ``fusion_task``: class logits of the fused map against the label. It trains the fusion and nothing else.
    * ``fusion_hint``: the student's features point where the fused ones do.
    * ``fusion_soft_target``: the softened class probabilities of the fused map.

    The last two train the student and nothing else. Give the distiller's parameters to the optimiser. With
    ``fusion_weight=0`` the fusion is taken as it is and frozen: one that was trained before, so that the targets stay.

    Args:
        fusion: made for the channels of ``teachers``, in their order, and for the map of ``student``.
        student: tap of the features.
        teachers: taps of the features, "<teacher>:<tap>".
        feature_weight: of ``fusion_hint``.
        response_weight: of ``fusion_soft_target``.
        fusion_weight: of ``fusion_task``.
        temperature: of the soft targets.
        task_loss: of the fusion; cross-entropy if ``None``.
        student_logits: tap of the logits.

    Raises:
        ValueError: all weights are 0, ``fusion_weight=0`` with a fusion that was never trained, another number of
            teachers than the fusion's, or an argument out of its range.

    Example:
        >>> fusion = MultiTeacherAttentionFusion((2048, 1024), num_classes=8)
        >>> terms = attention_fusion_terms(fusion, "features", ["resnet:layer4", "densenet:class_layers.relu"])
        >>> [term.name for term in terms]
        ['fusion_task', 'fusion_hint']
    """
    _check_taps(teachers)
    teachers = list(teachers)
    if len(teachers) != len(fusion.channels):
        raise ValueError(
            f"the fusion is made for {len(fusion.channels)} teachers with {fusion.channels} channels, got the taps "
            f"{teachers}."
        )
    if not (fusion_weight or feature_weight or response_weight):
        raise ValueError("nothing is left of the fusion: give at least one weight above 0.")
    terms = []
    if fusion_weight:
        loss = FusionTaskLoss(fusion, task_loss)
        terms.append(DistillationTerm("fusion_task", loss, student, teachers, fusion_weight, {"label": "label"}))
    elif not fusion.score.weight.any():  # it begins at 0
        raise ValueError(
            "fusion_weight=0 takes the fusion as it is, and this one was never trained; load the weights of one that "
            "was, or give fusion_weight above 0."
        )
    else:
        fusion.requires_grad_(False)
    if feature_weight:
        terms.append(DistillationTerm("fusion_hint", FusionHintLoss(fusion), student, teachers, feature_weight))
    if response_weight:
        soft = FusionSoftTargetLoss(fusion, temperature)
        taps = [student, student_logits]
        terms.append(DistillationTerm("fusion_soft_target", soft, taps, teachers, response_weight))
    return terms


def _check_taps(teachers: Sequence[str]) -> None:
    if isinstance(teachers, str) or not teachers:
        raise ValueError(f"teachers is a list of taps, one of them at least, got {teachers!r}.")


def _share(alpha: float) -> float:
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is a share, above 0 and at most 1, got {alpha}.")
    return alpha
