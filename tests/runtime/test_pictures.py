"""Pictures get the values, masks and classes that MONAI's chains of the 2D bundles give them."""

from __future__ import annotations

import operator

import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    CastToTyped,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Resized,
    SaveImaged,
    Transposed,
)
from PIL import Image
from torch import nn

from monai_kd.data import endoscopy_frame
from monai_kd.export.pipeline import translate_pipeline
from monai_kd.runtime import ExportError, PictureStudent, load_exported, predict

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
SIZE = (48, 48)
PIPELINE = {"kind": "picture", "channels": "RGB", "size": list(SIZE), "resize": "bilinear", "mean": MEAN, "std": STD}
NAMES = ["a", "b", "c", "d"]


def segmenter(classes=1):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.Tanh(), nn.Conv2d(4, classes, 3, padding=1, bias=False))
    nn.init.normal_(net[2].weight)
    return net


def classifier():
    torch.manual_seed(0)
    features = (nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*features, nn.Linear(8, 4))


def picture(path, size=(90, 117)):
    coarse = np.random.default_rng(0).integers(0, 256, (9, 11, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)
    return path


def there(mode, cast):
    return Compose(
        [
            LoadImaged("image", reader="PILReader", converter=operator.methodcaller("convert", "RGB")),
            EnsureChannelFirstd("image"),
            Transposed("image", indices=[0, 2, 1]),
            Resized("image", spatial_size=SIZE, mode=mode),
            *([CastToTyped("image", dtype=np.uint8)] if cast else []),
            NormalizeIntensityd("image", subtrahend=np.float32(MEAN), divisor=np.float32(STD), channel_wise=True),
        ]
    )


def student(folder):
    return PictureStudent(load_exported(folder, num_threads=1))


@pytest.mark.parametrize("size", [(90, 117), (31, 40), SIZE])
@pytest.mark.parametrize(("mode", "cast"), [("bilinear", None), ("area", "uint8"), ("area", None)])
def test_the_network_sees_what_monai_shows_it(export_network, tmp_path, size, mode, cast):
    path = picture(tmp_path / "a.png", size)
    folder = export_network(
        classifier(), (3, *SIZE), pipeline=PIPELINE | {"resize": mode, "cast": cast, "class_names": NAMES}
    )
    expected = there(mode, cast)({"image": str(path)})["image"].numpy()
    np.testing.assert_allclose(student(folder).load(path).image[0], expected, atol=1e-4)


def by_monai(path, threshold=0.5, mode="bilinear", activated=False, net=None, save=None):
    """What inference.json of the polyp bundle does; ``activated``: the other order, probabilities are resized."""
    chain = there(mode, None)
    item = chain({"image": str(path)})
    with torch.no_grad():
        item["pred"] = (net or segmenter())(item["image"][None])[0]
    behind = [
        Invertd("pred", chain, orig_keys="image", nearest_interp=False, to_tensor=True),
        Activationsd("pred", sigmoid=True),
    ]
    item = Compose(behind[::-1] if activated else behind)(item)
    item = AsDiscreted("pred", threshold=threshold)(item)
    if save is not None:
        save(item)
    return item["pred"][0].numpy().T  # its axes are those of PIL


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_mask_is_monais(export_network, tmp_path, threshold):
    path = picture(tmp_path / "a.png")
    output = {"channels": 1, "activation": "sigmoid"}
    folder = export_network(segmenter(), (3, *SIZE), pipeline=PIPELINE | {"threshold": threshold}, output=output)
    one = student(folder)
    loaded = one.load(path)
    one.save(one.infer(loaded), loaded, tmp_path / "mask.png")
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert mask.shape == (90, 117)
    assert set(np.unique(mask)) == {0, 255}
    assert (mask == by_monai(path, threshold) * 255).mean() >= 0.9999


@pytest.mark.parametrize("mode", ["bilinear", "area"])
def test_probabilities_are_resized_where_the_bundle_does(export_network, tmp_path, mode):
    """``Activationsd`` before ``Invertd``: another mask than of resized answers, and MONAI's to the pixel."""
    path, net = picture(tmp_path / "a.png"), segmenter()
    with torch.no_grad():
        net[2].weight *= 8
    expected = by_monai(path, 0.3, mode, activated=True, net=net) * 255
    masks, output = {}, {"channels": 1, "activation": "sigmoid"}
    for activated in (True, False):
        words = PIPELINE | {"resize": mode, "threshold": 0.3, "activated": activated}
        folder = export_network(net, (3, *SIZE), folder=tmp_path / str(activated), pipeline=words, output=output)
        one = student(folder)
        masks[activated] = one.infer(one.load(path))
    np.testing.assert_array_equal(masks[True], expected)
    assert (masks[False] != expected).sum() > 20


@pytest.mark.parametrize(("scale", "value"), [(255, 255), (None, 1)])
def test_files_have_the_values_that_monai_writes(export_network, tmp_path, scale, value):
    path = picture(tmp_path / "a.png")
    words = {} if scale else {"foreground": 1}
    output = {"channels": 1, "activation": "sigmoid"}
    one = student(export_network(segmenter(), (3, *SIZE), pipeline=PIPELINE | words, output=output))
    loaded = one.load(path)
    one.save(one.infer(loaded), loaded, tmp_path / "mask.png")
    save = SaveImaged("pred", output_dir=tmp_path / "monai", output_ext=".png", output_postfix="", scale=scale)
    by_monai(path, save=save)
    found, expected = (np.asarray(Image.open(file)) for file in (tmp_path / "mask.png", tmp_path / "monai/a/a.png"))
    assert found.dtype == expected.dtype
    assert set(np.unique(found)) == {0, value}
    assert (found == expected).mean() >= 0.9999


def test_several_classes_give_their_numbers(export_network, tmp_path):
    folder = export_network(segmenter(3), (3, *SIZE), pipeline=PIPELINE)
    one = student(folder)
    loaded = one.load(picture(tmp_path / "a.png", SIZE))
    with torch.no_grad():
        expected = segmenter(3)(torch.from_numpy(loaded.image)).argmax(1)[0].numpy()
    assert (one.infer(loaded) == expected).mean() >= 0.999


def test_probabilities_are_the_networks(export_network, tmp_path):
    folder = export_network(classifier(), (3, *SIZE), pipeline=PIPELINE | {"resize": "area", "class_names": NAMES})
    one = student(folder)
    loaded = one.load(picture(tmp_path / "a.jpg"))
    with torch.no_grad():
        expected = classifier()(torch.from_numpy(loaded.image)).softmax(1)[0].numpy()
    np.testing.assert_allclose(one.infer(loaded), expected, atol=1e-5)
    assert one.class_names == tuple(NAMES)


def test_grey_pictures(export_network, tmp_path):
    words = PIPELINE | {"channels": "L", "mean": [100.0], "std": [50.0]}
    folder = export_network(
        nn.Conv2d(1, 1, 3, padding=1), (1, *SIZE), pipeline=words, output={"channels": 1, "activation": None}
    )
    assert student(folder).load(picture(tmp_path / "a.png")).image.shape == (1, 1, *SIZE)


def test_a_drawn_frame(export_network, tmp_path):
    Image.fromarray(endoscopy_frame(6)).save(tmp_path / "a.png")
    folder = export_network(segmenter(), (3, *SIZE), pipeline=PIPELINE, output={"channels": 1, "activation": "sigmoid"})
    one = student(folder)
    assert (one.infer(one.load(tmp_path / "a.png")) == by_monai(tmp_path / "a.png") * 255).mean() >= 0.9999


def in_mode(mode):
    """A picture whose file has that mode."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("channels", ["L", "RGB"])
def test_without_a_converter_a_picture_is_seen_as_it_is_or_refused(export_network, tmp_path, channels):
    """MONAI's values of a file with the mode; one with another, that MONAI would not convert, is no case."""
    count = len(channels)
    mean, std = MEAN[:count], STD[:count]
    chain = Compose([LoadImaged("image"), *there("bilinear", None).transforms[1:-1]])
    chain = Compose([*chain.transforms, NormalizeIntensityd("image", mean, std, channel_wise=True)])
    words = translate_pipeline(chain, SimpleInferer(), None, count)
    words.pop("inverted")
    net = nn.Conv2d(count, 1, 3, padding=1)
    folder = export_network(net, (count, *SIZE), pipeline=words, output={"channels": 1, "activation": None})
    source = tmp_path / "in"
    source.mkdir()
    modes = ["1", "I;16", "P", "RGBA", "L", "RGB"]
    for mode in modes:
        in_mode(mode).save(source / f"{mode.replace(';', '')}.png")
    found = student(folder).load(source / f"{channels}.png").image[0]
    np.testing.assert_allclose(found, chain({"image": str(source / f"{channels}.png")})["image"].numpy(), atol=1e-4)
    done = predict(load_exported(folder, num_threads=1), source, tmp_path / "out")
    assert {path.stem for path in done.written} == {channels}
    assert {path.stem for path in done.failed} == {mode.replace(";", "") for mode in modes} - {channels}
    assert f"a picture of mode P; the bundle reads those of mode {channels}" in done.failed[source / "P.png"]


@pytest.mark.parametrize("convert", [{}, {"convert": True}])
def test_with_a_converter_all_modes_are_read(export_network, tmp_path, convert):
    one = student(export_network(classifier(), (3, *SIZE), pipeline=PIPELINE | {"class_names": NAMES} | convert))
    for mode in ("1", "P", "RGBA", "L"):
        in_mode(mode).save(tmp_path / "a.png")
        assert one.load(tmp_path / "a.png").image.shape == (1, 3, *SIZE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"resize": "bicubic"}, "resize must be one of area, bilinear, got 'bicubic'"),
        ({"channels": "CMYK"}, "channels must be one of RGB, L"),
        ({"crop": 3}, "unknown: crop"),
        ({"foreground": 2}, "foreground must be one of 255, 1, None"),
        ({"convert": "L"}, "convert must be one of False, True, None"),
        ({"mean": [0.0]}, "3 numbers"),
        ({"std": [1.0, 0.0, 1.0]}, "std must be positive"),
        ({"size": [32, 32]}, "was exported for"),
        ({"mean": ...}, "lacks 'mean'"),
        ({"class_names": ["a", "a", "b", "c"]}, "4 different class names"),
    ],
)
def test_pipelines_that_are_not_known_are_refused(export_network, changes, said):
    words = {key: value for key, value in (PIPELINE | {"class_names": NAMES} | changes).items() if value is not ...}
    with pytest.raises(ExportError, match=said):
        student(export_network(classifier(), (3, *SIZE), pipeline=words))


def test_what_is_no_picture_is_refused(export_network, tmp_path):
    one = student(
        export_network(segmenter(), (3, *SIZE), pipeline=PIPELINE, output={"channels": 1, "activation": None})
    )
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(OSError, match="cannot identify"):
        one.load(tmp_path / "a.png")
    whole = picture(tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match="truncated"):
        one.load(tmp_path / "b.png")
