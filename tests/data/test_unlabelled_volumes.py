"""Unlabelled CT volumes beside labelled ones, from NIfTI files to a batch and back to the file's own grid."""

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    RandCropByPosNegLabeld,
    SpatialPadd,
)

from monai_kd.data import FillMissingLabeld, SafeSpacingd, ToRegionsd, VolumeCacheDataset, kits_datalist

KEYS = ("image", "label")
AFFINE = np.diag([-0.8, 0.8, 3.0, 1.0])


def above_air(image):
    return image > -500


@pytest.fixture
def items(tmp_path):
    rng = np.random.default_rng(0)
    for number, labelled in ((1, True), (2, True), (210, False), (211, False)):
        case = tmp_path / f"case_{number:05d}"
        case.mkdir()
        image = np.full((20, 18, 10), -1000.0, dtype=np.float32)
        image[3:17, 3:15, 1:9] = rng.normal(40, 20, (14, 12, 8))
        nibabel.save(nibabel.Nifti1Image(image, AFFINE), case / "imaging.nii.gz")
        if labelled:
            label = np.zeros(image.shape, dtype=np.uint8)
            label[5:11, 5:11, 3:7], label[7:9, 7:9, 4:6] = 1, 2
            nibabel.save(nibabel.Nifti1Image(label, AFFINE), case / "segmentation.nii.gz")
    with pytest.warns(UserWarning, match="part of the published cases"):
        return kits_datalist(tmp_path)["training"]


def preparation():
    return [
        LoadImaged(KEYS, allow_missing_keys=True),
        EnsureChannelFirstd(KEYS, allow_missing_keys=True),
        FillMissingLabeld(),
        Orientationd(KEYS, "RAS", labels=None),
        SafeSpacingd(KEYS, (1.6, 1.6, 1.6), mode=("bilinear", "nearest")),
        CropForegroundd(KEYS, "image", above_air),
        SpatialPadd(KEYS, (16, 16, 16)),
    ]


def test_placeholders_go_wherever_the_image_goes(items):
    unlabelled = Compose(preparation())(items[2])
    image, label = unlabelled["image"], unlabelled["label"]
    assert unlabelled["has_label"] is False
    assert label.shape == image.shape
    assert not label.any()
    torch.testing.assert_close(label.affine, image.affine)
    labelled = Compose(preparation())(items[0])
    assert labelled["label"].dtype == label.dtype
    assert labelled["label"].unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("cached", [False, True])
def test_batches_mix_both(items, tmp_path, cached):
    crop = RandCropByPosNegLabeld(KEYS, "label", (12, 12, 12), num_samples=2)
    transform = Compose([*preparation(), crop, ToRegionsd("label", [[1, 2], [2]])]).set_random_state(0)
    dataset = VolumeCacheDataset(items, transform, tmp_path / "cache" if cached else None)
    for _ in range(1 + cached):
        batch = next(iter(DataLoader(dataset, batch_size=4)))
        assert batch["image"].shape == (8, 1, 12, 12, 12)
        assert batch["label"].shape == (8, 2, 12, 12, 12)
        assert batch["has_label"].tolist() == [True] * 4 + [False] * 4
        assert batch["label"][:4].flatten(1).any(1).any()
        assert not batch["label"][4:].any()
        torch.testing.assert_close(batch["image"].affine, batch["label"].affine)


def test_placeholders_can_be_inverted(items):
    transform = Compose(preparation())
    item = transform(items[3])
    inverted = Invertd("label", transform, "label")(item)["label"]
    assert inverted.shape == (1, 20, 18, 10)
    np.testing.assert_allclose(inverted.affine, AFFINE, atol=1e-6)
