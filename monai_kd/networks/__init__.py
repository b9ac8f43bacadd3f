"""Teachers and students of the methods, where MONAI has none."""

from monai_kd.networks.polyp_pvt import PolypPVT
from monai_kd.networks.pvt_v2 import PVT_V2_PRESETS, PVTv2, load_backbone, pvt_v2

__all__ = ["PVT_V2_PRESETS", "PVTv2", "PolypPVT", "load_backbone", "pvt_v2"]
