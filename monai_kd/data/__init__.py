"""Data lists, checks, generated data and loading."""

from monai_kd.data.checks import Case, CheckReport, DataError, check_datalist, require_splits
from monai_kd.data.folder import image_datalist
from monai_kd.data.multiscale import MultiScaleDataLoader, scaled_size
from monai_kd.data.phantoms import make_polyp_frames, polyp_frame
from monai_kd.data.polyp import polyp_datalist
from monai_kd.data.unlabelled import FillMissingLabeld

__all__ = [
    "Case",
    "CheckReport",
    "DataError",
    "FillMissingLabeld",
    "MultiScaleDataLoader",
    "check_datalist",
    "image_datalist",
    "make_polyp_frames",
    "polyp_datalist",
    "polyp_frame",
    "require_splits",
    "scaled_size",
]
