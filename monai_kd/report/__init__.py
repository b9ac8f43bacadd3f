"""Did distillation help, and what does the student cost?"""

from monai_kd.report.cost import Cost, network_cost
from monai_kd.report.evaluation import Evaluation, load_evaluations, save_evaluation
from monai_kd.report.overlays import save_overlays
from monai_kd.report.table import comparison_table, gap_closed

__all__ = [
    "Cost",
    "Evaluation",
    "comparison_table",
    "gap_closed",
    "load_evaluations",
    "network_cost",
    "save_evaluation",
    "save_overlays",
]
