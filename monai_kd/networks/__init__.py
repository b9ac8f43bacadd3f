"""Teachers and students of the methods, where MONAI has none; the taps of all."""

from monai_kd.networks.densenet_weights import load_densenet_weights
from monai_kd.networks.encoder_decoder_taps import EncoderDecoderTaps, encoder_decoder_taps
from monai_kd.networks.feature_transformer import FeatureTransformer
from monai_kd.networks.hdkd import HDKDStudent, HDKDTeacher
from monai_kd.networks.hdkd_weights import load_hdkd_weights
from monai_kd.networks.mbcsa import MBCSA
from monai_kd.networks.nested_unet import NestedUNet
from monai_kd.networks.polyp_pvt import PolypPVT
from monai_kd.networks.pvt_v2 import PVT_V2_PRESETS, PVTv2, load_backbone, pvt_v2
from monai_kd.networks.resnet_fcn import ResNetFCN
from monai_kd.networks.space_to_depth_dynunet import SpaceToDepthDynUNet
from monai_kd.networks.tiny_endo_net import TinyEndoNet
from monai_kd.networks.unet_2d import UNet2d

__all__ = [
    "MBCSA",
    "PVT_V2_PRESETS",
    "EncoderDecoderTaps",
    "FeatureTransformer",
    "HDKDStudent",
    "HDKDTeacher",
    "NestedUNet",
    "PVTv2",
    "PolypPVT",
    "ResNetFCN",
    "SpaceToDepthDynUNet",
    "TinyEndoNet",
    "UNet2d",
    "encoder_decoder_taps",
    "load_backbone",
    "load_densenet_weights",
    "load_hdkd_weights",
    "pvt_v2",
]
