"""HDKD: a hybrid student whose convolutional stages have the teacher's shapes, so that features need no adapter.

HDKD: Hybrid Data-Efficient Knowledge Distillation Network for Medical Image Classification, 2024,
https://arxiv.org/abs/2407.07516. Networks: ``monai_kd.networks.HDKDTeacher`` and ``HDKDStudent``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from monai_kd.distiller import DistillationTerm
from monai_kd.losses import HardTargetLoss, HintLoss, SoftTargetLoss

__all__ = ["hdkd_terms"]

_STAGES = ("stage1", "stage2", "stage3")


def hdkd_terms(
    num_classes: int,
    student_stages: Sequence[str] = _STAGES,
    teacher_stages: Sequence[str] | None = None,
    alpha: float = 0.5,
    feature_weight: float = 10.0,
    gamma: float = 1.0,
    targets: str = "soft",
    temperature: float = 1.0,
    normalization: str = "mean",
    student_logits: str = "head_distill",
) -> list[DistillationTerm]:
    """The terms of HDKD; one whose weight is 0 is left out.

    * ``soft_target`` (or ``hard_target``): the distillation head learns the teacher's class probabilities (or its
      decision), with the weight ``alpha``. The task loss has the other share:
      ``DistillationHandler(distiller, task_weight=1 - alpha)``.
    * ``feature_<stage>``: mean squared error of each pair of stages, weight ``feature_weight * i ** gamma`` for the
      i-th pair (1, 2, ...) of those given, whatever its depth.

    The soft targets are DeiT's, averaged over the items *and the classes*: that is ``SoftTargetLoss``, whose weight is
    ``alpha / num_classes``; with ``normalization="batchmean"`` over the items alone, the usual way, and the weight is
    ``alpha``. Every pair of stages comes of one forward pass; the released code runs the stages before it
    once more for each, to the same gradients.

    Args:
        num_classes: of the networks.
        student_stages: taps of the student.
        teacher_stages: taps of the teacher, one for each of the student's and of its shape; the same names if ``None``.
        alpha: share of the distillation head's loss beside the task loss.
        feature_weight: of all stages (the paper's lambda).
        gamma: how much more later stages count; 0 for equal weights.
        targets: "soft", "hard", or "none" for features alone.
        temperature: of the soft targets.
        normalization: of the soft targets, "mean" over items and classes or "batchmean" over items.
        student_logits: tap of the distillation head.

    Raises:
        ValueError: a text in place of a list of stages, unequal numbers of them, all weights 0, or an argument out of
            its range.

    Example:
        >>> [(term.name, term.weight) for term in hdkd_terms(num_classes=5)]
        [('soft_target', 0.1), ('feature_stage1', 10.0), ('feature_stage2', 20.0), ('feature_stage3', 30.0)]
    """
    teacher_stages = student_stages if teacher_stages is None else teacher_stages
    if isinstance(student_stages, str) or isinstance(teacher_stages, str):
        raise ValueError(f"stages are a list of taps, got {student_stages!r} and {teacher_stages!r}.")
    if len(student_stages) != len(teacher_stages):
        raise ValueError(
            f"each stage of the student needs one of the teacher, got {list(student_stages)} and "
            f"{list(teacher_stages)}."
        )
    if targets not in ("soft", "hard", "none"):
        raise ValueError(f"targets must be 'soft', 'hard' or 'none', got '{targets}'.")
    if normalization not in ("mean", "batchmean"):
        raise ValueError(f"normalization must be 'mean' or 'batchmean', got '{normalization}'.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is a share, in [0, 1], got {alpha}.")
    if num_classes < 1:
        raise ValueError(f"num_classes must be positive, got {num_classes}.")
    terms = []
    if alpha and targets != "none":
        soft = targets == "soft"
        loss: nn.Module = SoftTargetLoss(temperature) if soft else HardTargetLoss()
        weight = alpha / num_classes if soft and normalization == "mean" else alpha
        terms.append(DistillationTerm(f"{targets}_target", loss, student_logits, weight=weight))
    if feature_weight:
        for i, (student, teacher) in enumerate(zip(student_stages, teacher_stages), start=1):
            name = f"feature_{student.replace('.', '_')}"
            terms.append(DistillationTerm(name, HintLoss(), student, teacher, feature_weight * i**gamma))
    if not terms:
        raise ValueError("nothing is left of HDKD: give alpha or feature_weight above 0, the latter with stages.")
    return terms
