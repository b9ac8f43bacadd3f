"""A scaled network is the same one with fewer weights, or is refused with the reason."""

import monai.networks.nets
import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from monai_kd.zoo import scale_network, scaling

UNET = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": (16, 32, 64), "strides": (2, 2)}
IMAGE = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
KERNELS = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}
RESNET = {"spatial_dims": 2, "n_input_channels": 1, "num_classes": 2}
GROUPS = ("group", {"num_groups": 4})
NETWORKS = {
    "UNet": ("UNet", {**UNET, "num_res_units": 2}),
    "UNet of groups": ("monai.networks.nets.UNet", {**UNET, "norm": GROUPS}),
    "full name": ("monai.networks.nets.unet.Unet", UNET),
    "AttentionUnet": ("AttentionUnet", UNET),
    "BasicUNet": ("BasicUNet", IMAGE),
    "BasicUNetPlusPlus": ("BasicUNetPlusPlus", IMAGE),
    "DynUNet": ("DynUNet", {**IMAGE, **KERNELS, "filters": [16, 32, 48], "deep_supervision": True}),
    "DynUNet by default": ("DynUNet", {**IMAGE, **KERNELS}),
    "SegResNet": ("SegResNet", {**IMAGE, "init_filters": 16}),
    "SegResNet of old": ("SegResNet", {**IMAGE, "init_filters": 16, "norm_name": "group", "num_groups": 4}),
    "SegResNetVAE": ("SegResNetVAE", {**IMAGE, "init_filters": 16, "input_image_size": [64, 64]}),
    "SegResNetDS": ("SegResNetDS", {**IMAGE, "dsdepth": 2, "norm": GROUPS}),
    "SegResNetDS2": ("SegResNetDS2", {**IMAGE, "dsdepth": 2}),
    "SwinUNETR": ("SwinUNETR", {**IMAGE, "feature_size": 36, "window_size": 2}),
    "SwinUNETR of many heads": (
        "SwinUNETR",
        {**IMAGE, "feature_size": 48, "num_heads": (8, 8, 16, 32), "window_size": 2},
    ),
    "UNETR": ("UNETR", {**IMAGE, "img_size": 64, "hidden_size": 96, "mlp_dim": 192, "num_heads": 6}),
    "UNETR of one head": ("UNETR", {**IMAGE, "img_size": 64, "hidden_size": 96, "mlp_dim": 192, "num_heads": 1}),
    "MedNeXt": ("MedNeXt", {**IMAGE, "kernel_size": 3, "blocks_down": (1,) * 4, "blocks_up": (1,) * 4}),
    "HighResNet": ("HighResNet", IMAGE),
    "DenseNet": ("DenseNet", {**IMAGE, "block_config": (2, 2)}),
    "DenseNet121": ("DenseNet121", IMAGE),
    "ResNet": ("ResNet", {**RESNET, "block": "basic", "layers": [1] * 4, "block_inplanes": [6, 12, 24, 48]}),
    "resnet10": ("resnet10", RESNET),
    "resnet50": ("resnet50", {**RESNET, "widen_factor": 0.5}),
    "Classifier": ("Classifier", {"in_shape": (1, 64, 64), "classes": 2, "channels": (8, 16), "strides": (2, 2)}),
}


def build(target, arguments):
    return ConfigParser({"network": {"_target_": target, **arguments}}).get_parsed_content("network")


def size(network):
    return sum(parameter.numel() for parameter in network.parameters())


def shapes(output):
    if isinstance(output, torch.Tensor):
        return tuple(output.shape)
    return [shapes(item) for item in output if item is not None] if isinstance(output, list | tuple) else None


@pytest.mark.parametrize("network", NETWORKS)
def test_student_is_the_same_network_with_fewer_weights(network):
    target, arguments = NETWORKS[network]
    scaled = scale_network(target, arguments, 0.25)
    teacher, student = build(target, arguments), build(target, scaled)
    assert type(student) is type(teacher)
    assert size(student) < 0.6 * size(teacher)
    assert [name for name, _ in student.named_modules()] == [name for name, _ in teacher.named_modules()]
    for training in (True, False):
        with torch.no_grad():
            images = torch.rand(2, 1, 64, 64)
            ours, theirs = (shapes(one.train(training)(images)) for one in (student, teacher))
        assert ours == theirs


@pytest.mark.parametrize("width", [0.1, 0.5, 0.9])
def test_more_width_never_means_fewer_weights(width):
    sizes = [size(build("UNet", scale_network("UNet", UNET, factor))) for factor in (width / 2, width)]
    assert sizes == sorted(sizes)


def test_arguments_that_are_no_channels_stay():
    arguments = {**UNET, "num_res_units": 2, "act": "relu", "dropout": 0.3}
    scaled = scale_network("UNet", arguments, 0.5)
    assert scaled == {**arguments, "channels": [8, 16, 32]}
    assert arguments["channels"] == (16, 32, 64)


def test_pretrained_weights_are_not_asked_for():
    assert scale_network("DenseNet121", {**IMAGE, "pretrained": True}, 0.25)["pretrained"] is False
    assert "pretrained" not in scale_network("DenseNet121", IMAGE, 0.25)


@pytest.mark.parametrize("target", ["VNet", "SEResNet50", "seresnet50", "HoVerNet", "AHNet"])
def test_fixed_channels_are_refused_with_the_reason(target):
    with pytest.raises(ValueError, match="fixed in its code") as error:
        scale_network(target, {}, 0.25)
    assert "student network of your own" in str(error.value)


@pytest.mark.parametrize(
    ("target", "said"), [("FlexibleUNet", "backbone"), ("EfficientNetBN", "model_name"), ("scripts.net.Mine", "known")]
)
def test_what_to_take_instead_is_said(target, said):
    with pytest.raises(ValueError, match=said):
        scale_network(target, {}, 0.25)


def test_a_network_at_its_narrowest_is_refused():
    with pytest.raises(ValueError, match="narrower than init_filters 8"):
        scale_network("SegResNet", {**IMAGE, "init_filters": 8}, 0.25)
    with pytest.raises(ValueError, match="narrower than feature_size 12"):
        scale_network("SwinUNETR", {**IMAGE, "feature_size": 12}, 0.25)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"channels"):
        scale_network("UNet", {"spatial_dims": 2}, 0.25)
    for width in (0, 1, -0.5, 2):
        with pytest.raises(ValueError, match="between 0 and 1"):
            scale_network("UNet", UNET, width)


def test_every_known_network_is_monais():
    for name in scaling._SCALED:
        found = getattr(monai.networks.nets, name)
        assert not isinstance(found, type) or issubclass(found, nn.Module)
