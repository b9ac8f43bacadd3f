import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandFlipd, RandRotate90d, RandSpatialCropd

from monai_kd.data import FillMissingLabeld, make_polyp_frames, polyp_datalist


@pytest.mark.parametrize("spatial", [(5, 6), (3, 4, 5)])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor])
def test_placeholder_fits_the_reference(spatial, kind):
    image = kind(torch.rand(3, *spatial).numpy() if kind is np.asarray else torch.rand(3, *spatial))
    item = FillMissingLabeld(channels=2, fill_value=-1)({"image": image})
    assert type(item["label"]) is type(image)
    assert item["label"].dtype == image.dtype
    assert tuple(item["label"].shape) == (2, *spatial)
    assert (item["label"] == -1).all()
    assert item["has_label"] is False


def test_placeholder_lies_where_the_reference_lies():
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, 3, 4, 5), affine=affine, meta={"filename_or_obj": "a.nii"})
    label = FillMissingLabeld()({"image": image})["label"]
    torch.testing.assert_close(label.affine, affine)
    label.meta["filename_or_obj"] = "changed"
    label.affine = torch.eye(4)
    assert image.meta["filename_or_obj"] == "a.nii"
    torch.testing.assert_close(image.affine, affine)


def test_labelled_items_keep_their_label():
    label = torch.ones(1, 4, 4)
    item = FillMissingLabeld()({"image": torch.rand(3, 4, 4), "label": label})
    assert item["label"] is label
    assert item["has_label"] is True


@pytest.mark.parametrize("false", [False, 0, torch.tensor(False), np.False_])
def test_hidden_labels_stay_hidden(false):
    label = torch.ones(1, 4, 4)
    item = FillMissingLabeld()({"image": torch.rand(3, 4, 4), "label": label, "has_label": false})
    assert item["label"] is label
    assert item["has_label"] is False


def test_input_is_left_alone():
    data = {"image": torch.rand(3, 4, 4)}
    FillMissingLabeld()(data)
    assert list(data) == ["image"]


def test_one_of_several_labels_missing():
    data = {"frame": torch.rand(3, 4, 4), "polyp": torch.ones(1, 4, 4)}
    item = FillMissingLabeld(keys=("polyp", "vessel"), reference="frame", has_label_key="known")(data)
    assert item["known"] is False
    assert item["polyp"] is data["polyp"]
    assert item["vessel"].shape == (1, 4, 4)


def test_none_is_missing():
    assert FillMissingLabeld()({"image": torch.rand(3, 4, 4), "label": None})["has_label"] is False


def test_wrong_items():
    with pytest.raises(ValueError, match="has_label' is True but has no"):
        FillMissingLabeld()({"image": torch.rand(3, 4, 4), "has_label": True})
    with pytest.raises(KeyError, match="no 'image' to take the shape"):
        FillMissingLabeld()({"frame": torch.rand(3, 4, 4)})
    with pytest.raises(ValueError, match="channels"):
        FillMissingLabeld(channels=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_mixed_batches(tmp_path, num_workers):
    root = make_polyp_frames(tmp_path / "frames", count=8, size=(48, 64))
    items = polyp_datalist(root, val_fraction=0, test_fraction=0, labelled_fraction=0.5)["training"]
    keys = ("image", "label")
    transform = Compose(
        [
            LoadImaged(keys, allow_missing_keys=True),
            EnsureChannelFirstd(keys, allow_missing_keys=True),
            FillMissingLabeld(),
            RandFlipd(keys, prob=0.5),
            RandRotate90d(keys, prob=0.5),
            RandSpatialCropd(keys, roi_size=(32, 32), random_size=False),
        ]
    )
    batch = next(iter(DataLoader(Dataset(items, transform), batch_size=8, num_workers=num_workers)))
    assert batch["image"].shape == (8, 3, 32, 32)
    assert batch["label"].shape == (8, 1, 32, 32)
    assert batch["has_label"].dtype == torch.bool
    assert batch["has_label"].tolist() == ["label" in item for item in items]
    assert batch["has_label"].sum() == 4
    assert not batch["label"][~batch["has_label"]].any()
    assert [bool(item["has_label"]) for item in decollate_batch(batch)] == batch["has_label"].tolist()


def test_random_transforms_act_on_image_and_placeholder_alike():
    ramp = torch.arange(20.0).reshape(1, 4, 5)
    item = FillMissingLabeld()({"image": ramp})
    item["label"] += ramp
    flip = RandFlipd(("image", "label"), prob=0.5, spatial_axis=0).set_random_state(0)
    flipped = [flip(item) for _ in range(10)]
    assert {bool((out["image"] == ramp).all()) for out in flipped} == {True, False}
    assert all((out["image"] == out["label"]).all() for out in flipped)
