import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from monai_kd.data import (
    BRAIN_MRI_CLASSES,
    brain_slice,
    brain_slices,
    make_brain_mri_images,
    near_duplicate_groups,
)

SIZE = 64
GLIOMA, MENINGIOMA, NONE, PITUITARY = range(4)


@pytest.fixture(scope="module")
def slices():
    """(classes, heads, height, width) in [0, 1]; classes 0 to 2 are drawn into the same heads."""
    return np.stack([[brain_slice(kind, SIZE, [7, head]) for head in range(40)] for kind in range(4)]) / 255.0


@pytest.fixture
def blank(monkeypatch):
    """Folders of many slices in no time."""
    monkeypatch.setattr(brain_slices, "brain_slice", lambda *_: np.zeros((32, 32), np.uint8))


def around():
    down, right = np.mgrid[:SIZE, :SIZE] * 2 / (SIZE - 1) - 1
    return np.hypot(down, right)


def test_same_arguments_same_slice_others_another():
    np.testing.assert_array_equal(brain_slice(0, SIZE, 3, view=1), brain_slice(0, (SIZE, SIZE), [3], view=1))
    first = brain_slice(0, SIZE, 3)
    for other in (brain_slice(1, SIZE, 3), brain_slice(0, SIZE, 4), brain_slice(0, SIZE, 3, view=1)):
        assert (first != other).mean() > 0.02


def test_global_random_state_does_not_matter(ignores_the_global_state):
    assert ignores_the_global_state(lambda: brain_slice(1, SIZE, 3))


@pytest.mark.parametrize("size", [(32, 32), (33, 90), (150, 61)])
def test_any_size(size):
    for kind in range(4):
        image = brain_slice(kind, size, 1)
        assert image.shape == size
        assert image.dtype == np.uint8
        assert image.std() > 15


def test_a_head_in_the_dark(slices):
    assert np.median(slices[:, :, around() > 1.2]) < 0.08
    assert (slices[:, :, around() < 0.7].mean(-1) > 0.15).all()


def test_what_lies_outside_of_the_tumour_is_the_same(slices):
    for kind in (GLIOMA, MENINGIOMA):
        same = (slices[kind] == slices[NONE]).mean(axis=(1, 2))
        assert same.min() > 0.3
        assert (same < 0.995).mean() > 0.9


def added(slices, kind):
    """Smoothed difference to the same head without tumour, (heads, height, width)."""
    return gaussian_filter(slices[kind] - slices[NONE], (0, 1.5, 1.5))


def test_tumours_lie_where_they_belong(slices):
    glioma, meningioma = (np.abs(added(slices, kind)) for kind in (GLIOMA, MENINGIOMA))
    away = [np.array([around().flat[found.argmax()] for found in kind]) for kind in (glioma, meningioma)]
    assert np.median(away[0]) < 0.55 < np.median(away[1])
    middle = slices[PITUITARY][:, (around() < 0.15)].max(1) - np.median(slices[PITUITARY], axis=(1, 2))
    plain = slices[NONE][:, (around() < 0.15)].max(1) - np.median(slices[NONE], axis=(1, 2))
    assert np.median(middle) > np.median(plain)


def test_meningiomas_are_bright(slices):
    assert (added(slices, MENINGIOMA).max(axis=(1, 2)) > 0.04).mean() > 0.8


def test_classes_can_be_learnt_but_not_all_of_them():
    labels = np.arange(480) % 4
    pictures = np.stack([brain_slice(kind, 32, [8, head]) for head, kind in enumerate(labels)]) / 255.0
    flat = gaussian_filter(pictures, (0, 1, 1)).reshape(480, -1)
    flat = (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True)
    model = KNeighborsClassifier(9).fit(flat[:360], labels[:360])
    assert 0.3 < balanced_accuracy_score(labels[360:], model.predict(flat[360:])) < 0.8


def test_views_are_near_duplicates_and_heads_are_not(tmp_path):
    paths = [tmp_path / f"{head:02d}-{view}.png" for head in range(20) for view in (0, 1)]
    for path in paths:
        head, view = map(int, path.stem.split("-"))
        Image.fromarray(brain_slice(head % 4, 96, head, view)).save(path)
    groups = [Path(group).stem for group in near_duplicate_groups(paths)]
    assert groups == [f"{head:02d}-0" for head in range(20) for _ in (0, 1)]


def test_folder_has_the_published_layout(tmp_path):
    root = Path(make_brain_mri_images(tmp_path / "slices", count=60, size=(40, 48), seed=2))
    assert sorted(os.listdir(root)) == ["Testing", "Training", "phantoms.json"]
    for part in ("Training", "Testing"):
        assert tuple(sorted(os.listdir(root / part))) == BRAIN_MRI_CLASSES
    paths = sorted(root.rglob("*.jpg"))
    assert len({path.name for path in paths}) == len(paths) == 60
    assert {Image.open(path).size for path in paths} == {(48, 40)}
    assert {path.name[:6] for path in paths} == {
        f"{part}-{name[:2]}_" for part in ("Tr", "Te") for name in BRAIN_MRI_CLASSES
    }


def test_parts_and_classes_have_their_shares(tmp_path, blank):
    root = Path(make_brain_mri_images(tmp_path / "slices", 800, 32))
    counts = Counter(path.parent.relative_to(root).as_posix() for path in root.rglob("*.jpg"))
    assert all(count == pytest.approx(160 if "Training" in name else 40, abs=15) for name, count in counts.items())


def test_every_folder_has_images_at_the_least_count(tmp_path, blank):
    for seed in range(5):
        root = Path(make_brain_mri_images(tmp_path / str(seed), 40, 32, seed))
        assert len({path.parent for path in root.rglob("*.jpg")}) == 8


def test_same_generation_is_left_as_it_is_and_anything_else_is_never_overwritten(tmp_path):
    root = make_brain_mri_images(tmp_path / "slices", 40, 32)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert make_brain_mri_images(root, 40, (32, 32)) == root
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(FileExistsError, match="other generated slices"):
        make_brain_mri_images(root, 41, 32)
    next(Path(root).rglob("*.jpg")).unlink()
    with pytest.raises(FileExistsError, match="lost or gained"):
        make_brain_mri_images(root, 40, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"count": 39}, "count must be 40 or more"), ({"size": 31}, "at least 32"), ({"size": (40,)}, "40")],
)
def test_wrong_arguments(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_brain_mri_images(tmp_path / "slices", **{"count": 40, **change})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", [-1, 4])
def test_no_such_class(kind):
    with pytest.raises(ValueError, match=f"0 to 3 .*pituitary.*got {kind}"):
        brain_slice(kind, SIZE)
