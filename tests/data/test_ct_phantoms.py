import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import label as components

from monai_kd.data import abdomen_labels, ct_phantoms, kits_datalist, lits_datalist, make_ct_cases

ORGANS = ("kidney", "liver")
SMALL = {"size": (40, 38, 26), "spacing": (6, 6, 6)}


def test_same_seed_same_label():
    for organ in ORGANS:
        first, second, other = (abdomen_labels([seed, 0], organ=organ) for seed in (3, 3, 4))
        np.testing.assert_array_equal(first, second)
        assert (first != other).any()


@pytest.mark.parametrize(
    ("organ", "size", "spacing", "low", "high"),
    [
        ("kidney", (64, 64, 48), (5, 5, 5), 220, 420),
        ("kidney", (48, 48, 48), (4, 4, 4), 220, 420),
        ("liver", (64, 64, 48), (5, 5, 5), 1200, 2400),
        ("liver", (40, 56, 20), (6, 5, 6), 300, 600),  # no room for a whole one
    ],
)
def test_sizes_are_those_of_the_organ(organ, size, spacing, low, high):
    """Volumes in ml."""
    organs, tumours = [], []
    for seed in range(16):
        label = abdomen_labels(seed, size, spacing, organ)
        assert label.shape == size
        assert label.dtype == np.uint8
        assert set(np.unique(label)) <= {0, 1, 2}
        assert (label == 1).sum() > 0.4 * (label > 0).sum()
        organs.append((label > 0).sum() * np.prod(spacing) / 1000)
        tumours.append((label == 2).sum() * np.prod(spacing) / 1000)
    assert low < np.median(organs) < high
    assert np.std(organs) > 0.05 * np.mean(organs)
    assert 5 < np.median(tumours) < 60
    assert max(tumours) > 2 * np.median(tumours)


@pytest.mark.parametrize("organ", ORGANS)
def test_most_cases_have_one_or_two_tumours_that_touch_the_organ(organ):
    counts = []
    for seed in range(30):
        label = abdomen_labels(seed, (40, 40, 28), (7, 7, 7), organ)
        counts.append(components(label == 2)[1])
        whole, _ = components(label > 0)
        for piece in np.unique(whole[label == 2]):
            assert (label[whole == piece] == 1).any()
    assert 0.02 < np.mean(np.array(counts) == 0) < 0.3
    assert max(counts) >= 2


def test_kidneys_lie_on_both_sides_and_behind_the_middle():
    for seed in range(8):
        label = abdomen_labels(seed, (64, 64, 40), (5, 5, 5), "kidney", axcodes="LPS")
        x, y, _ = np.nonzero(label == 1)
        assert (x < 32).sum() > 300
        assert (x >= 32).sum() > 300
        assert not np.isin(x, (30, 31, 32, 33)).any()
        assert y.mean() > 32


def test_liver_lies_on_the_right():
    for seed in range(8):
        right = abdomen_labels(seed, organ="liver")[32:] > 0
        left = abdomen_labels(seed, organ="liver")[:32] > 0
        assert right.sum() > 1.5 * left.sum() > 0


@pytest.mark.parametrize("organ", ORGANS)
def test_axis_directions(organ):
    label = abdomen_labels(5, (48, 40, 36), (5, 6, 4), organ, "RAS")
    turned = abdomen_labels(5, (36, 40, 48), (4, 6, 5), organ, "IPL")
    np.testing.assert_array_equal(turned, label.transpose(2, 1, 0)[::-1, ::-1, ::-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (64, 64)}, "3D volume"),
        ({"size": (24, 24, 24)}, "120 x 120 x 120 mm"),
        ({"size": (64, 64, 16)}, "100 mm across slices"),
        ({"spacing": (5, 5, -5)}, "spacing"),
        ({"organ": "spleen"}, "kidney, liver"),
        ({"axcodes": "XYZ"}, "axcodes"),
    ],
)
def test_wrong_arguments_of_labels(change, message):
    with pytest.raises(ValueError, match=message):
        abdomen_labels(0, **change)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_kidney_folder_has_the_layout_of_kits(tmp_path):
    root = make_ct_cases(tmp_path / "kits", count=3, **SMALL, ids=[2, 7, 209])
    assert sorted(os.listdir(root)) == ["case_00002", "case_00007", "case_00209", "phantoms.json"]
    items = [item for part in kits_datalist(root).values() for item in part]
    assert len(items) == 3
    for item in items:
        image, label = nib.load(item["image"]), nib.load(item["label"])
        assert image.shape == label.shape == (26, 38, 40)
        assert nib.aff2axcodes(image.affine) == ("I", "P", "L")
        np.testing.assert_array_equal(image.affine, label.affine)
        assert image.get_data_dtype() == np.int16
        assert label.get_data_dtype() == np.uint8
        assert set(np.unique(label.dataobj)) <= {0, 1, 2}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_liver_folder_has_the_layout_of_lits(tmp_path):
    root = make_ct_cases(tmp_path / "lits", count=2, organ="liver", size=(40, 38, 26), spacing=(6, 6, 5))
    names = ["phantoms.json", "segmentation-0.nii.gz", "segmentation-1.nii.gz", "volume-0.nii.gz", "volume-1.nii.gz"]
    assert sorted(os.listdir(root)) == names
    assert sum(map(len, lits_datalist(root).values())) == 2
    image = nib.load(Path(root, "volume-1.nii.gz"))
    assert image.shape == (40, 38, 26)
    assert image.header.get_zooms() == (6, 6, 5)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in Path(root).rglob("*.nii.gz")}


def test_cases_depend_on_seed_and_number_only(tmp_path):
    first = contents(make_ct_cases(tmp_path / "a", 2, **SMALL))
    assert first == contents(make_ct_cases(tmp_path / "b", 2, **SMALL))
    assert len(set(first.values())) == 4
    one = contents(make_ct_cases(tmp_path / "c", 1, ids=[1], **SMALL))
    assert one == {name: data for name, data in first.items() if "00001" in name}
    assert not set(one.values()) & set(contents(make_ct_cases(tmp_path / "d", 1, ids=[1], seed=1, **SMALL)).values())


def test_same_generation_is_left_as_it_is(tmp_path):
    root = make_ct_cases(tmp_path / "kits", 1, **SMALL)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert make_ct_cases(root, 1, **SMALL) == root
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_anything_else_is_never_overwritten(tmp_path):
    root = make_ct_cases(tmp_path / "kits", 1, **SMALL)
    with pytest.raises(FileExistsError, match="other generated cases"):
        make_ct_cases(root, 2, **SMALL)
    Path(root, "case_00000", "imaging.nii.gz").unlink()
    with pytest.raises(FileExistsError, match="lost files"):
        make_ct_cases(root, 1, **SMALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="not generated here"):
        make_ct_cases(tmp_path / "mine", 1, **SMALL)
    assert os.listdir(tmp_path / "mine") == ["notes.txt"]


def test_empty_and_deep_folders_are_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    make_ct_cases(tmp_path / "empty", 1, **SMALL)
    make_ct_cases(tmp_path / "a" / "b", 1, **SMALL)
    assert json.loads((tmp_path / "a" / "b" / "phantoms.json").read_text(encoding="utf-8"))["ids"] == [0]


def test_nothing_is_left_when_writing_fails(tmp_path, monkeypatch):
    def fail(label, spacing, seed, *rest):
        if seed[1] == 1:
            raise KeyboardInterrupt
        return label.astype(np.int16)

    monkeypatch.setattr(ct_phantoms, "simulate_ct", fail)
    with pytest.raises(KeyboardInterrupt):
        make_ct_cases(tmp_path / "kits", 2, **SMALL)
    assert os.listdir(tmp_path) == []


def test_another_process_was_faster(tmp_path, monkeypatch):
    write = ct_phantoms._write

    def race(folder, made):
        write(folder, made)
        write(tmp_path / "kits", made)

    monkeypatch.setattr(ct_phantoms, "_write", race)
    make_ct_cases(tmp_path / "kits", 1, **SMALL)
    assert os.listdir(tmp_path) == ["kits"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "count"),
        ({"ids": [1, 2, 3]}, "as many as count"),
        ({"ids": [1, 1]}, "2 different numbers"),
        ({"ids": [0, 210]}, "0 to 209"),
        ({"organ": "liver", "ids": [0, 131]}, "0 to 130"),
        ({"organ": "lung"}, "kidney, liver"),
        ({"size": (20, 20, 20)}, "abdomen"),
        ({"spacing": (1, 1)}, "spacing"),
    ],
)
def test_wrong_arguments(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_ct_cases(tmp_path / "kits", **{"count": 2, **change})
    assert os.listdir(tmp_path) == []
