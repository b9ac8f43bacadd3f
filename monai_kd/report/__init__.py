"""Did distillation help, and what does the student cost?"""

from monai_kd.report.cost import Cost, SideBySide, costs_side_by_side, load_costs, network_cost, save_costs
from monai_kd.report.evaluation import Evaluation, load_evaluations, save_evaluation
from monai_kd.report.overlays import save_overlays
from monai_kd.report.page import write_report
from monai_kd.report.study import Study, load_study
from monai_kd.report.summary import summarise
from monai_kd.report.table import comparison_table, gap_closed

__all__ = [
    "Cost",
    "Evaluation",
    "SideBySide",
    "Study",
    "comparison_table",
    "costs_side_by_side",
    "gap_closed",
    "load_costs",
    "load_evaluations",
    "load_study",
    "network_cost",
    "save_costs",
    "save_evaluation",
    "save_overlays",
    "summarise",
    "write_report",
]
