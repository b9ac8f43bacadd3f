"""Data lists, checks, generated data and loading."""

from monai_kd.data.aptos import APTOS_CLASSES, aptos_datalist
from monai_kd.data.brain_mri import BRAIN_MRI_CLASSES, brain_mri_datalist
from monai_kd.data.brain_slices import brain_slice, make_brain_mri_images
from monai_kd.data.checks import Case, CheckReport, DataError, check_datalist, require_splits
from monai_kd.data.class_checks import check_classes
from monai_kd.data.class_weights import class_weights
from monai_kd.data.cross_validation import cross_validation_fold
from monai_kd.data.ct_intensities import simulate_ct
from monai_kd.data.ct_phantoms import abdomen_labels, make_ct_cases
from monai_kd.data.decathlon import decathlon_datalist
from monai_kd.data.endoscopy import endoscopy_frame, make_endoscopy_images
from monai_kd.data.folder import image_datalist
from monai_kd.data.ham10000 import HAM10000_CLASSES, ham10000_datalist
from monai_kd.data.hyper_kvasir import HYPER_KVASIR_CLASSES, hyper_kvasir_datalist
from monai_kd.data.inside_layout import InsideLayout, refuse_links
from monai_kd.data.kits import kits_datalist
from monai_kd.data.kvasir_v2 import KVASIR_V2_CLASSES, kvasir_v2_datalist
from monai_kd.data.lesions import lesion_image, make_lesion_images
from monai_kd.data.lits import lits_datalist
from monai_kd.data.multiscale import MultiScaleDataLoader, scaled_size
from monai_kd.data.near_duplicates import near_duplicate_groups
from monai_kd.data.overlay import MaskScopeOverlayd, scope_overlay_box
from monai_kd.data.phantoms import make_polyp_frames, polyp_frame
from monai_kd.data.polyp import polyp_datalist
from monai_kd.data.readable import ReadableDataset, UnreadableCases, UnreadableError
from monai_kd.data.regions import ToRegionsd, to_regions
from monai_kd.data.replayed import ReplayedDataset
from monai_kd.data.smote import smote_items
from monai_kd.data.spacing import SafeSpacingd
from monai_kd.data.unlabelled import FillMissingLabeld
from monai_kd.data.volume_cache import VolumeCacheDataset
from monai_kd.data.volume_checks import check_volumes
from monai_kd.data.volume_folder import volume_datalist

__all__ = [
    "APTOS_CLASSES",
    "BRAIN_MRI_CLASSES",
    "HAM10000_CLASSES",
    "HYPER_KVASIR_CLASSES",
    "KVASIR_V2_CLASSES",
    "Case",
    "CheckReport",
    "DataError",
    "FillMissingLabeld",
    "InsideLayout",
    "MaskScopeOverlayd",
    "MultiScaleDataLoader",
    "ReadableDataset",
    "ReplayedDataset",
    "SafeSpacingd",
    "ToRegionsd",
    "UnreadableCases",
    "UnreadableError",
    "VolumeCacheDataset",
    "abdomen_labels",
    "aptos_datalist",
    "brain_mri_datalist",
    "brain_slice",
    "check_classes",
    "check_datalist",
    "check_volumes",
    "class_weights",
    "cross_validation_fold",
    "decathlon_datalist",
    "endoscopy_frame",
    "ham10000_datalist",
    "hyper_kvasir_datalist",
    "image_datalist",
    "kits_datalist",
    "kvasir_v2_datalist",
    "lesion_image",
    "lits_datalist",
    "make_brain_mri_images",
    "make_ct_cases",
    "make_endoscopy_images",
    "make_lesion_images",
    "make_polyp_frames",
    "near_duplicate_groups",
    "polyp_datalist",
    "polyp_frame",
    "refuse_links",
    "require_splits",
    "scaled_size",
    "scope_overlay_box",
    "simulate_ct",
    "smote_items",
    "to_regions",
    "volume_datalist",
]
