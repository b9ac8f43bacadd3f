"""Did distillation help, and what does the student cost?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Imported when first asked for: an evaluation stores its scores, and needs neither matplotlib nor scikit-image for it.
_HOMES = {
    "Cost": "monai_kd.report.cost",
    "Evaluation": "monai_kd.report.evaluation",
    "SideBySide": "monai_kd.report.cost",
    "Study": "monai_kd.report.study",
    "comparison_table": "monai_kd.report.table",
    "costs_side_by_side": "monai_kd.report.cost",
    "gap_closed": "monai_kd.report.table",
    "load_costs": "monai_kd.report.cost",
    "load_evaluations": "monai_kd.report.evaluation",
    "load_study": "monai_kd.report.study",
    "network_cost": "monai_kd.report.cost",
    "save_costs": "monai_kd.report.cost",
    "save_evaluation": "monai_kd.report.evaluation",
    "save_overlays": "monai_kd.report.overlays",
    "summarise": "monai_kd.report.summary",
    "write_report": "monai_kd.report.page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'monai_kd.report' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
