import mmap

import pytest
import torch
from monai.data import MetaTensor

from monai_kd.data import _prefetch
from monai_kd.data._prefetch import prefetch

SHAPE = (2, 40, 50, 60)


@pytest.fixture
def announced(monkeypatch):
    """What the system is told: where and how many bytes."""
    calls = []
    monkeypatch.setattr(_prefetch, "_advise", lambda: lambda start, size, _: calls.append((start, size)))
    return calls


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [{"image": x}], lambda x: (MetaTensor(x), "x", 1)])
@pytest.mark.parametrize(
    "part", [(0, slice(3, 9), slice(20, 30), slice(7, 60)), (slice(None), 4, 5), (slice(None), slice(39, 40))]
)
def test_a_view_is_announced_and_little_else(announced, wrap, part):
    volume = torch.zeros(SHAPE)
    view = volume[tuple(slice(one, one + 1) if isinstance(one, int) else one for one in part)]
    prefetch(wrap(view))
    places = torch.arange(volume.numel()).reshape(SHAPE).as_strided(view.shape, view.stride(), view.storage_offset())
    first, last = (
        volume.data_ptr() + 4 * places[..., 0].flatten(),
        volume.data_ptr() + 4 * places[..., -1].flatten() + 4,
    )
    starts, sizes = torch.tensor(announced).T
    assert (starts % mmap.PAGESIZE == 0).all()
    inside = (starts[:, None] <= first) & (starts[:, None] + sizes[:, None] >= last)
    assert inside.any(dim=0).all()
    stripe = 4 * 60 * view.shape[2]
    assert len(announced) == view.shape[0] * view.shape[1]
    assert (sizes <= stripe + mmap.PAGESIZE).all()


@pytest.mark.parametrize(
    "item", [torch.zeros(SHAPE), torch.zeros(SHAPE)[:1, :4], torch.zeros(4, 4).T, {"a": [None, "b"]}]
)
def test_what_is_no_view_of_more_is_left_alone(announced, item):
    prefetch(item)
    assert announced == []


def test_nothing_changes():
    volume = torch.rand(SHAPE)
    view = volume[:, 3:7, 10:20, 5:9]
    expected = view.clone()
    prefetch({"image": view})
    assert torch.equal(view, expected)


def test_systems_without_it(monkeypatch):
    monkeypatch.delattr(mmap, "MADV_WILLNEED", raising=False)
    _prefetch._advise.cache_clear()
    prefetch(torch.zeros(SHAPE)[:, 3:7, 10:20, 5:9])
    assert _prefetch._advise() is None
    _prefetch._advise.cache_clear()
