import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from monai_kd.data import check_datalist, make_polyp_frames, polyp_datalist, polyp_frame


@pytest.fixture(scope="module")
def frames():
    return [polyp_frame([5, index], (64, 80)) for index in range(150)]


def test_same_seed_same_frame():
    for first, second in zip(polyp_frame(3, (48, 64)), polyp_frame(3, (48, 64))):
        np.testing.assert_array_equal(first, second)
    assert (polyp_frame(3, (48, 64))[0] != polyp_frame(4, (48, 64))[0]).any()


def test_global_random_state_does_not_matter(ignores_the_global_state):
    assert ignores_the_global_state(lambda: polyp_frame(3, (48, 64))[0])


@pytest.mark.parametrize("size", [(32, 32), (33, 90), (160, 192), (200, 61)])
def test_any_size(size):
    image, mask = polyp_frame(0, size)
    assert image.shape == (*size, 3)
    assert mask.shape == size
    assert image.dtype == mask.dtype == np.uint8


def test_masks_are_binary_and_of_polyp_size(frames):
    shares = []
    for _, mask in frames:
        assert set(np.unique(mask)) == {0, 255}
        shares.append((mask > 0).mean())
    assert min(shares) >= 0.01
    assert max(shares) <= 0.25
    assert 0.05 < np.median(shares) < 0.15
    assert np.percentile(shares, 90) > 3 * np.percentile(shares, 10)


def test_frames_look_like_mucosa(frames):
    colours = np.array([np.median(image[image.max(-1) > 20], axis=0) for image, _ in frames])
    assert (colours[:, 0] > colours[:, 1]).all()
    assert (colours[:, 0] > colours[:, 2]).all()
    assert 100 < colours[:, 0].mean() < 220
    assert colours.std(axis=0).min() > 8


def test_polyps_differ_from_their_surroundings_but_no_threshold_finds_them(frames):
    best, contrasts = [], []
    for image, mask in frames:
        inside = mask > 0
        around = binary_dilation(inside, iterations=6) & ~inside & (image.max(-1) > 20)
        ratio = image[..., 1].astype(float) / np.maximum(image[..., 0], 1)
        contrasts.append(np.abs(image[inside].mean(0) - image[around].mean(0)).max())
        scores = []
        for values in (ratio, image[..., 0].astype(float), image[..., 1].astype(float)):
            for level in np.percentile(values, [5, 10, 20, 80, 90, 95]):
                found = values < level if level < np.median(values) else values > level
                scores.append(2 * (found & inside).sum() / (found.sum() + inside.sum()))
        best.append(max(scores))
    assert np.median(contrasts) > 10
    # Even the best of 18 thresholds, chosen for each frame with its mask at hand, does not segment it.
    assert np.mean(best) < 0.65


def test_folder_has_the_published_layout(tmp_path):
    root = make_polyp_frames(tmp_path / "frames", count=12, size=(48, 64), seed=2)
    assert sorted(os.listdir(root)) == ["images", "masks", "phantoms.json"]
    data = polyp_datalist(root)
    items = [item for split in data.values() for item in split]
    assert len(items) == 12
    report = check_datalist(items)
    assert not report.errors, str(report)
    assert not report.warnings, str(report)
    sizes = {Image.open(item["image"]).size for item in items}
    assert len(sizes) > 6
    assert all(57 <= width <= 71 and 43 <= height <= 53 for width, height in sizes)


def test_folder_is_the_same_again_and_grows_at_its_end(tmp_path):
    roots = [
        make_polyp_frames(tmp_path / name, count=count, size=(40, 40)) for name, count in [("a", 3), ("b", 3), ("c", 4)]
    ]
    for folder in ("images", "masks"):
        contents = [
            [Path(root, folder, name).read_bytes() for name in sorted(os.listdir(f"{root}/{folder}"))] for root in roots
        ]
        assert contents[0] == contents[1] == contents[2][:3]
        assert len(set(contents[2])) == 4


def test_sizes_are_equal_without_jitter(tmp_path):
    root = make_polyp_frames(tmp_path / "frames", count=3, size=(40, 44), size_jitter=0)
    assert {Image.open(f"{root}/images/{name}").size for name in os.listdir(f"{root}/images")} == {(44, 40)}


def test_same_generation_is_left_as_it_is(tmp_path):
    root = make_polyp_frames(tmp_path / "frames", count=2, size=(40, 40))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "frames").rglob("*")}
    assert make_polyp_frames(root, count=2, size=(40, 40)) == root
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "frames").rglob("*")} == before


def test_anything_else_is_never_overwritten(tmp_path):
    root = tmp_path / "frames"
    make_polyp_frames(root, count=2, size=(40, 40))
    with pytest.raises(FileExistsError, match="other generated frames"):
        make_polyp_frames(root, count=3, size=(40, 40))
    (root / "images" / "frame_00001.jpg").unlink()
    with pytest.raises(FileExistsError, match="lost or gained"):
        make_polyp_frames(root, count=2, size=(40, 40))
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="not generated here"):
        make_polyp_frames(foreign, count=2, size=(40, 40))
    assert os.listdir(foreign) == ["notes.txt"]
    with pytest.raises(FileExistsError, match="not generated here"):
        make_polyp_frames(foreign / "notes.txt", count=2, size=(40, 40))


def test_empty_and_deep_folders_are_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    make_polyp_frames(tmp_path / "empty", count=1, size=(40, 40))
    make_polyp_frames(tmp_path / "a" / "b" / "c", count=1, size=(40, 40))
    assert json.loads((tmp_path / "a" / "b" / "c" / "phantoms.json").read_text(encoding="utf-8"))["count"] == 1


def test_nothing_is_left_when_writing_fails(tmp_path, monkeypatch):
    from monai_kd.data import phantoms

    def fail(seed, size):
        if seed[1] == 1:
            raise KeyboardInterrupt
        return polyp_frame(seed, size)

    monkeypatch.setattr(phantoms, "polyp_frame", fail)
    with pytest.raises(KeyboardInterrupt):
        make_polyp_frames(tmp_path / "frames", count=3, size=(40, 40))
    assert os.listdir(tmp_path) == []


def test_another_process_was_faster(tmp_path, monkeypatch):
    from monai_kd.data import phantoms

    write = phantoms._write

    def race(folder, made):
        write(folder, made)
        write(tmp_path / "frames", made)

    monkeypatch.setattr(phantoms, "_write", race)
    make_polyp_frames(tmp_path / "frames", count=2, size=(40, 40))
    assert os.listdir(tmp_path) == ["frames"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"count": 0}, "count"),
        ({"count": 1, "size": (31, 64)}, "at least 32"),
        ({"count": 1, "size": (34, 64), "size_jitter": 0.5}, "at least 32"),
        ({"count": 1, "size_jitter": 1.0}, "size_jitter"),
    ],
)
def test_wrong_arguments(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_polyp_frames(tmp_path / "frames", **kwargs)
    assert os.listdir(tmp_path) == []


def test_a_failed_rename_is_not_swallowed(tmp_path, monkeypatch):
    def fail(self, target):
        raise PermissionError("no")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError):
        make_polyp_frames(tmp_path / "frames", count=1, size=(40, 40))
    assert os.listdir(tmp_path) == []
