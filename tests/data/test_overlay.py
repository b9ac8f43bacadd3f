import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from PIL import Image

from monai_kd.data import MaskScopeOverlayd, endoscopy_frame, scope_overlay_box
from monai_kd.data.kvasir_v2 import KVASIR_V2_CLASSES

GREEN = (18, 163, 134)


def frame(seed=0, kind="normal-z-line", size=(96, 120)):
    """(3, H, W) without the picture."""
    return np.ascontiguousarray(endoscopy_frame(KVASIR_V2_CLASSES.index(kind), size, seed).transpose(2, 0, 1))


def with_box(image, rows=slice(64, 90), columns=slice(6, 40), colour=GREEN):
    image = image.copy()
    image[:, rows, columns] = np.array(colour, dtype=image.dtype)[:, None, None]
    return image


def mask(image, **kwargs):
    return MaskScopeOverlayd("image", **kwargs)({"image": image})["image"]


def test_the_box_is_found_and_nothing_else_changes():
    before = frame()
    image = with_box(before)
    assert scope_overlay_box(image) == (slice(64, 90), slice(6, 40))
    masked = mask(image, margin=0)
    np.testing.assert_array_equal(masked, with_box(before, colour=(0, 0, 0)))
    assert image[1, 70, 20] == 163  # the item's own pixels are left


def test_the_margin_is_a_share_of_the_shorter_side():
    before = frame()
    expected = with_box(before, slice(62, 92), slice(4, 42), (0, 0, 0))
    np.testing.assert_array_equal(mask(with_box(before), margin=0.02), expected)


def test_the_scope_drawn_in_the_box_goes_too():
    image = with_box(frame())
    image[:, 66:90, 20:23] = 60
    image[:, 66:70, 8:18] = 230
    assert not mask(image)[:, 64:90, 6:40].any()


@pytest.mark.parametrize("kind", KVASIR_V2_CLASSES)
def test_frames_without_it_stay_bit_equal(kind):
    upper = kind in ("esophagitis", "normal-pylorus", "normal-z-line")
    for seed in range(12):
        image = frame(seed, kind)
        if upper or scope_overlay_box(image) is None:
            assert mask(image) is image


@pytest.mark.parametrize(
    "colour",
    [(200, 120, 100), (150, 160, 40), (30, 110, 190), (60, 160, 200), (120, 125, 118), (0, 0, 0), (2, 9, 5)],
    ids=["mucosa", "bile", "blue dye", "cyan dye", "grey", "black", "nearly black"],
)
def test_boxes_of_other_colours_stay(colour):
    image = with_box(frame(), colour=colour)
    assert mask(image) is image


def test_green_elsewhere_and_specks_of_it_stay():
    base = frame()
    for rows, columns in ((slice(4, 30), slice(6, 40)), (slice(64, 90), slice(80, 114)), (slice(80, 84), slice(6, 10))):
        image = with_box(base, rows, columns)
        assert mask(image) is image
    scattered = with_box(base, slice(64, 90, 2), slice(6, 40, 2))
    assert mask(scattered) is scattered


def test_green_that_is_no_box_stays():
    """A thread from one side to the other, large enough to count."""
    image = frame()
    for step in range(40):
        image[:, 52 + step : 55 + step, 8 + step] = np.array(GREEN, dtype=np.uint8)[:, None]
    assert mask(image) is image


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.float64])
def test_any_type_and_range(dtype):
    image = torch.from_numpy(with_box(frame()))
    image = image if dtype == torch.uint8 else (image / 255).to(dtype)
    masked = mask(image)
    assert masked.dtype == dtype
    assert not masked[:, 64:90, 6:40].any()
    assert torch.equal(masked[:, :60], image[:, :60])


def test_meta_tensors_keep_what_they_know():
    image = MetaTensor(torch.from_numpy(with_box(frame())), meta={"filename_or_obj": "a.jpg"})
    masked = mask(image)
    assert isinstance(masked, MetaTensor)
    assert masked.meta["filename_or_obj"] == "a.jpg"
    assert image[:, 70, 20].any()


def test_keys():
    item = {"a": with_box(frame(1)), "b": with_box(frame(2)), "label": 3}
    masked = MaskScopeOverlayd(["a", "c"], allow_missing_keys=True)(item)
    assert not masked["a"][:, 70, 20].any()
    assert masked["b"] is item["b"]
    assert masked["label"] == 3
    with pytest.raises(KeyError, match="c"):
        MaskScopeOverlayd(["a", "c"])(item)


@pytest.mark.parametrize("shape", [(1, 40, 40), (40, 40, 3), (40, 40), (2, 3, 40, 40)])
def test_other_shapes(shape):
    with pytest.raises(ValueError, match=r"expected an RGB image of shape \(3, H, W\), got"):
        scope_overlay_box(torch.zeros(shape))


def test_negative_margin():
    with pytest.raises(ValueError, match=r"margin must be 0 or more, got -0\.1"):
        MaskScopeOverlayd("image", margin=-0.1)


def test_on_kvasir_seg():
    """Nine of the frames show it, seen by eye; on the others it was blacked out or never there."""
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("set MONAI_KD_DATA to a folder with kvasir_seg/ to look for real overlays")
    root = Path(os.environ["MONAI_KD_DATA"]) / "kvasir_seg" / "images"
    if not root.is_dir():
        pytest.skip("no kvasir_seg below $MONAI_KD_DATA")
    boxes = []
    for path in sorted(root.glob("*.jpg")):
        image = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
        if box := scope_overlay_box(image):
            boxes.append(box)
            assert scope_overlay_box(mask(image)) is None
    assert len(boxes) == 9
    for rows, columns in boxes:  # of frames of 576 x 720 pixels
        assert 380 <= rows.start < 395
        assert 535 <= rows.stop <= 560
        assert 30 <= columns.start < 45
        assert 230 <= columns.stop <= 250
