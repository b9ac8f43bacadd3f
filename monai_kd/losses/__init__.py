"""Distillation losses: tensors in, a scalar out, for classification, 2D and 3D."""

from monai_kd.losses.attention_supervision import AttentionSupervisionLoss
from monai_kd.losses.attention_transfer import AttentionTransferLoss
from monai_kd.losses.categorical_relation import CategoricalRelationLoss
from monai_kd.losses.channel_wise import ChannelWiseLoss
from monai_kd.losses.class_contrastive import ClassContrastiveLoss
from monai_kd.losses.contrast_memory import ContrastMemory
from monai_kd.losses.crd import CRDLoss
from monai_kd.losses.deep_supervision import DeepSupervisionDistillationLoss, StackedDeepSupervisionLoss
from monai_kd.losses.dist import DISTLoss
from monai_kd.losses.dkd import DKDLoss
from monai_kd.losses.ensemble_soft_target import EnsembleSoftTargetLoss
from monai_kd.losses.focal_dice import FocalDiceLoss
from monai_kd.losses.fused_teacher import FusionHintLoss, FusionSoftTargetLoss, FusionTaskLoss
from monai_kd.losses.hard_target import HardTargetLoss
from monai_kd.losses.hint import HintLoss
from monai_kd.losses.importance_map import ImportanceMapLoss
from monai_kd.losses.normalized_hint import NormalizedHintLoss
from monai_kd.losses.prediction_map import PredictionMapLoss
from monai_kd.losses.rkd import RKDLoss
from monai_kd.losses.similarity_preserving import SimilarityPreservingLoss
from monai_kd.losses.soft_target import SoftTargetLoss
from monai_kd.losses.structure import StructureLoss
from monai_kd.losses.symmetrical_guiding import SymmetricalGuidingLoss
from monai_kd.losses.teacher_dice import TeacherDiceLoss
from monai_kd.losses.teacher_fusion import MultiTeacherAttentionFusion
from monai_kd.losses.weighted_cross_entropy import WeightedCrossEntropyLoss

__all__ = [
    "AttentionSupervisionLoss",
    "AttentionTransferLoss",
    "CRDLoss",
    "CategoricalRelationLoss",
    "ChannelWiseLoss",
    "ClassContrastiveLoss",
    "ContrastMemory",
    "DISTLoss",
    "DKDLoss",
    "DeepSupervisionDistillationLoss",
    "EnsembleSoftTargetLoss",
    "FocalDiceLoss",
    "FusionHintLoss",
    "FusionSoftTargetLoss",
    "FusionTaskLoss",
    "HardTargetLoss",
    "HintLoss",
    "ImportanceMapLoss",
    "MultiTeacherAttentionFusion",
    "NormalizedHintLoss",
    "PredictionMapLoss",
    "RKDLoss",
    "SimilarityPreservingLoss",
    "SoftTargetLoss",
    "StackedDeepSupervisionLoss",
    "StructureLoss",
    "SymmetricalGuidingLoss",
    "TeacherDiceLoss",
    "WeightedCrossEntropyLoss",
]
