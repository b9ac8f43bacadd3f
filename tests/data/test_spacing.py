import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged
from monai.transforms import Spacingd as MonaiSpacingd

from monai_kd.data import SafeSpacingd

PIXDIM, MODE = (2.0, 1.5, 3.0), ("bilinear", "nearest")


def volume(shape=(12, 10, 8), labels=False):
    x, y, z = np.mgrid[[slice(size) for size in shape]]
    ramp = x + 2.0 * y - 3.0 * z
    return MetaTensor(
        torch.tensor(ramp > 5 if labels else ramp, dtype=torch.float32)[None],
        affine=torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0], dtype=torch.float64)),
        meta={"filename_or_obj": "case.nii.gz"},
    )


@pytest.fixture
def item():
    return {"image": volume(), "label": volume(labels=True)}


def test_gives_what_monai_gives(item):
    expected = MonaiSpacingd(("image", "label"), PIXDIM, mode=MODE)(item)
    resampled = SafeSpacingd(("image", "label"), PIXDIM, mode=MODE)(item)
    assert list(resampled) == list(expected)
    for key in ("image", "label"):
        assert resampled[key].shape != item[key].shape
        torch.testing.assert_close(resampled[key].as_tensor(), expected[key].as_tensor())
        torch.testing.assert_close(resampled[key].affine, expected[key].affine)
    assert resampled["label"].unique().tolist() == [0, 1]


def test_entries_named_after_the_image_pass_unchanged(item):
    scores = torch.rand(3)
    item = {"image_path": "/in/case.nii.gz", **item, "image_scores": scores, "label_names": ["a"], "other": 1}
    resampled = SafeSpacingd(("image", "label"), PIXDIM, mode=MODE)(item)
    assert list(resampled) == list(item)
    assert (resampled["image_path"], resampled["label_names"], resampled["other"]) == ("/in/case.nii.gz", ["a"], 1)
    assert resampled["image_scores"] is scores
    expected = SafeSpacingd("image", PIXDIM)({"image": item["image"]})["image"]
    assert torch.equal(resampled["image"].as_tensor(), expected.as_tensor())


def test_meta_dictionaries_are_monais_business(item):
    def meta(transform):
        return transform("image", PIXDIM)({"image": item["image"], "image_meta_dict": {"key": 1}})["image_meta_dict"]

    assert meta(SafeSpacingd).keys() == meta(MonaiSpacingd).keys()


@pytest.mark.parametrize("lazy", [False, True])
def test_inverts(tmp_path, lazy):
    """As a server does: a path beside the image, the prediction brought back to the image's own grid."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    path = tmp_path / "case.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volume()[0].numpy(), affine), path)
    before = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), SafeSpacingd("image", PIXDIM)], lazy=lazy)
    item = before({"image": str(path), "image_path": str(path)})
    assert item["image"].shape == (1, 6, 7, 6)
    item["pred"] = MetaTensor(item["image"].as_tensor().clone())
    inverted = Invertd("pred", before, "image", nearest_interp=False, to_tensor=True)(item)
    assert inverted["image_path"] == str(path)
    assert inverted["pred"].shape == (1, 12, 10, 8)
    np.testing.assert_allclose(inverted["pred"].affine, affine)
    # A linear ramp survives linear interpolation, up to where the coarse grid ends short of the border.
    inner = (0, slice(2, -2), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(inverted["pred"].as_tensor()[inner], volume().as_tensor()[inner], atol=1e-4, rtol=0)


def test_keys_that_look_like_meta_data_are_refused():
    with pytest.raises(ValueError, match=r"\['image_2'\] look like meta data"):
        SafeSpacingd(("image", "image_2"), PIXDIM)
