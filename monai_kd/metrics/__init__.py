"""Metrics that MONAI and ignite lack, as ignite metrics."""

from monai_kd.metrics.polyp import POLYP_SCORES, PolypMetrics, polyp_scores

__all__ = ["POLYP_SCORES", "PolypMetrics", "polyp_scores"]
