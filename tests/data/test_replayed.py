"""Views come again to the last bit, in any order, in any process, from any of MONAI's data sets."""

from __future__ import annotations

import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset
from monai.transforms import (
    Compose,
    EnsureTyped,
    OneOf,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandSpatialCropd,
    ScaleIntensityd,
)

from monai_kd.data import ReplayedDataset, VolumeCacheDataset

KEYS = ["image", "label"]


def chain(dims):
    return Compose(
        [
            ScaleIntensityd("image"),
            RandSpatialCropd(KEYS, [6] * dims, random_size=False),
            RandFlipd(KEYS, prob=0.5, spatial_axis=0),
            RandAffined(KEYS, prob=0.5, rotate_range=0.3, mode=["bilinear", "nearest"]),
            OneOf([RandGaussianNoised("image", prob=1.0), RandGaussianNoised("image", prob=1.0, std=0.5)]),
            EnsureTyped(KEYS, track_meta=False),
        ]
    )


def items(dims, count=3):
    generator = torch.Generator().manual_seed(0)
    image = [torch.rand(1, *[8] * dims, generator=generator) for _ in range(count)]
    return [{"image": one, "label": (one > 0.5).float()} for one in image]


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in KEYS)


KINDS = {
    "Dataset": Dataset,
    "CacheDataset": lambda data, transform: CacheDataset(data, transform, progress=False),
    "VolumeCacheDataset": lambda data, transform: VolumeCacheDataset(data, transform, None),
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_views_come_again(kind, dims):
    views = ReplayedDataset(KINDS[kind](items(dims), chain(dims)), views=4)
    first = [views[index] for index in range(len(views))]
    assert len(first) == 12
    for index in (11, 0, 5, 5, 7):
        assert same(views[index], first[index])
    again = ReplayedDataset(KINDS[kind](items(dims), chain(dims)), views=4)
    assert all(same(again[index], view) for index, view in enumerate(first))


def test_views_differ():
    views = ReplayedDataset(Dataset(items(2, count=1), chain(2)), views=6)
    found = [views[index]["image"] for index in range(6)]
    assert not any(torch.equal(found[i], found[j]) for i in range(6) for j in range(i))
    other = ReplayedDataset(Dataset(items(2, count=1), chain(2)), views=6, seed=1)
    assert not torch.equal(other[0]["image"], found[0])


def test_view_and_item():
    data = Dataset([{"image": torch.full((1, 4), float(i)), "label": torch.zeros(1, 4)} for i in range(3)])
    data.transform = Compose([RandFlipd(KEYS)])
    views = ReplayedDataset(data, views=2)
    assert [float(views[index]["image"].mean()) for index in range(6)] == [0, 1, 2, 0, 1, 2]
    assert views.data is data.data
    with pytest.raises(IndexError):
        views[6]


def test_worker_processes_see_the_same():
    views = ReplayedDataset(Dataset(items(2), chain(2)), views=2)
    here = [batch["image"] for batch in DataLoader(views, batch_size=2, num_workers=0)]
    there = [batch["image"] for batch in DataLoader(views, batch_size=2, num_workers=1)]
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_what_cannot_be_replayed_is_refused():
    with pytest.raises(TypeError, match="got a list with NoneType"):
        ReplayedDataset([1, 2], views=2)
    with pytest.raises(ValueError, match="views must be 1 or more"):
        ReplayedDataset(Dataset(items(2), chain(2)), views=0)
