"""Teacher, student alone and distilled students of one bundle, trained and scored on one recipe."""

from monai_kd.compare.plan import ComparedNetwork, ComparisonPlan, plan_comparison
from monai_kd.compare.run import StageError, compare

__all__ = ["ComparedNetwork", "ComparisonPlan", "StageError", "compare", "plan_comparison"]
