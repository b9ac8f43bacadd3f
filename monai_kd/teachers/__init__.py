"""Where a distillation term's targets come from."""

from monai_kd.teachers.cached import CachedTeacher
from monai_kd.teachers.ema import EMATeacher
from monai_kd.teachers.frozen import FrozenTeacher
from monai_kd.teachers.names import check_teacher_names
from monai_kd.teachers.protocol import OUTPUT, Teacher
from monai_kd.teachers.runtime import RuntimeTeacher

__all__ = [
    "OUTPUT",
    "CachedTeacher",
    "EMATeacher",
    "FrozenTeacher",
    "RuntimeTeacher",
    "Teacher",
    "check_teacher_names",
]
