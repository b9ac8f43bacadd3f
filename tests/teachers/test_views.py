"""Transforms that draw for a teacher's images, or in space, are refused by name; nothing else is."""

from __future__ import annotations

import re

import pytest
from monai.data import CacheDataset, Dataset
from monai.transforms import (
    Compose,
    CopyItemsd,
    EnsureTyped,
    OneOf,
    RandCropByPosNegLabeld,
    RandFlip,
    RandFlipd,
    RandGaussianNoised,
    Randomizable,
    RandShiftIntensityd,
    ScaleIntensityd,
    Transform,
)
from torch.utils.data import ConcatDataset, DataLoader, Subset

from monai_kd.data import ReplayedDataset
from monai_kd.teachers.views import refuse_random_views

KEYS = ["image", "label"]
JITTER = [RandShiftIntensityd("image", offsets=0.1), RandGaussianNoised("image")]


class Draws(Randomizable, Transform):
    def __call__(self, data):
        return data


def data(*transforms):
    return Dataset([{"image": [[0.0]]}], Compose([ScaleIntensityd("image"), *transforms]))


@pytest.mark.parametrize(
    ("transforms", "names"),
    [
        ([RandFlipd(KEYS)], "RandFlipd (of image, label)"),
        (JITTER, "RandShiftIntensityd (of image), RandGaussianNoised (of image)"),
        ([RandCropByPosNegLabeld("label", "label", [2])], "RandCropByPosNegLabeld (of label)"),
        ([Compose([RandFlip()])], "RandFlip"),
        ([OneOf([EnsureTyped("image"), ScaleIntensityd("image")])], "OneOf"),
        ([Draws()], "Draws"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_by_name(transforms, names):
    with pytest.raises(ValueError, match=f"^{re.escape(names)} gives other images each time"):
        refuse_random_views(data(*transforms), "image")


def test_wherever_they_are():
    inner = data(RandFlipd(KEYS))
    for dataset in (Subset(inner, [0]), ConcatDataset([data(), inner]), CacheDataset([], inner.transform)):
        with pytest.raises(ValueError, match="RandFlipd"):
            refuse_random_views(dataset, "image")


def test_let_through():
    for dataset in (
        data(),
        data(CopyItemsd("image", names=["clean"]), *JITTER),
        ReplayedDataset(data(RandFlipd(KEYS)), views=2),
        Subset(ReplayedDataset(data(RandFlipd(KEYS)), views=2), [0]),
        DataLoader([1, 2]).dataset,
    ):
        refuse_random_views(dataset, "clean")


def test_moving_the_students_image_away_is_refused():
    with pytest.raises(ValueError, match=r"RandFlipd \(of image, label\)"):
        refuse_random_views(data(CopyItemsd("image", names=["clean"]), RandFlipd(KEYS)), "clean")
