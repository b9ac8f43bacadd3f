"""What a bundle does around its network, translated: the values of MONAI's transforms, or a refusal."""

import operator
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle.config_parser import ConfigParser
from monai.inferers import SimpleInferer, SliceInferer, SlidingWindowInferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    CastToTyped,
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    Invertd,
    KeepLargestConnectedComponentd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    Resized,
    ScaleIntensityd,
    ScaleIntensityRanged,
    Spacingd,
    Transposed,
)

import monai_kd
from monai_kd.data import MaskScopeOverlayd, SafeSpacingd
from monai_kd.export.pipeline import PipelineRefused, output_activation, translate_pipeline

BUNDLES = Path(monai_kd.__file__).parents[1] / "bundles"
WINDOWS = SlidingWindowInferer((96, 96, 96), sw_batch_size=4, overlap=0.5)
LOAD = [LoadImaged("image"), EnsureChannelFirstd("image")]
RANGE = ScaleIntensityRanged("image", -57, 164, 0.0, 1.0, clip=True)
RGB = LoadImaged("image", reader="PILReader", converter=operator.methodcaller("convert", "RGB"))
BACK = Invertd("pred", Compose([]), orig_keys="image", nearest_interp=False)
PICTURE = [RGB, EnsureChannelFirstd("image"), Transposed("image", (0, 2, 1)), Resized("image", (32, 48))]


def volume(*transforms, inferer=WINDOWS, behind=None, channels=1):
    return translate_pipeline(Compose([*LOAD, *transforms]), inferer, behind, channels)


def picture(*transforms, inferer=None, behind=None, channels=3):
    return translate_pipeline(Compose([*PICTURE, *transforms]), inferer or SimpleInferer(), behind, channels)


@pytest.mark.parametrize("name", sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
def test_every_bundle_is_translated(name):
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / name / "configs" / "inference.json"))
    parts = [parser.get_parsed_content(key) for key in ("preprocessing", "inferer", "postprocessing")]
    found = translate_pipeline(*parts, 1 if "tumor" in name else 3)
    if "tumor" in name:
        assert found["spacing"] == parser["spacing"]
        assert found["orientation"] == "RAS"
        assert (found["roi_size"], found["pad_value"], found["mode"]) == ([128] * 3, -1.0, "gaussian")
        assert found["exact_borders"] is True
        parser["exact_borders"] = False
        parts = [parser.get_parsed_content(key) for key in ("preprocessing", "inferer", "postprocessing")]
        assert translate_pipeline(*parts, 1) == {**found, "exact_borders": False}
    else:
        assert found["size"] == [parser["image_size"]] * 2
        assert found["mean"] == [123.675, 116.28, 103.53]
        assert found["std"] == [58.395, 57.12, 57.375]
        assert found["cast"] == (None if "polyp" in name else "uint8")
    assert output_activation(parts[2]) == ("sigmoid" if "polyp" in name else "softmax")


def test_a_volume_of_the_model_zoo():
    behind = Compose(
        [Activationsd("pred", softmax=True), Invertd("pred", Compose([]), orig_keys="image", nearest_interp=False)]
    )
    found = volume(
        Orientationd("image", "LPS"), Spacingd("image", (1.5, 1.5, 2.0)), RANGE, EnsureTyped("image"), behind=behind
    )
    assert {key: value for key, value in found.items() if key != "intensity"} == {
        "kind": "volume",
        "orientation": "LPS",
        "spacing": [1.5, 1.5, 2.0],
        "pad_value": 0.0,
        "roi_size": [96, 96, 96],
        "overlap": 0.5,
        "mode": "constant",
        "sw_batch_size": 4,
        "exact_borders": True,
        "activated": True,  # probabilities are interpolated
    }


@pytest.mark.parametrize("order", [1, -1])
def test_labels_that_are_brought_back_are_not_exact(order):
    back = Invertd("pred", Compose([]), orig_keys="image", nearest_interp=True)
    behind = [back, AsDiscreted("pred", argmax=True)][::order]
    assert volume(behind=Compose(behind))["exact_borders"] is False


def test_a_spacing_of_the_image_itself_is_no_resampling():
    assert volume(SafeSpacingd("image", (-1.0, -1.0, -1.0)))["spacing"] is None


@pytest.mark.parametrize(
    "transform",
    [
        RANGE,
        ScaleIntensityRanged("image", 0, 500, -1, 3),
        ScaleIntensityRanged("image", 0, 500),
        NormalizeIntensityd("image", subtrahend=40.0, divisor=17.0),
        NormalizeIntensityd("image"),
        NormalizeIntensityd("image", channel_wise=True),
        NormalizeIntensityd("image", nonzero=True),
        NormalizeIntensityd("image", nonzero=True, channel_wise=True),
    ],
)
def test_intensities_are_those_of_monai(transform):
    apply_intensity = pytest.importorskip("monai_kd.runtime.intensity").apply_intensity
    image = np.random.default_rng(0).integers(-300, 600, (2, 5, 6, 7)).astype(np.float32)
    image[:, 0] = 0
    expected = transform({"image": torch.from_numpy(image.copy())})["image"].numpy()
    found = apply_intensity(image.copy(), volume(transform, channels=2)["intensity"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "transforms",
    [
        [NormalizeIntensityd("image", np.array([120.0, 110, 100]), np.array([60.0, 50, 55]), channel_wise=True)],
        [ScaleIntensityRanged("image", 0, 255, 0, 1, clip=True)],
        [
            ScaleIntensityRanged("image", 0, 255, 0, 1),
            NormalizeIntensityd("image", [0.5, 0.4, 0.3], [0.2, 0.25, 0.3], channel_wise=True),
        ],
        [],
    ],
)
def test_values_of_pictures_are_those_of_monai(transforms):
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 6)).astype(np.float32)
    expected = Compose(transforms)({"image": torch.from_numpy(image.copy())})["image"].numpy()
    found = picture(*transforms)
    mean, std = (np.array(found[key])[:, None, None] for key in ("mean", "std"))
    np.testing.assert_allclose((image - mean) / std, expected, rtol=1e-4, atol=1e-5)
    assert (found["channels"], found["size"], found["resize"]) == ("RGB", [32, 48], "area")


def test_thresholds_are_kept():
    behind = Compose([Activationsd("pred", sigmoid=True), AsDiscreted("pred", threshold=0.3)])
    assert picture(behind=behind)["threshold"] == 0.3
    assert "threshold" not in picture(behind=Activationsd("pred", softmax=True))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: volume(ScaleIntensityd("image")), "ScaleIntensityd"),
        (lambda: volume(lambda item: item), "function"),
        (lambda: volume(RANGE, Spacingd("image", (1, 1, 1))), "Spacingd after ScaleIntensityRanged"),
        (lambda: volume(Spacingd("image", (1, 1, 2)), Orientationd("image", "RAS")), "Orientationd after Spacingd"),
        (lambda: volume(Spacingd("image", (1, 1, 2), mode="nearest")), "Spacingd with mode nearest"),
        (lambda: volume(Spacingd("image", (1, 1, 2), align_corners=True)), "Spacingd with align_corners True"),
        (lambda: volume(Spacingd("image", (1, 1, 2), diagonal=True)), "Spacingd with diagonal True"),
        (lambda: volume(Spacingd("image", (1, 1, -1))), "Spacingd with pixdim"),
        (lambda: volume(NormalizeIntensityd("image", subtrahend=1.0)), "NormalizeIntensityd"),
        (lambda: volume(CastToTyped("image", np.uint8)), "CastToTyped to uint8"),
        (lambda: volume(inferer=SimpleInferer()), "SimpleInferer of a volume"),
        (lambda: volume(inferer=SliceInferer(roi_size=(96, 96), spatial_dim=2)), "SliceInferer"),
        (lambda: volume(inferer=SlidingWindowInferer((96, 96, -1))), "roi_size"),
        (lambda: volume(inferer=SlidingWindowInferer((96, 96, 96), sigma_scale=0.3)), "sigma_scale 0.3"),
        (lambda: volume(inferer=SlidingWindowInferer((96, 96, 96), padding_mode="reflect")), "padding_mode reflect"),
        (lambda: volume(behind=KeepLargestConnectedComponentd("pred")), "KeepLargestConnectedComponentd"),
        (lambda: volume(behind=AsDiscreted("pred", argmax=True, to_onehot=2)), "AsDiscreted with to_onehot 2"),
        (lambda: volume(behind=Activationsd("pred", other=torch.tanh)), "Activationsd with a function"),
        (lambda: volume(behind=Compose([AsDiscreted("pred", argmax=True), BACK])), "Invertd behind AsDiscreted"),
        (lambda: picture(behind=Invertd("pred", Compose([]), orig_keys="image")), "known of volumes alone"),
        (lambda: picture(MaskScopeOverlayd("image")), "MaskScopeOverlayd"),
        (lambda: picture(inferer=WINDOWS), "SlidingWindowInferer of a picture"),
        (lambda: picture(NormalizeIntensityd("image", nonzero=True)), "NormalizeIntensityd by a picture's own"),
        (lambda: picture(ScaleIntensityRanged("image", 50, 200, 0, 1, clip=True)), "clips the values of a picture"),
        (lambda: picture(channels=1), "pictures of mode RGB to a network of 1 channels"),
        (lambda: picture(Resized("image", (8, 8))), "Resized to"),
        (lambda: translate_pipeline(Compose([RGB, Resized("image", (8, 8))]), SimpleInferer(), None, 3), "Transposed"),
        (lambda: volume(RGB), "not resized to one size"),
    ],
)
def test_what_is_not_known_is_refused_by_name(make, named):
    with pytest.raises(PipelineRefused, match=named):
        make()


def test_a_class_of_that_name_from_elsewhere_is_not_known():
    class Orientationd:  # as MONAI's
        pass

    with pytest.raises(PipelineRefused, match="Orientationd is not known"):
        volume(Orientationd())
