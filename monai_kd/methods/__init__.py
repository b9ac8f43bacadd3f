"""The terms of a paper as a list that is ready for the ``Distiller``."""

from monai_kd.methods.crckd import crckd_terms
from monai_kd.methods.hdkd import hdkd_terms
from monai_kd.methods.hlfd import attention_terms, dkd_terms, hifd_terms, hlfd_terms, ifd_terms, skd_terms
from monai_kd.methods.multi_teacher import (
    attention_fusion_terms,
    feature_terms,
    mean_teachers_terms,
    response_terms,
)

__all__ = [
    "attention_fusion_terms",
    "attention_terms",
    "crckd_terms",
    "dkd_terms",
    "feature_terms",
    "hdkd_terms",
    "hifd_terms",
    "hlfd_terms",
    "ifd_terms",
    "mean_teachers_terms",
    "response_terms",
    "skd_terms",
]
