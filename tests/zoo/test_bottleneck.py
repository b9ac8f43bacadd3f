"""The default tap is the deepest feature of a network, under one name in teacher and student."""

import pytest
import torch
from monai.networks.nets import (
    UNETR,
    BasicUNet,
    DenseNet,
    DynUNet,
    HighResNet,
    MedNeXt,
    SegResNet,
    SegResNetDS,
    SwinUNETR,
    UNet,
    ViT,
    resnet10,
)
from torch import nn

from monai_kd.taps import FeatureTaps
from monai_kd.zoo import bottleneck_taps

SHAPE = (2, 1, 64, 64)


def unet(width, dims=2):
    return UNet(dims, 1, 2, channels=(width, 2 * width, 4 * width), strides=(2, 2), num_res_units=1)


def features(levels, width):
    return [width * 2**level for level in range(levels)]


NETWORKS = {
    "UNet": (unet, "model.1.submodule.1.submodule"),
    "BasicUNet": (lambda w: BasicUNet(2, 1, 2, [*features(5, w), w]), "down_4"),
    "DynUNet": (lambda w: DynUNet(2, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=features(3, w)), "bottleneck"),
    "SegResNet": (lambda w: SegResNet(2, init_filters=8 * w), "down_layers.3"),
    "SegResNetDS": (lambda w: SegResNetDS(2, init_filters=w, dsdepth=2), "encoder.layers.3.downsample"),
    "SwinUNETR": (lambda w: SwinUNETR(1, 2, feature_size=12 * w, window_size=2, spatial_dims=2), "encoder10"),
    "UNETR": (lambda w: UNETR(1, 2, 64, 8, 32 * w, 64, 4, spatial_dims=2), "decoder5"),
    "MedNeXt": (lambda w: MedNeXt(2, init_filters=4 * w, kernel_size=3, blocks_down=[1] * 4), "bottleneck"),
    "HighResNet": (lambda w: HighResNet(2), "blocks.10"),
    "DenseNet": (lambda w: DenseNet(2, 1, 2, 8 * w, 4 * w, block_config=(2, 2)), "class_layers.relu"),
    "resnet10": (lambda w: resnet10(spatial_dims=2, n_input_channels=1, num_classes=2, widen_factor=w / 8), "layer4"),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_deepest_layer_of_both(network):
    make, expected = NETWORKS[network]
    student, teacher = make(1), make(2)
    assert bottleneck_taps(student, teacher, SHAPE) == (expected, expected)
    for one in (student, teacher):
        with FeatureTaps(one.train(), [expected]) as taps:
            one(torch.rand(SHAPE))
            assert taps.outputs()[expected].ndim == len(SHAPE)


def test_each_its_own_where_names_differ():
    taps = bottleneck_taps(BasicUNet(2, 1, 2, [4, 4, 8, 8, 16, 4]), unet(8), SHAPE)
    assert taps == ("down_4", "model.1.submodule.1.submodule")


def test_a_deeper_student_has_a_bottleneck_of_its_own():
    student = UNet(2, 1, 2, channels=(4, 8, 16, 32), strides=(2, 2, 2), num_res_units=1)
    ours, theirs = bottleneck_taps(student, unet(8), SHAPE)
    assert (ours, theirs) == ("model.1.submodule.1.submodule.1.submodule", "model.1.submodule.1.submodule")


def test_none_without_a_feature_map():
    network = ViT(1, 16, 8, hidden_size=24, mlp_dim=96, num_heads=2, classification=True, spatial_dims=2)
    assert bottleneck_taps(network, unet(4), (2, 1, 16, 16)) is None
    assert bottleneck_taps(nn.Sequential(nn.Flatten(), nn.Linear(256, 2)), unet(4), (2, 1, 16, 16)) is None


def test_networks_stay_as_they_are():
    student, teacher = unet(4).train(), unet(8).eval()
    before = [{key: value.clone() for key, value in one.state_dict().items()} for one in (student, teacher)]
    state = torch.random.get_rng_state()
    bottleneck_taps(student, teacher, SHAPE)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (student.training, teacher.training) == (True, False)
    for one, kept in zip((student, teacher), before):
        assert all(torch.equal(value, kept[key]) for key, value in one.state_dict().items())
        assert not any(layer._forward_hooks for layer in one.modules())
