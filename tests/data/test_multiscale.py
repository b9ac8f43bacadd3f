import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data.distributed import DistributedSampler

from monai_kd.data import MultiScaleDataLoader, scaled_size


def dataset(spatial=(64, 96), count=5, kind=torch.as_tensor):
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": kind(torch.rand(3, *spatial, generator=generator)),
            "label": kind((torch.rand(1, *spatial, generator=generator) > 0.5).float()),
            "index": index,
        }
        for index in range(count)
    ]


def test_published_sizes():
    assert [scaled_size(352, scale, 32) for scale in (0.75, 1, 1.25)] == [256, 352, 448]


@pytest.mark.parametrize("length", [33, 64, 100, 352, 511])
@pytest.mark.parametrize("scale", [0.01, 0.5, 0.75, 1.0, 1.25])
def test_size_is_the_nearest_multiple(length, scale):
    size = scaled_size(length, scale, 32)
    assert size >= 32
    assert size % 32 == 0
    assert abs(size - length * scale) <= 16 or size == 32


def test_every_batch_comes_once_per_scale():
    loader = MultiScaleDataLoader(dataset(), batch_size=2)
    batches = list(loader)
    assert len(batches) == len(loader) == 9
    assert [batch["index"].tolist() for batch in batches] == [[0, 1]] * 3 + [[2, 3]] * 3 + [[4]] * 3
    sizes = [tuple(batch["image"].shape[2:]) for batch in batches]
    assert sizes == [(64, 64), (64, 96), (64, 128)] * 3
    assert [tuple(batch["label"].shape[2:]) for batch in batches] == sizes
    assert len(list(loader)) == 9


def test_resizing_is_interpolation():
    data = dataset()
    small, same, large = MultiScaleDataLoader(data, scales=(0.5, 1.0, 2.0), mode=("bilinear", "nearest"), batch_size=5)
    images, labels = (torch.stack([item[key] for item in data]) for key in ("image", "label"))
    for batch, size in ((small, (32, 64)), (large, (128, 192))):
        expected = F.interpolate(images, size=size, mode="bilinear", align_corners=True)
        torch.testing.assert_close(batch["image"], expected)
        torch.testing.assert_close(batch["label"], F.interpolate(labels, size=size, mode="nearest"))
    torch.testing.assert_close(same["image"], images, rtol=0, atol=0)


def test_soft_masks_by_default():
    batch = next(iter(MultiScaleDataLoader(dataset(), batch_size=5)))
    assert 0 <= batch["label"].min() <= batch["label"].max() <= 1
    assert ((batch["label"] > 0.1) & (batch["label"] < 0.9)).any()


def test_volumes():
    loader = MultiScaleDataLoader(dataset((16, 24, 32)), scales=(0.5, 1.0), divisible=8, mode=("bilinear", "nearest"))
    small, same = list(loader)[:2]
    assert small["image"].shape == (1, 3, 8, 16, 16)
    torch.testing.assert_close(
        small["image"], F.interpolate(same["image"], size=(8, 16, 16), mode="trilinear", align_corners=True)
    )
    assert set(small["label"].unique().tolist()) == {0.0, 1.0}


def test_align_corners_off():
    data = dataset()
    batch = next(iter(MultiScaleDataLoader(data, scales=[2], align_corners=False)))
    expected = F.interpolate(data[0]["image"][None], size=(128, 192), mode="bilinear", align_corners=False)
    torch.testing.assert_close(batch["image"], expected)


def test_untouched_when_the_size_fits():
    class Keep(list):
        def __call__(self, items):
            self.append(torch.utils.data.default_collate(items))
            return self[-1]

    keep = Keep()
    for _, same, _ in zip(*[iter(MultiScaleDataLoader(dataset(), collate_fn=keep))] * 3):
        assert same["image"] is keep[-1]["image"]
        assert same["label"] is keep[-1]["label"]


def test_replacing_entries_of_one_batch_does_not_reach_the_next():
    for batch in MultiScaleDataLoader(dataset(), batch_size=5):
        assert batch["image"].ndim == 4
        batch["image"] = batch.pop("label")


def test_integer_labels():
    data = [{"image": torch.rand(3, 32, 32), "label": torch.full((1, 32, 32), 7)}]
    batch = next(iter(MultiScaleDataLoader(data, scales=[2], mode=("bilinear", "nearest"))))
    assert batch["label"].dtype == torch.int64
    assert (batch["label"] == 7).all()
    batch = next(iter(MultiScaleDataLoader(data, scales=[2])))
    assert batch["label"].dtype == torch.float32


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("spatial", [(32, 64), (32, 64, 32)])
def test_meta_tensors_keep_their_place(spatial, align_corners):
    def at_affine(x):
        affine = torch.eye(4, dtype=torch.float64)
        affine[:3, :3] = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
        affine[:3, 3] = torch.tensor([5.0, 6.0, 7.0])
        return MetaTensor(x, affine=affine, meta={"filename_or_obj": "a.nii"})

    # An image that is its own first world coordinate stays so on any grid, away from a replicated border.
    grid = torch.arange(spatial[1], dtype=torch.float32) * 2 + 5
    image = grid.reshape(1, 1, -1, *[1] * (len(spatial) - 2)).expand(1, *spatial).clone()
    data = [{"image": at_affine(image), "label": at_affine(torch.ones(1, *spatial))}] * 2
    loader = MultiScaleDataLoader(data, scales=(1.0, 2.0), batch_size=2, align_corners=align_corners)
    same, large = list(loader)
    assert isinstance(large["image"], MetaTensor)
    for batch in (same, large):
        for item in decollate_batch(batch):
            affine = item["image"].affine
            index = torch.arange(item["image"].shape[2], dtype=torch.float64)
            world = affine[0, 1] * index + affine[0, 3]
            values = item["image"][0].transpose(0, 1).flatten(1)[:, 0].double()
            torch.testing.assert_close(values[2:-2], world[2:-2], rtol=1e-4, atol=1e-3, check_dtype=False)
            assert item["image"].meta["filename_or_obj"] == "a.nii"
    assert tuple(large["image"].shape[2:]) == tuple(2 * length for length in spatial)
    torch.testing.assert_close(same["image"].affine[0], data[0]["image"].affine)


def test_nearest_meta_tensors_keep_their_place():
    data = [{"image": MetaTensor(torch.rand(1, 32, 32)), "label": MetaTensor(torch.rand(1, 32, 32))}]
    batch = next(iter(MultiScaleDataLoader(data, scales=[2], mode=("bilinear", "nearest"))))
    assert batch["label"].affine[0, 0, 3] == -0.25
    assert batch["image"].affine[0, 0, 3] == 0


def test_engines_find_a_loader():
    data = Dataset(dataset(count=6))
    sampler = DistributedSampler(data, num_replicas=2, rank=0, seed=0)
    loader = MultiScaleDataLoader(data, sampler=sampler, batch_size=1)
    assert isinstance(loader, (DataLoader, TorchDataLoader))
    assert loader.sampler is sampler
    seen = []
    engine = Engine(lambda _, batch: seen.append(tuple(batch["image"].shape[2:])))
    state = engine.run(loader, max_epochs=2)
    assert state.epoch_length == len(loader) == 9
    assert seen == [(64, 64), (64, 96), (64, 128)] * 6


@pytest.mark.parametrize("persistent", [False, True])
def test_workers(persistent):
    loader = MultiScaleDataLoader(dataset(), batch_size=2, num_workers=2, persistent_workers=persistent)
    for _ in range(2):
        assert [batch["index"].tolist() for batch in loader] == [[0, 1]] * 3 + [[2, 3]] * 3 + [[4]] * 3


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"scales": ()}, "scales"),
        ({"scales": (1, 0)}, "scales"),
        ({"divisible": 0}, "divisible"),
        ({"mode": ("bilinear",)}, "1 for keys"),
        ({"mode": "cubic"}, "cubic"),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleDataLoader(dataset(), **kwargs)


def test_missing_keys():
    with pytest.raises(KeyError, match="no \\['mask'\\] in the batch"):
        next(iter(MultiScaleDataLoader(dataset(), keys=("image", "mask"))))


def test_one_key():
    batch = next(iter(MultiScaleDataLoader(dataset(), scales=[2], keys="image")))
    assert batch["image"].shape[2:] == (128, 192)
    assert batch["label"].shape[2:] == (64, 96)
