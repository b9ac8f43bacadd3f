"""A deployed student: volumes to label maps, pictures to masks or classes, without torch and MONAI."""

from monai_kd.runtime.description import ExportDescription, ExportError, read_export
from monai_kd.runtime.exported import ExportedModel, load_exported
from monai_kd.runtime.pictures import PictureStudent
from monai_kd.runtime.prediction import Prediction, open_student, predict
from monai_kd.runtime.volumes import VolumeStudent

__all__ = [
    "ExportDescription",
    "ExportError",
    "ExportedModel",
    "PictureStudent",
    "Prediction",
    "VolumeStudent",
    "load_exported",
    "open_student",
    "predict",
    "read_export",
]
