"""Knowledge distillation for medical imaging with MONAI."""

from monai_kd.distiller import DistillationTerm, Distiller
from monai_kd.handlers import DistillationHandler, LabelledItemsHandler
from monai_kd.taps import FeatureTaps, tap_table
from monai_kd.teachers import EMATeacher, FrozenTeacher, Teacher
from monai_kd.version import __version__

__all__ = [
    "DistillationHandler",
    "DistillationTerm",
    "Distiller",
    "EMATeacher",
    "FeatureTaps",
    "FrozenTeacher",
    "LabelledItemsHandler",
    "Teacher",
    "__version__",
    "tap_table",
]
