"""Knowledge distillation for medical imaging with MONAI."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from monai_kd.version import __version__

if TYPE_CHECKING:
    from monai_kd.distiller import DistillationTerm, Distiller
    from monai_kd.handlers import DistillationHandler, LabelledItemsHandler
    from monai_kd.taps import FeatureTaps, tap_table
    from monai_kd.teachers import CachedTeacher, EMATeacher, FrozenTeacher, RuntimeTeacher, Teacher

__all__ = [
    "CachedTeacher",
    "DistillationHandler",
    "DistillationTerm",
    "Distiller",
    "EMATeacher",
    "FeatureTaps",
    "FrozenTeacher",
    "LabelledItemsHandler",
    "RuntimeTeacher",
    "Teacher",
    "__version__",
    "tap_table",
]

# Imported when first asked for: MONAI takes seconds, and neither --help nor a deployed student needs it.
_HOMES = {
    "CachedTeacher": "monai_kd.teachers",
    "DistillationHandler": "monai_kd.handlers",
    "DistillationTerm": "monai_kd.distiller",
    "Distiller": "monai_kd.distiller",
    "EMATeacher": "monai_kd.teachers",
    "FeatureTaps": "monai_kd.taps",
    "FrozenTeacher": "monai_kd.teachers",
    "LabelledItemsHandler": "monai_kd.handlers",
    "RuntimeTeacher": "monai_kd.teachers",
    "Teacher": "monai_kd.teachers",
    "tap_table": "monai_kd.taps",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'monai_kd' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
