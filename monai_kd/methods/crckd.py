"""CRCKD: a mean teacher, class-guided contrast and relations to classes, for image classification.

Xing et al., Categorical Relation-Preserving Contrastive Knowledge Distillation for Medical Image Classification, 2021,
https://arxiv.org/abs/2107.03225. Teacher (``monai_kd.teachers.EMATeacher``) and student are one architecture. The
features are its pooled ones, the input of its classifier; the paper puts one more linear layer before the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from monai_kd.distiller import DistillationTerm
from monai_kd.losses import CategoricalRelationLoss, ClassContrastiveLoss, ContrastMemory, SoftTargetLoss
from monai_kd.schedules import sigmoid_ramp_up, silent_before, starts_at

__all__ = ["crckd_terms"]


def crckd_terms(
    labels: Sequence[int] | Tensor,
    features: str,
    channels: int,
    consistency_weight: float = 1.0,
    contrast_weight: float = 0.1,
    relation_weight: float = 1.0,
    first_epoch: int = 21,
    ramp_length: int = 30,
    temperature: float = 0.07,
    positives: int = 20,
    negatives: int = 4096,
    dimension: int = 128,
    momentum: float = 0.5,
    seed: int = 0,
) -> list[DistillationTerm]:
    """The terms of CRCKD; one whose weight is 0 is left out, as the paper's ablation has it.

    * ``consistency``: the teacher's class probabilities for another view of the image, temperature 1. Its weight
      follows a ramp that begins with the training, and is 0 before ``first_epoch``.
    * ``class_contrast`` (CCD): embeddings of a class are drawn together. Reads "label" and "index" of the batch.
    * ``categorical_relation`` (CRP): relations to the class centroids, from ``first_epoch`` on.

    The released code multiplies the contrast's weight by itself from its 21st epoch on; here it stays.

    Args:
        labels: class of every training image (N,), in the order of the batch's "index".
        features: tap of the pooled features, of both networks.
        channels: of those features.
        consistency_weight: of the class probabilities, at the end of the ramp.
        contrast_weight: of CCD.
        relation_weight: of CRP.
        first_epoch: first epoch (1, 2, ...) of consistency and CRP.
        ramp_length: epochs until the consistency has its full weight.
        temperature: of the cosines of CCD and CRP.
        positives: of an anchor in CCD.
        negatives: of an anchor in CCD.
        dimension: length of an embedding.
        momentum: of the memory banks.
        seed: of the memory banks before the first update.

    Raises:
        ValueError: all weights are 0, or an argument is out of its range.

    Example:
        >>> [term.name for term in crckd_terms([0, 1, 1], "class_layers.flatten", channels=1024)]
        ['consistency', 'class_contrast', 'categorical_relation']
    """
    terms = []
    if consistency_weight:
        ramp = sigmoid_ramp_up(ramp_length, consistency_weight)
        terms.append(
            DistillationTerm("consistency", SoftTargetLoss(temperature=1.0), weight=silent_before(first_epoch, ramp))
        )
    memory = ContrastMemory(labels, channels, dimension=dimension, momentum=momentum, seed=seed)
    if contrast_weight:
        contrast = ClassContrastiveLoss(memory, positives, negatives, temperature)
        batch = {"label": "label", "index": "index"}
        terms.append(DistillationTerm("class_contrast", contrast, features, features, contrast_weight, batch))
    else:
        memory.teacher_head.requires_grad_(False)  # it learns from the contrast alone
    if relation_weight:
        relation = CategoricalRelationLoss(memory, temperature, writes=not contrast_weight)
        batch = {} if contrast_weight else {"index": "index"}
        weight = starts_at(first_epoch, relation_weight)
        terms.append(DistillationTerm("categorical_relation", relation, features, features, weight, batch))
    if not terms:
        raise ValueError("nothing is left of CRCKD: give at least one weight above 0.")
    return terms
