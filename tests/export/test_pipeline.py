"""What a bundle does around its network, translated: the values of MONAI's transforms, or a refusal."""

import operator
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle.config_parser import ConfigParser
from monai.data import ITKReader, NibabelReader, NumpyReader, PILReader, PILWriter
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
    SaveImaged,
    ScaleIntensityd,
    ScaleIntensityRanged,
    Spacingd,
    ToTensord,
    Transposed,
)

import monai_kd
from monai_kd.data import MaskScopeOverlayd, SafeSpacingd
from monai_kd.export.known import PipelineRefused
from monai_kd.export.pipeline import output_activation, pipeline_for, translate_pipeline

BUNDLES = Path(monai_kd.__file__).parents[1] / "bundles"
WINDOWS = SlidingWindowInferer((96, 96, 96), sw_batch_size=4, overlap=0.5)
LOAD = [LoadImaged("image"), EnsureChannelFirstd("image")]
RANGE = ScaleIntensityRanged("image", -57, 164, 0.0, 1.0, clip=True)
RGB = LoadImaged("image", reader="PILReader", converter=operator.methodcaller("convert", "RGB"))
PICTURE = [RGB, EnsureChannelFirstd("image"), Transposed("image", (0, 2, 1)), Resized("image", (32, 48))]
RAS, FINE = Orientationd("image", "RAS", labels=None), Spacingd("image", (1.5, 1.5, 2.0))
LABELS, CUT = AsDiscreted("pred", argmax=True), AsDiscreted("pred", threshold=0.5)
SOFTMAX, SIGMOID = Activationsd("pred", softmax=True), Activationsd("pred", sigmoid=True)


def volume(*transforms, inferer=WINDOWS, behind=None, channels=1, load=LOAD):
    return translate_pipeline(Compose([*load, *transforms]), inferer, behind, channels)


def read(*arguments, **more):
    """A volume that is read so."""
    return volume(load=[LoadImaged("image", *arguments, **more), EnsureChannelFirstd("image")])


def picture(*transforms, inferer=None, behind=None, channels=3):
    return translate_pipeline(Compose([*PICTURE, *transforms]), inferer or SimpleInferer(), behind, channels)


def back(*transforms, nearest=False, keys="pred", orig="image", **more):
    return Invertd(keys, Compose(list(transforms)), orig_keys=orig, nearest_interp=nearest, **more)


def moved(*behind):
    """A volume on a grid of its own, and what is behind the network."""
    return volume(RAS, FINE, behind=Compose(list(behind)))


def masked(*behind):
    """A resized picture, and what is behind the network."""
    return picture(behind=Compose([back(*PICTURE), *behind]))


def save(keys="pred", **more):
    return SaveImaged(keys, output_dir="masks", output_dtype=np.uint8, **more)


def png(**more):
    return save(output_ext=".png", **more)


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
    chain = [Orientationd("image", "LPS", labels=None), FINE, RANGE, EnsureTyped("image")]
    found = volume(*chain, behind=Compose([SOFTMAX, back(*chain), LABELS, save(output_postfix="seg")]))
    assert {key: value for key, value in found.items() if key != "intensity"} == {
        "kind": "volume",
        "orientation": "LPS",
        "spacing": [1.5, 1.5, 2.0],
        "pad_value": 0.0,
        "roi_size": [96, 96, 96],
        "overlap": 0.5,
        "mode": "constant",
        "exact_borders": True,
        "activated": True,  # probabilities are interpolated
    }


@pytest.mark.parametrize("order", [1, -1])
def test_labels_that_are_brought_back_are_not_exact(order):
    behind = [back(RAS, FINE, nearest=True), LABELS][::order]
    assert moved(*behind)["exact_borders"] is False
    assert moved(back(RAS, FINE), LABELS)["exact_borders"] is True


@pytest.mark.parametrize(
    ("behind", "activated"),
    [
        ([SOFTMAX, back(RAS, FINE), LABELS], True),
        ([back(RAS, FINE), SOFTMAX, LABELS], False),
        ([SOFTMAX, LABELS, back(RAS, FINE, nearest=True)], False),
        ([SIGMOID, back(RAS, FINE), CUT], True),
        ([Activationsd("pred"), back(RAS, FINE), CUT], False),
    ],
)
def test_probabilities_are_interpolated_where_the_bundle_does(behind, activated):
    assert moved(*behind).get("activated", False) is activated


def test_arguments_are_those_of_the_image_and_the_prediction():
    """Of transforms with several keys, those at the key's own place."""
    both = ["label", "image"]
    found = volume(
        Spacingd(both, (1.5, 1.5, 2.0), mode=("nearest", "bilinear"), allow_missing_keys=True),
        behind=Compose([back(Spacingd("image", (1, 1, 1))), AsDiscreted(["label", "pred"], argmax=[False, True])]),
        load=[LoadImaged(both, allow_missing_keys=True), EnsureChannelFirstd(both, allow_missing_keys=True)],
    )
    assert found["spacing"] == [1.5, 1.5, 2.0]
    behind = Activationsd(["label", "pred"], softmax=[True, False], sigmoid=[False, True])
    assert output_activation(Compose([Activationsd("label", softmax=True), behind])) == "sigmoid"


def test_what_a_mask_of_one_class_is_written_as():
    assert "foreground" not in masked(SIGMOID, CUT, png(scale=255))
    assert "foreground" not in masked(SIGMOID, CUT)
    assert masked(SIGMOID, CUT, png())["foreground"] == 1
    assert "foreground" not in masked(LABELS, png())


def test_a_picture_that_is_not_brought_back_has_no_mask():
    """But classes have no size."""
    pipeline = picture(behind=Compose([SOFTMAX]))
    found = pipeline_for(pipeline, "classification", ["a", "b"], "softmax")
    assert found == {key: value for key, value in pipeline.items() if key != "inverted"} | {"class_names": ["a", "b"]}
    for behind in (None, SIGMOID, Compose([SIGMOID, CUT, png(scale=255)])):
        with pytest.raises(PipelineRefused, match="Resized without Invertd"):
            pipeline_for(picture(behind=behind), "segmentation", ["a"], "sigmoid")
    assert pipeline_for(masked(SIGMOID, CUT), "segmentation", ["a"], "sigmoid") == masked(SIGMOID, CUT)


@pytest.mark.parametrize(
    ("behind", "task", "names", "named"),
    [
        ([SIGMOID, CUT], "classification", ["a"], "a classification of a single output"),
        ([SOFTMAX, CUT], "classification", ["a", "b"], "threshold 0.5 of a classification"),
        ([SIGMOID], "classification", ["a", "b"], "sigmoid over 2 classes, which may overlap"),
        ([SIGMOID, back(*PICTURE), LABELS], "segmentation", ["a", "b"], "sigmoid over 2 classes"),
        ([SOFTMAX, back(*PICTURE), CUT], "segmentation", ["a", "b"], "threshold 0.5 over 2 classes"),
        ([back(*PICTURE), CUT], "segmentation", ["a", "b"], "threshold 0.5 over 2 classes"),
        ([SOFTMAX, back(*PICTURE), CUT], "segmentation", ["a"], "softmax or argmax over a single class"),
    ],
)
def test_what_the_outputs_do_not_mean_is_refused(behind, task, names, named):
    """What the runtime would write as probabilities or as one label map, though the bundle decides otherwise."""
    behind = Compose(behind)
    with pytest.raises(PipelineRefused, match=named):
        pipeline_for(picture(behind=behind), task, names, output_activation(behind))


@pytest.mark.parametrize(
    ("behind", "names"), [([SIGMOID, back(*PICTURE), CUT], ["a"]), ([SOFTMAX, back(*PICTURE), LABELS], ["a", "b"])]
)
def test_masks_of_one_class_and_of_classes_that_exclude_each_other_are_known(behind, names):
    behind = Compose(behind)
    assert pipeline_for(picture(behind=behind), "segmentation", names, output_activation(behind))


def test_pictures_without_a_converter_are_known_in_their_own_mode_alone():
    assert "convert" not in picture()
    for load in (LoadImaged("image"), LoadImaged("image", reader="PILReader")):
        chain = Compose([load, *PICTURE[1:]])
        assert translate_pipeline(chain, SimpleInferer(), None, 3)["convert"] is False


@pytest.mark.parametrize(
    "load",
    [
        LoadImaged("image"),
        LoadImaged("image", reader=["PILReader", "NibabelReader"]),
        LoadImaged("image", reader=NibabelReader(channel_dim=-1)),
        LoadImaged("image", reader="ITKReader"),
    ],
)
def test_readers_of_monai_are_known(load):
    assert volume(load=[load, EnsureChannelFirstd("image")]) == volume()


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
    assert masked(SIGMOID, AsDiscreted("pred", threshold=0.3))["threshold"] == 0.3
    assert "threshold" not in masked(SOFTMAX)


class OwnReader(NibabelReader):
    """Reads something else."""


class OwnWriter(PILWriter):
    """Writes something else."""


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
        (lambda: moved(LABELS, back(RAS, FINE)), "Invertd behind AsDiscreted"),
        (lambda: picture(behind=back(*PICTURE, nearest=True)), "known of volumes alone"),
        # Keys.
        (lambda: volume(RANGE, NormalizeIntensityd("label")), "NormalizeIntensityd of label is not known; of image it"),
        (lambda: picture(CastToTyped("label", np.uint8)), "CastToTyped of label"),
        (lambda: volume(behind=AsDiscreted("label", argmax=True)), "AsDiscreted of label is not known; of pred it is"),
        (lambda: volume(behind=Activationsd("image", softmax=True)), "Activationsd of image"),
        (lambda: volume(behind=EnsureTyped("label")), "EnsureTyped of label"),
        (lambda: moved(back(RAS, FINE, keys=["image", "pred"]), LABELS), "Invertd of image, pred .* of pred alone"),
        (lambda: moved(back(RAS, FINE, orig="label"), LABELS), "orig_keys label"),
        (lambda: volume(behind=Compose([LABELS, save(["pred", "image"])])), "SaveImaged of pred, image"),
        # What is brought back.
        (lambda: moved(LABELS), "Orientationd and Spacingd without Invertd"),
        (lambda: volume(FINE), "Spacingd without Invertd"),
        (lambda: moved(back(), LABELS), "Invertd of nothing is not known; once, of Orientationd, Spacingd it is"),
        (lambda: moved(back(FINE), LABELS), "Invertd of Spacingd is not known"),
        (lambda: moved(back(RAS, FINE), back(RAS, FINE), LABELS), "Invertd twice"),
        (lambda: moved(back(RAS, FINE, post_func=torch.sign)), "Invertd with post_func"),
        # What is written.
        (lambda: volume(behind=Compose([LABELS, save(scale=255)])), "scale 255 is known of pictures alone"),
        (lambda: volume(behind=Compose([LABELS, save(resample=True)])), "SaveImaged with resample True"),
        (
            lambda: volume(behind=Compose([LABELS, SaveImaged("pred", output_dtype=np.int8)])),
            "with output_dtype",
        ),
        (lambda: volume(behind=Compose([LABELS, save(writer=OwnWriter)])), "SaveImaged with the writer .*OwnWriter"),
        (lambda: volume(behind=Compose([SOFTMAX, save()])), "SaveImaged without AsDiscreted"),
        (lambda: volume(behind=Compose([LABELS, save(), SOFTMAX])), "Activationsd behind SaveImaged"),
        (lambda: masked(LABELS, png(scale=255)), "scale 255 of several classes is not known; None is"),
        (lambda: masked(CUT, png(scale=65535)), "scale 65535 of one class is not known; 255 or None is"),
        (lambda: volume(behind=Compose([LABELS, SOFTMAX])), "Activationsd behind AsDiscreted"),
        (lambda: volume(behind=Compose([SOFTMAX, SIGMOID])), "Activationsd twice"),
        (lambda: volume(behind=Activationsd("pred", softmax=True, dim=1)), "Activationsd with dim 1"),
        (lambda: volume(behind=AsDiscreted("pred", argmax=True, dim=1)), "AsDiscreted with dim 1"),
        (lambda: volume(behind=AsDiscreted("pred", argmax=True, keepdim=False)), "AsDiscreted with keepdim False"),
        (
            lambda: volume(behind=AsDiscreted("pred", argmax=True, dtype=torch.bool)),
            "with dtype torch.bool",
        ),
        (lambda: volume(behind=AsDiscreted("pred", argmax=True, threshold=1)), "with argmax and threshold"),
        (lambda: volume(behind=Compose([LABELS, CUT])), "AsDiscreted twice"),
        (lambda: volume(behind=EnsureTyped("pred", dtype=torch.uint8)), "EnsureTyped with dtype torch.uint8"),
        (lambda: moved(back(RAS, FINE), LABELS, png()), "SaveImaged with output_ext .png of a volume"),
        (lambda: masked(CUT, save(output_ext=".tif")), "SaveImaged with output_ext .tif of a picture"),
        (lambda: masked(AsDiscreted("pred", threshold=0.0)), "AsDiscreted with threshold 0.0"),
        (lambda: masked(SIGMOID, AsDiscreted("pred", threshold=1.0)), "AsDiscreted with threshold 1.0"),
        # What is read.
        (lambda: read(dtype=np.uint8), "LoadImaged with dtype"),
        (lambda: read(as_closest_canonical=True), "NibabelReader's as_closest_canonical True"),
        (lambda: read(reverse_indexing=False), "PILReader's reverse_indexing False"),
        (lambda: read("ITKReader", reverse_indexing=True), "ITKReader's reverse_indexing True"),
        (lambda: read(ITKReader(reverse_indexing=True)), "ITKReader's reverse_indexing True"),
        (lambda: read("ITKReader", affine_lps_to_ras=False), "ITKReader's affine_lps_to_ras False"),
        (lambda: read(ITKReader(series_name="1")), "ITKReader's series_name 1"),
        (lambda: read(squeeze_non_spatial_dims=True), "NibabelReader's squeeze_non_spatial_dims True"),
        (lambda: read(NibabelReader(channel_dim=0)), "NibabelReader's channel_dim 0"),
        (lambda: read(mmap=False), "LoadImaged with mmap for"),
        (lambda: read(PILReader(formats=["PNG"])), "LoadImaged with formats for PILReader"),
        (lambda: read(OwnReader), "with the reader .*OwnReader is not known"),
        (lambda: read(OwnReader()), "with the reader .*OwnReader is not known"),
        (lambda: read([OwnReader, NibabelReader]), "with the reader .*OwnReader is not known"),
        (lambda: read(NumpyReader()), "with the reader .*NumpyReader is not known"),
        (lambda: volume(LoadImaged("image")), "LoadImaged twice"),
        (lambda: volume(load=[]), "without LoadImaged"),
        (lambda: translate_pipeline(None, WINDOWS, None, 1), "without LoadImaged"),
        (lambda: volume(load=LOAD[:1]), "LoadImaged without EnsureChannelFirstd"),
        (lambda: volume(EnsureChannelFirstd("image")), "behind another channel axis"),
        (lambda: volume(RAS, LOAD[1], load=LOAD[:1]), "EnsureChannelFirstd after Orientationd"),
        # Other arguments.
        (lambda: volume(load=[LOAD[0], EnsureChannelFirstd("image", channel_dim=0)]), "channel_dim 0"),
        (lambda: volume(ToTensord("image", dtype=torch.uint8)), "ToTensord with dtype torch.uint8"),
        (lambda: volume(ScaleIntensityRanged("image", 0, 1, 0, 9, dtype=np.uint8)), "ScaleIntensityRanged with dtype"),
        (lambda: volume(Spacingd("image", (1, 1, 1), lazy=True)), "Spacingd with lazy True"),
        (lambda: volume(Compose([FINE], lazy=True)), "Compose with lazy True"),
        (lambda: picture(MaskScopeOverlayd("image")), "MaskScopeOverlayd"),
        (lambda: picture(inferer=WINDOWS), "SlidingWindowInferer of a picture"),
        (lambda: picture(NormalizeIntensityd("image", nonzero=True)), "NormalizeIntensityd by a picture's own"),
        (lambda: picture(ScaleIntensityRanged("image", 50, 200, 0, 1, clip=True)), "clips the values of a picture"),
        (lambda: picture(channels=1), "pictures of mode RGB to a network of 1 channels"),
        (lambda: picture(Resized("image", (8, 8))), "Resized to"),
        (lambda: volume(Resized("image", (8, 8)), inferer=SimpleInferer()), "Transposed"),
        (lambda: volume(load=PICTURE[:2]), "not resized to one size"),
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
