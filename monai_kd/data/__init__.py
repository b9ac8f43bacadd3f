"""Data lists, checks, generated data and loading."""

from monai_kd.data.aptos import APTOS_CLASSES, aptos_datalist
from monai_kd.data.checks import Case, CheckReport, DataError, check_datalist, require_splits
from monai_kd.data.class_checks import check_classes
from monai_kd.data.class_weights import class_weights
from monai_kd.data.ct_intensities import simulate_ct
from monai_kd.data.ct_phantoms import abdomen_labels, make_ct_cases
from monai_kd.data.decathlon import decathlon_datalist
from monai_kd.data.folder import image_datalist
from monai_kd.data.ham10000 import HAM10000_CLASSES, ham10000_datalist
from monai_kd.data.kits import kits_datalist
from monai_kd.data.lesions import lesion_image, make_lesion_images
from monai_kd.data.lits import lits_datalist
from monai_kd.data.multiscale import MultiScaleDataLoader, scaled_size
from monai_kd.data.phantoms import make_polyp_frames, polyp_frame
from monai_kd.data.polyp import polyp_datalist
from monai_kd.data.regions import ToRegionsd, to_regions
from monai_kd.data.spacing import SafeSpacingd
from monai_kd.data.unlabelled import FillMissingLabeld
from monai_kd.data.volume_cache import VolumeCacheDataset
from monai_kd.data.volume_checks import check_volumes
from monai_kd.data.volume_folder import volume_datalist

__all__ = [
    "APTOS_CLASSES",
    "HAM10000_CLASSES",
    "Case",
    "CheckReport",
    "DataError",
    "FillMissingLabeld",
    "MultiScaleDataLoader",
    "SafeSpacingd",
    "ToRegionsd",
    "VolumeCacheDataset",
    "abdomen_labels",
    "aptos_datalist",
    "check_classes",
    "check_datalist",
    "check_volumes",
    "class_weights",
    "decathlon_datalist",
    "ham10000_datalist",
    "image_datalist",
    "kits_datalist",
    "lesion_image",
    "lits_datalist",
    "make_ct_cases",
    "make_lesion_images",
    "make_polyp_frames",
    "polyp_datalist",
    "polyp_frame",
    "require_splits",
    "scaled_size",
    "simulate_ct",
    "to_regions",
    "volume_datalist",
]
