import functools
import operator
import os
import pickle
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.data.dataset import PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import (
    ClassesToIndicesd,
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    Invertd,
    Lambdad,
    LoadImaged,
    Orientationd,
    RandCropByLabelClassesd,
    RandFlipd,
    RandScaleIntensityd,
    RandSpatialCropd,
    SpatialPadd,
    Transform,
)

from monai_kd.data import FillMissingLabeld, SafeSpacingd, VolumeCacheDataset

KEYS = ("image", "label")
AFFINE = np.array([[-1.5, 0, 0, 20], [0, 1.0, 0, -5], [0, 0.2, 2.0, 7], [0, 0, 0, 1]])


class Counting(Transform):
    """Says how often it ran."""

    calls = 0

    def __call__(self, item):
        Counting.calls += 1
        return item


@pytest.fixture(autouse=True)
def reset():
    Counting.calls = 0


@pytest.fixture
def items(tmp_path):
    generator = np.random.default_rng(0)
    found = []
    for number in range(3):
        item = {}
        for key, voxels in zip(KEYS, (generator.normal(0, 300, (9, 8, 6)), generator.integers(0, 3, (9, 8, 6)))):
            item[key] = str(tmp_path / f"{key}{number}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), AFFINE), item[key])
        found.append(item)
    return found


def preparation(pixdim=(1.0, 1.0, 1.0)):
    return [
        Counting(),
        LoadImaged(KEYS, allow_missing_keys=True),
        EnsureChannelFirstd(KEYS, allow_missing_keys=True),
        FillMissingLabeld(),
        Orientationd(KEYS, "RAS", labels=None),
        SafeSpacingd(KEYS, pixdim, mode=("bilinear", "nearest")),
        CropForegroundd(KEYS, "image", functools.partial(operator.lt, 100.0)),
        SpatialPadd(KEYS, (20, 20, 20)),
    ]


def assert_equal(first, second):
    """Same types, same values, all the way down."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for pair in zip(first, second):
            assert_equal(*pair)
    elif isinstance(first, MetaTensor):
        assert_equal(first.as_tensor(), second.as_tensor())
        assert_equal(first.meta, second.meta)
        assert_equal(first.applied_operations, second.applied_operations)
    elif isinstance(first, (torch.Tensor, np.ndarray)):
        assert first.dtype == second.dtype
        assert first.shape == second.shape
        np.testing.assert_array_equal(first, second)
    else:
        assert first == second or (first != first and second != second)


def test_cached_items_are_fresh_items(items, tmp_path):
    dataset = VolumeCacheDataset(items, preparation(), tmp_path / "cache")
    fresh = dataset[1]
    assert Counting.calls == 1
    cached, again = dataset[1], VolumeCacheDataset(items, preparation(), tmp_path / "cache")[1]
    assert Counting.calls == 1
    assert_equal(fresh, cached)
    assert_equal(fresh, again)
    assert len(list(tmp_path.joinpath("cache").iterdir())) == 1

    uncached = Compose(preparation())(items[1])
    assert list(fresh) == list(uncached)
    for key in KEYS:
        assert torch.equal(cached[key].as_tensor(), uncached[key].as_tensor())
        assert torch.equal(cached[key].affine, uncached[key].affine)
        assert not torch.equal(cached[key].affine, torch.eye(4, dtype=torch.float64))
        assert cached[key].meta["filename_or_obj"] == items[1][key]
        assert cached[key].meta["space"] == uncached[key].meta["space"]
        np.testing.assert_allclose(cached[key].meta["original_affine"], AFFINE, rtol=1e-6)
    assert cached["has_label"] is True


def test_monais_own_cache_does_not_do_this(items, tmp_path):
    """If it ever does, this class can go."""
    dataset = PersistentDataset(items, preparation(), tmp_path / "cache", hash_transform=pickle_hashing)
    fresh, cached = dataset[0], dataset[0]
    assert "filename_or_obj" in fresh["image"].meta
    assert not isinstance(cached["image"], MetaTensor)


def test_cached_items_can_be_inverted(items, tmp_path):
    transform = Compose(preparation())
    dataset = VolumeCacheDataset(items, transform, tmp_path / "cache")
    results = []
    for item in (dataset[0], dataset[0]):
        item["pred"] = item["image"].clone()
        results.append(Invertd("pred", transform, "image", nearest_interp=False)(item)["pred"])
    assert results[0].shape == (1, 9, 8, 6)
    np.testing.assert_allclose(results[1].affine, AFFINE, atol=1e-6)
    assert_equal(results[0].as_tensor(), results[1].as_tensor())


def test_items_stay_apart(items, tmp_path):
    unlabelled = {"image": items[0]["image"]}
    dataset = VolumeCacheDataset([*items, unlabelled], preparation(), tmp_path / "cache")
    for _ in range(2):
        found = [dataset[index] for index in range(4)]
        assert [item["image"].meta["filename_or_obj"] for item in found[:3]] == [item["image"] for item in items]
        assert [item["has_label"] for item in found] == [True, True, True, False]
        assert not found[3]["label"].any()
    assert Counting.calls == 4


def test_what_an_item_is_used_for_does_not_reach_the_cache(items, tmp_path):
    dataset = VolumeCacheDataset(items, preparation(), tmp_path / "cache")
    expected = dataset[0]["image"].as_tensor().clone()
    for _ in range(2):
        item = dataset[0]
        assert torch.equal(item["image"].as_tensor(), expected)
        item["image"] *= 0


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99, 0.99999])
def test_truncated_files_are_made_anew(items, tmp_path, keep):
    dataset = VolumeCacheDataset(items, preparation(), tmp_path / "cache")
    fresh = dataset[0]
    (path,) = (tmp_path / "cache").iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep > 1 else int(keep * len(content))])
    with pytest.warns(UserWarning, match="cannot be read .* and is made anew"):
        assert_equal(dataset[0], fresh)
    assert Counting.calls == 2
    assert_equal(dataset[0], fresh)
    assert Counting.calls == 2


def test_files_that_could_run_code_are_not_loaded(items, tmp_path):
    dataset = VolumeCacheDataset(items, preparation(), tmp_path / "cache")
    fresh = dataset[0]
    (path,) = (tmp_path / "cache").iterdir()

    class Bad:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_run"), "w"))

    for save in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        save({"item": Bad()}, path)
        with pytest.warns(UserWarning, match="made anew"):
            assert_equal(dataset[0], fresh)
    assert not (tmp_path / "was_run").exists()


def test_files_of_monais_cache_are_not_taken_for_ours(items, tmp_path):
    list(PersistentDataset(items, preparation(), tmp_path / "cache", hash_transform=pickle_hashing))
    with pytest.warns(UserWarning, match="of another format"):
        assert spacing(VolumeCacheDataset(items, preparation(), tmp_path / "cache")) == [1, 1, 1]


def spacing(dataset):
    return dataset[0]["image"].pixdim.round(decimals=6).tolist()


def test_other_transforms_do_not_use_the_cache(items, tmp_path):
    dataset = VolumeCacheDataset(items, preparation(), tmp_path / "cache")
    other = VolumeCacheDataset(items, preparation(pixdim=(2.0, 2.0, 2.0)), tmp_path / "cache")
    before = dataset[0]["image"]
    assert spacing(dataset) == [1, 1, 1]
    assert spacing(other) == [2, 2, 2]
    assert_equal(dataset[0]["image"], before)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_random_transforms_run_on_each_access(items, tmp_path):
    transform = Compose([*preparation(), RandScaleIntensityd("image", 0.9, prob=1), RandFlipd(KEYS, 0.5)])
    dataset = VolumeCacheDataset(items, transform.set_random_state(0), tmp_path / "cache")
    assert len({dataset[0]["image"].sum().item() for _ in range(5)}) == 5
    assert Counting.calls == 1
    other = Compose([*preparation(), RandScaleIntensityd("image", 0.1, prob=1)])
    VolumeCacheDataset(items, other, tmp_path / "cache")[0]
    assert Counting.calls == 1


def test_workers_share_the_cache(items, tmp_path):
    dataset = VolumeCacheDataset(items, preparation(), tmp_path / "cache")
    for _ in range(2):
        loader = DataLoader(dataset, batch_size=1, num_workers=2)
        spacings = [batch["image"].affine[0].norm(dim=0)[:3] for batch in loader]
        assert all(torch.allclose(found, torch.ones(3, dtype=torch.float64)) for found in spacings)
        assert [batch["image"].meta["filename_or_obj"][0] for batch in loader] == [item["image"] for item in items]
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert Counting.calls == 0


def test_spawned_workers_make_batches_of_their_own(items, tmp_path):
    """What they map is gone when the batch arrives."""
    transform = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), RandSpatialCropd("image", (4, 4, 4))])
    dataset = VolumeCacheDataset(items, transform, tmp_path / "cache")
    whole = [np.asarray(nibabel.load(item["image"]).dataobj, dtype=np.float32) for item in items]
    list(dataset)
    loader = DataLoader(dataset, batch_size=3, num_workers=1, multiprocessing_context="spawn")
    for batch in loader:
        for image, source in zip(batch["image"].as_tensor(), whole):
            windows = np.lib.stride_tricks.sliding_window_view(source, (4, 4, 4))
            assert (windows == image[0].numpy()).all(axis=(3, 4, 5)).any()


def mapped(folder):
    """The files of a folder that this process maps."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return {line.split()[-1] for line in lines if str(folder) in line}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not say what it maps")
def test_files_are_mapped_and_let_go(items, tmp_path):
    data = [{**items[0], "id": number} for number in range(100)]
    dataset = VolumeCacheDataset(data, [LoadImaged(KEYS), EnsureChannelFirstd(KEYS)], tmp_path / "cache")
    list(dataset)
    assert mapped(tmp_path / "cache") == set()
    opened = len(os.listdir("/proc/self/fd"))
    held = list(dataset)
    assert mapped(tmp_path / "cache") == set(map(str, (tmp_path / "cache").iterdir()))
    assert len(os.listdir("/proc/self/fd")) < opened + 10
    del held
    (batch,) = DataLoader(torch.utils.data.Subset(dataset, range(2)), batch_size=2)
    assert mapped(tmp_path / "cache") == set()
    assert torch.equal(batch["image"][0].as_tensor(), dataset[0]["image"].as_tensor())


def test_writing_into_a_volume_leaves_its_file(items, tmp_path):
    dataset = VolumeCacheDataset(items[:1], preparation(), tmp_path / "cache")
    dataset[0]
    (path,) = (tmp_path / "cache").iterdir()
    before = path.read_bytes()
    item = dataset[0]
    item["image"][:, 2:5, 3] += 1
    item["label"].zero_()
    assert path.read_bytes() == before


def test_a_volume_in_use_outlives_its_file(items, tmp_path):
    dataset = VolumeCacheDataset(items[:1], preparation(), tmp_path / "cache")
    expected = dataset[0]["image"].as_tensor().clone()
    item = dataset[0]
    (path,) = (tmp_path / "cache").iterdir()
    other = tmp_path / "other"
    other.write_bytes(bytes(path.stat().st_size // 2))
    os.replace(other, path)
    assert torch.equal(item["image"].as_tensor(), expected)
    with pytest.warns(UserWarning, match="made anew"):
        assert torch.equal(dataset[0]["image"].as_tensor(), expected)


def test_crops_by_class_need_no_whole_label(items, tmp_path):
    """Positions found beforehand: the label's other voxels are not asked."""
    chain = [
        *preparation(),
        ClassesToIndicesd("label", num_classes=3, max_samples_per_class=20),
        RandCropByLabelClassesd(
            KEYS, "label", (1, 1, 1), ratios=[0, 1, 3], num_classes=3, indices_key="label_cls_indices"
        ),
    ]
    dataset = VolumeCacheDataset(items[:1], chain, tmp_path / "cache")
    dataset.transform.set_random_state(0)
    found = [int(dataset[0][0]["label"]) for _ in range(150)]
    assert set(found) == {1, 2}
    assert 0.6 < found.count(2) / 150 < 0.9
    kept = dataset._cachecheck(items[0])["label_cls_indices"]
    assert [len(indices) for indices in kept] == [20, 20, 20]


def test_draws_are_those_of_an_uncached_data_set(items, tmp_path):
    patches = []
    for folder in (tmp_path / "cache", None):
        crop, flip = RandSpatialCropd(KEYS, (6, 5, 4), random_size=False), RandFlipd(KEYS, 0.5)
        transform = Compose([*preparation(), crop, flip, RandScaleIntensityd("image", 0.9, prob=1)])
        dataset = VolumeCacheDataset(items, transform, folder)
        transform.set_random_state(0)  # after the data set, which seeds anew when it hashes
        patches.append([dataset[index % 3] for index in range(9)])
    for cached, uncached in zip(*patches):
        for key in KEYS:
            assert torch.equal(cached[key].as_tensor(), uncached[key].as_tensor())
            assert torch.equal(cached[key].affine, uncached[key].affine)


def test_without_a_folder_nothing_is_cached(items):
    dataset = VolumeCacheDataset(items, preparation(), None)
    assert spacing(dataset) == spacing(dataset) == [1, 1, 1]
    assert Counting.calls == 2


def test_an_interrupted_write_leaves_nothing(items, tmp_path, monkeypatch):
    def half(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    dataset = VolumeCacheDataset(items, preparation(), tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(KeyboardInterrupt):
            dataset[0]
    assert list((tmp_path / "cache").iterdir()) == []
    assert spacing(dataset) == [1, 1, 1]


class Adding(Transform):
    def __init__(self, value):
        self.value = value

    def __call__(self, item):
        return {**item, "added": self.value}


VALUES = [(1, (2.5, "a")), [None, True], np.arange(6).reshape(2, 3).T, np.float32(0.5), {"a": {1: torch.ones(2)}}, b"x"]


@pytest.mark.parametrize("value", VALUES[:-1], ids=lambda value: type(value).__name__)
def test_other_entries_are_kept(tmp_path, value):
    dataset = VolumeCacheDataset([{"id": 1}], [Adding(value)], tmp_path)
    fresh, cached = dataset[0]["added"], dataset[0]["added"]
    assert_equal(fresh, cached)
    assert_equal(cached, float(value) if isinstance(value, np.generic) else value)


def test_big_endian_arrays_and_views(tmp_path):
    big = np.arange(4, dtype=">f4")
    dataset = VolumeCacheDataset([{"id": 1}], [Adding({"big": big, "view": torch.zeros(100_000)[:3]})], tmp_path)
    for item in (dataset[0], dataset[0]):
        np.testing.assert_array_equal(item["added"]["big"], big)
    assert next(tmp_path.iterdir()).stat().st_size < 10_000


def test_what_cannot_be_cached_is_named(items, tmp_path):
    with pytest.raises(TypeError, match="a bytes cannot be cached"):
        VolumeCacheDataset([{"id": 1}], [Adding(b"x")], tmp_path)[0]
    with pytest.raises(TypeError, match=r"cannot be hashed: .*functools.partial"):
        VolumeCacheDataset(items, [LoadImaged(KEYS), Lambdad(KEYS, lambda x: x)], tmp_path)
    VolumeCacheDataset(items, [LoadImaged(KEYS), Lambdad(KEYS, lambda x: x)], None)
