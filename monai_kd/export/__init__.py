"""Students that leave the bundle: TorchScript, ONNX and OpenVINO, verified. Needs the extra ``export``."""

from monai_kd.export.accuracy import Accuracy, AccuracyError
from monai_kd.export.cases import NoCases
from monai_kd.export.exporting import FORMATS, PRECISIONS, Exported, export_bundle
from monai_kd.export.known import PipelineRefused
from monai_kd.export.pipeline import translate_pipeline
from monai_kd.export.teacher import export_teacher, serve_teacher
from monai_kd.export.verify import LIMITS, Verification, VerificationError

__all__ = [
    "FORMATS",
    "LIMITS",
    "PRECISIONS",
    "Accuracy",
    "AccuracyError",
    "Exported",
    "NoCases",
    "PipelineRefused",
    "Verification",
    "VerificationError",
    "export_bundle",
    "export_teacher",
    "serve_teacher",
    "translate_pipeline",
]
