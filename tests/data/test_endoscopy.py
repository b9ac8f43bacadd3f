import os
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score

from monai_kd.data import (
    KVASIR_V2_CLASSES,
    endoscopy,
    endoscopy_frame,
    kvasir_v2_datalist,
    make_endoscopy_images,
    near_duplicate_groups,
    scope_overlay_box,
)

SIZE = 48
LIFTED, MARGINS, ESOPHAGITIS, CECUM, PYLORUS, Z_LINE, POLYPS, COLITIS = range(8)
COLON = (LIFTED, MARGINS, CECUM, POLYPS, COLITIS)


@pytest.fixture(scope="module")
def frames():
    """(classes, scenes, height, width, 3), uint8; every class is painted on the same scenes."""
    return np.stack([[endoscopy_frame(kind, SIZE, [7, scene]) for scene in range(30)] for kind in range(8)])


@pytest.fixture
def blank(monkeypatch):
    """Folders of many frames in no time."""
    monkeypatch.setattr(endoscopy, "endoscopy_frame", lambda *_: np.zeros((32, 32, 3), np.uint8))


def has_overlay(frame):
    return scope_overlay_box(frame.transpose(2, 0, 1)) is not None


def test_same_arguments_same_frame_others_another():
    np.testing.assert_array_equal(endoscopy_frame(4, SIZE, 3, view=1), endoscopy_frame(4, (SIZE, SIZE), [3], view=1))
    first = endoscopy_frame(4, SIZE, 3)
    for other in (endoscopy_frame(5, SIZE, 3), endoscopy_frame(4, SIZE, 4), endoscopy_frame(4, SIZE, 3, view=1)):
        assert (first != other).mean() > 0.02


def test_global_random_state_does_not_matter(ignores_the_global_state):
    assert ignores_the_global_state(lambda: endoscopy_frame(1, SIZE, 3))


@pytest.mark.parametrize("size", [(32, 32), (33, 90), (150, 61)])
def test_any_size(size):
    for kind in range(8):
        image = endoscopy_frame(kind, size, 1)
        assert image.shape == (*size, 3)
        assert image.dtype == np.uint8
        assert image.std() > 10


def test_dyed_classes_are_blue_and_others_are_not(frames):
    """Dye leaves less red than green; in the middle, away from the overlay, which is green."""
    middle = frames[:, :, 6:32, 16:42].astype(float) + 1
    green = np.percentile(middle[..., 1] / middle[..., 0], 98, axis=(2, 3))
    for kind in (LIFTED, MARGINS):
        assert (green[kind] > green[POLYPS] + 0.05).mean() > 0.75
        assert (green[kind] > 1).mean() > 0.3
        assert green[kind].min() < 0.8  # some hardly dyed
    assert green[2:].max() < 1


def test_colitis_is_redder_than_polyps_of_the_same_scene(frames):
    middle = frames[:, :, 8:40, 8:40].reshape(8, 30, -1, 3).astype(float) + 1
    red = np.median(middle[..., 0] / middle[..., 1], axis=2)
    assert (red[COLITIS] > red[POLYPS]).mean() > 0.9


def test_a_z_line_is_paler_outside_than_inside(frames):
    down, right = np.mgrid[:SIZE, :SIZE] * 2 / (SIZE - 1) - 1
    away = np.hypot(down, right)
    green = (frames[..., 1].astype(float) + 1) / (frames[..., 0] + 1.0)
    inside, outside = (np.median(green[..., where], axis=2) for where in (away < 0.3, (away > 0.75) & (away < 0.9)))
    for kind in (Z_LINE, ESOPHAGITIS):
        assert (outside[kind] > inside[kind]).mean() > 0.8


def test_esophagitis_is_a_z_line_with_red_breaks(frames):
    breaks, line = (frames[kind].astype(float) + 1 for kind in (ESOPHAGITIS, Z_LINE))
    changed = np.abs(breaks - line).max(-1) > 20
    assert np.median(changed.mean(axis=(1, 2))) < 0.25
    assert (changed.mean(axis=(1, 2)) > 0.003).mean() > 0.8
    redder = (breaks[..., 0] / breaks[..., 1])[changed] > (line[..., 0] / line[..., 1])[changed]
    assert redder.mean() > 0.7


def test_the_pylorus_has_a_small_dark_hole(frames):
    """Darker than the same place in the same scene without it."""
    ratio = (frames[PYLORUS].max(-1) + 5.0) / (frames[POLYPS].max(-1) + 5.0)
    hole = (ratio < 0.5).mean(axis=(1, 2))
    assert ((hole > 0.002) & (hole < 0.2)).mean() > 0.75


def test_some_frames_of_the_colon_have_the_overlay(frames):
    shares = [np.mean([has_overlay(frame) for frame in kind]) for kind in frames]
    assert all(0.15 < share < 0.55 for kind, share in enumerate(shares) if kind in COLON)
    assert all(share == 0 for kind, share in enumerate(shares) if kind not in COLON)


def features(frames):
    """Colours in three rings and how much they vary."""
    down, right = np.mgrid[:SIZE, :SIZE] * 2 / (SIZE - 1) - 1
    away = np.hypot(down, right)
    pixels = frames / 255.0
    pixels = np.concatenate([pixels, pixels[..., 1:] / (pixels[..., :1] + 0.05)], axis=-1)
    found = []
    for low, high in ((0, 0.3), (0.3, 0.55), (0.55, 0.8)):
        ring = pixels[:, (away >= low) & (away < high)]
        found += [np.median(ring, axis=1), ring.std(axis=1)]
    return np.concatenate(found, axis=1)


def test_classes_can_be_learnt_but_not_all_of_them():
    labels = np.arange(400) % 8
    pictures = np.stack([endoscopy_frame(kind, SIZE, [8, scene]) for scene, kind in enumerate(labels)])
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    model.fit(features(pictures[:240]), labels[:240])
    score = balanced_accuracy_score(labels[240:], model.predict(features(pictures[240:])))
    assert 0.35 < score < 0.8


def test_views_are_near_duplicates_and_scenes_are_not(tmp_path):
    paths = [tmp_path / f"{scene}-{view}.png" for scene in range(16) for view in (0, 1)]
    for path in paths:
        scene, view = map(int, path.stem.split("-"))
        Image.fromarray(endoscopy_frame(scene % 8, 96, scene, view)).save(path)
    groups = [Path(group).stem for group in near_duplicate_groups(paths)]
    assert groups == [f"{scene}-0" for scene in range(16) for _ in (0, 1)]


def test_folder_has_the_published_layout(tmp_path):
    root = make_endoscopy_images(tmp_path / "frames", count=24, size=(40, 48), seed=2)
    assert sorted(os.listdir(root)) == sorted([*KVASIR_V2_CLASSES, "phantoms.json"])
    paths = sorted(Path(root).rglob("*.jpg"))
    assert sorted(path.name for path in paths) == [f"frame_{number:05d}.jpg" for number in range(24)]
    assert {Image.open(path).size for path in paths} == {(48, 40)}
    data = kvasir_v2_datalist(root, folds=2)
    assert sum(len(items) for items in data.values()) == 24


def test_frames_are_those_of_their_class(tmp_path):
    root = make_endoscopy_images(tmp_path / "frames", count=16, size=32, seed=5)
    for number, (scene, kind, view) in enumerate(islice(endoscopy.scenes(8, 0.125, 5), 16)):
        found = np.asarray(Image.open(f"{root}/{KVASIR_V2_CLASSES[kind]}/frame_{number:05d}.jpg")).astype(float)
        assert np.abs(found - endoscopy_frame(kind, 32, [5, scene], view)).mean() < 10  # JPEG


def test_classes_are_balanced_and_some_scenes_come_twice(tmp_path, blank):
    root = Path(make_endoscopy_images(tmp_path / "frames", 800, 32))
    counts = Counter(path.parent.name for path in root.rglob("*.jpg"))
    assert min(counts.values()) > 85
    scenes = endoscopy.scenes(8, 0.125, 0)
    views = Counter(next(scenes)[0] for _ in range(800))
    assert set(views.values()) == {1, 2}
    assert 60 < sum(count == 2 for count in views.values()) < 120


def test_every_class_has_images_at_the_least_count(tmp_path, blank):
    for seed in range(5):
        root = Path(make_endoscopy_images(tmp_path / str(seed), 16, 32, seed))
        assert len({path.parent for path in root.rglob("*.jpg")}) == 8


def test_a_larger_set_starts_with_a_smaller_one(tmp_path):
    small = Path(make_endoscopy_images(tmp_path / "small", 16, 32))
    large = Path(make_endoscopy_images(tmp_path / "large", 20, 32))
    for path in small.rglob("*.jpg"):
        assert path.read_bytes() == (large / path.relative_to(small)).read_bytes()


def test_same_generation_is_left_as_it_is_and_anything_else_is_never_overwritten(tmp_path):
    root = make_endoscopy_images(tmp_path / "frames", 16, 32)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert make_endoscopy_images(root, 16, (32, 32)) == root
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(FileExistsError, match="other generated frames"):
        make_endoscopy_images(root, 17, 32)
    next(Path(root).rglob("*.jpg")).unlink()
    with pytest.raises(FileExistsError, match="lost or gained"):
        make_endoscopy_images(root, 16, 32)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="not generated here"):
        make_endoscopy_images(tmp_path / "mine", 16, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"count": 15}, "count must be 16 or more"), ({"size": 31}, "at least 32"), ({"size": (40, 31)}, "31")],
)
def test_wrong_arguments(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_endoscopy_images(tmp_path / "frames", **{"count": 16, **change})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", [-1, 8])
def test_no_such_class(kind):
    with pytest.raises(ValueError, match=f"0 to 7 .*polyps.*got {kind}"):
        endoscopy_frame(kind, SIZE)
