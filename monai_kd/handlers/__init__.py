"""Ignite handlers that make a MONAI engine distil."""

from monai_kd.handlers.distillation import DistillationHandler, NonFiniteTermError
from monai_kd.handlers.gradient_clipping import clip_gradient_values
from monai_kd.handlers.labelled_items import LabelledItemsHandler
from monai_kd.handlers.log_terms import log_terms

__all__ = ["DistillationHandler", "LabelledItemsHandler", "NonFiniteTermError", "clip_gradient_values", "log_terms"]
