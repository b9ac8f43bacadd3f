"""Distilling any MONAI bundle: a new bundle of a compact student from an unmodified one of its teacher."""

from monai_kd.zoo.bottleneck import bottleneck_taps
from monai_kd.zoo.default_terms import default_terms
from monai_kd.zoo.distil import DistilledBundle, distil_bundle
from monai_kd.zoo.scaling import scale_network

__all__ = ["DistilledBundle", "bottleneck_taps", "default_terms", "distil_bundle", "scale_network"]
