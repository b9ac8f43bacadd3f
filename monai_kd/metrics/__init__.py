"""Metrics that MONAI and ignite lack, as ignite metrics."""

from monai_kd.metrics.classification import CLASS_SCORES, ClassificationMetrics, classification_scores
from monai_kd.metrics.polyp import POLYP_SCORES, PolypMetrics, polyp_scores
from monai_kd.metrics.regions import ORGAN_AND_TUMOUR, REGION_SCORES, SLICE_SCORES, RegionMetrics, region_scores

__all__ = [
    "CLASS_SCORES",
    "ORGAN_AND_TUMOUR",
    "POLYP_SCORES",
    "REGION_SCORES",
    "SLICE_SCORES",
    "ClassificationMetrics",
    "PolypMetrics",
    "RegionMetrics",
    "classification_scores",
    "polyp_scores",
    "region_scores",
]
