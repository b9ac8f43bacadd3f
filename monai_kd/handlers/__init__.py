"""Ignite handlers that make a MONAI engine distil."""

from monai_kd.handlers.distillation import DistillationHandler, NonFiniteTermError
from monai_kd.handlers.ema_update import EMAUpdateHandler
from monai_kd.handlers.epoch_seed import EpochSeedHandler
from monai_kd.handlers.finite_loss import FiniteLossHandler, NonFiniteLossError
from monai_kd.handlers.gradient_clipping import clip_gradient_values
from monai_kd.handlers.history import SaveHistory
from monai_kd.handlers.labelled_items import LabelledItemsHandler
from monai_kd.handlers.log_terms import log_terms
from monai_kd.handlers.predictions import SavePredictions
from monai_kd.handlers.resume import ResumeCheckpoint
from monai_kd.handlers.saliency import SaliencyMaps
from monai_kd.handlers.save_cases import SaveCases
from monai_kd.handlers.skipped_cases import SaveSkippedCases

__all__ = [
    "DistillationHandler",
    "EMAUpdateHandler",
    "EpochSeedHandler",
    "FiniteLossHandler",
    "LabelledItemsHandler",
    "NonFiniteLossError",
    "NonFiniteTermError",
    "ResumeCheckpoint",
    "SaliencyMaps",
    "SaveCases",
    "SaveHistory",
    "SavePredictions",
    "SaveSkippedCases",
    "clip_gradient_values",
    "log_terms",
]
