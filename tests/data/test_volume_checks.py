import gzip
import os
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_kd.data import DataError, check_volumes, decathlon_datalist

SHAPE = (9, 8, 7)
AFFINE = np.array([[-0.8, 0, 0, 100], [0, 0.8, 0, -50], [0, 0, 3.0, 7], [0, 0, 0, 1]])


def ct(shape=SHAPE):
    return np.random.default_rng(0).integers(-1000, 400, shape, dtype=np.int16)


def labels(shape=SHAPE):
    found = np.zeros(shape, dtype=np.uint8)
    found[2:6, 2:6, 2:6] = 1
    found[3:5, 3:5, 3:5] = 2
    return found


class Folder:
    """Writes volumes and keeps their items."""

    def __init__(self, path):
        self.path = path
        self.items = []

    def save(self, name, voxels, affine=AFFINE, dtype=None):
        path = self.path / name
        nibabel.save(nibabel.Nifti1Image(voxels, affine, dtype=dtype), path)
        return str(path)

    def add(self, image=None, label=None, suffix=".nii.gz", affine=AFFINE, label_affine=AFFINE):
        name = str(len(self.items))
        item = {
            "image": self.save(f"{name}{suffix}", ct() if image is None else image, affine),
            "label": self.save(f"{name}_seg{suffix}", labels() if label is None else label, label_affine),
        }
        self.items.append(item)
        return item

    def errors(self, **kwargs):
        return [(case.index, case.problem) for case in check_volumes(self.items, **kwargs).errors]


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def cut(path, keep=0.5):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(keep * len(content))])


def patch_header(path, **fields):
    """Write header fields as they are, where nibabel would mend them."""
    content = bytearray(Path(path).read_bytes())
    header = np.frombuffer(content, dtype=nibabel.Nifti1Header.template_dtype, count=1)
    for name, value in fields.items():
        header[name] = value
    Path(path).write_bytes(content)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_good_items_pass(folder, suffix):
    folder.add(suffix=suffix)
    folder.add(ct().astype(np.float32), labels().astype(np.float64), suffix=suffix)
    folder.add(label_affine=AFFINE + 1e-5, suffix=suffix)
    folder.items.append({"image": folder.save(f"unlabelled{suffix}", ct()), "label": None})
    report = check_volumes(folder.items)
    assert (report.errors, report.warnings) == ([], [])
    assert (report.items, report.labelled) == (4, 3)
    report.raise_if_bad()


def test_every_bad_case_is_in_one_report(folder):
    spoiled = ct().astype(np.float32)
    spoiled[1, 2, 3], spoiled[4, 5, 6] = np.nan, np.inf
    other = labels()
    other[0, 0, :2] = 7, 9
    singular = AFFINE.copy()
    singular[:3, 0] = singular[:3, 1]
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])

    folder.add(label=labels((8, 8, 7)))
    folder.add(label_affine=AFFINE @ np.diag([-1, 1, 1, 1]))
    folder.add(image=spoiled)
    folder.add(label=other)
    folder.add(label=labels() * 0.5)
    folder.add(image=ct((9, 8, 7, 2)))
    folder.add(image=colours)
    folder.add(affine=singular)
    patch_header(folder.add(suffix=".nii")["label"], srow_x=np.nan)
    folder.items.append(dict(folder.add()))
    folder.items.append({"image": str(folder.path / "gone.nii"), "label": folder.items[0]["label"]})
    folder.items.append({"label": folder.save("orphan.nii", labels())})
    (folder.path / "text.nii.gz").write_text("not a volume")
    folder.items.append({"image": str(folder.path / "text.nii.gz")})
    folder.items.append({"image": 3})

    report = check_volumes(folder.items)
    assert [(case.index, case.problem.split(":")[0].split(" (")[0]) for case in report.errors] == [
        (0, "label is 8x8x7, its image is 9x8x7"),
        (1, "label lies up to 12.8 mm from its image"),
        (2, "2 voxels are not finite"),
        (3, "label values that are not expected"),
        (4, "label values that are not expected"),
        (5, "not 3D"),
        (6, "not one value a voxel"),
        (7, "affine is singular"),
        (8, "affine is not finite"),
        (10, "image already listed in item 9"),
        (10, "label already listed in item 9"),
        (11, "label already listed in item 0"),
        (11, "no such file"),
        (12, "no 'image' in the item"),
        (13, "cannot be read"),
        (14, "expected a path, got int"),
    ]
    problems = [case.problem for case in report.errors]
    assert problems[3].endswith("7, 9 (expected 0, 1, 2)")
    assert problems[4].endswith("0.5 (expected 0, 1, 2)")
    assert problems[5].endswith("9x8x7x2")
    with pytest.raises(DataError):
        report.raise_if_bad()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("keep", [0, 0.3, 0.95])
@pytest.mark.parametrize("key", ["image", "label"])
def test_truncated_files_are_found(folder, suffix, keep, key):
    cut(folder.add(suffix=suffix)[key], keep)
    ((index, problem),) = folder.errors()
    assert index == 0
    assert problem.startswith(("truncated", "cannot be read"))


def test_a_changed_byte_is_found(folder):
    """Compressed data has a checksum at its end, which a reader that stops after the last voxel never sees."""
    path = Path(folder.add()["image"])
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    ((_, problem),) = folder.errors()
    assert "CRC" in problem


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_headers_that_promise_too_much_do_not_cost_memory(folder, suffix):
    path = Path(folder.save("huge.nii", ct()))
    patch_header(path, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    if suffix == ".nii.gz":
        path.with_suffix(suffix).write_bytes(gzip.compress(path.read_bytes()))
    folder.items.append({"image": str(path.with_suffix(suffix))})
    tracemalloc.start()
    ((_, problem),) = folder.errors()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problem.startswith("truncated: its header says 54000000000352 bytes")
    assert peak < 1e6


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_must_be_positive(folder, size):
    item = folder.add(suffix=".nii")
    patch_header(item["image"], dim=[3, 9, 8, size, 1, 1, 1, 1])
    ((_, problem),) = folder.errors()
    assert problem.startswith(f"its header says 3 axes, its shape is 9x8x{size};")


@pytest.mark.parametrize("spacing", [0, -1, np.nan, np.inf])
def test_spacing_must_be_positive(folder, spacing):
    item = folder.add(suffix=".nii")
    patch_header(item["image"], pixdim=[1, 0.8, spacing, 3, 1, 1, 1, 1])
    ((index, problem),) = folder.errors()
    assert index == 0
    assert problem.startswith(("spacing is not positive", "affine is", "cannot be read"))


def test_the_tolerance_is_in_mm_at_the_worst_corner(folder):
    moved, turned = AFFINE.copy(), AFFINE.copy()
    moved[1, 3] += 0.5
    turned[2, 2] *= 1.1  # 0.3 mm a slice, 6 slices
    folder.add(label_affine=moved)
    folder.add(label_affine=turned)
    assert [index for index, _ in folder.errors(tolerance=0.4)] == [0, 1]
    assert folder.errors(tolerance=0.6) == [(1, "label lies up to 1.8 mm from its image")]
    assert folder.errors(tolerance=1.9) == []


def test_labels_without_tumour_are_counted_and_named(folder):
    folder.add()
    folder.add(label=labels() % 2)
    folder.add(label=labels() * 0)
    folder.add(label=labels() % 2)
    report = check_volumes(folder.items)
    assert not report.errors
    assert [(case.index, case.problem) for case in report.warnings] == [
        (1, "no tumour: value 2 does not occur, as in 2 of 4 labels"),
        (2, "empty label"),
        (3, "no tumour: value 2 does not occur, as in 2 of 4 labels"),
    ]
    assert report.warnings[0].path == folder.items[1]["label"]
    assert len(check_volumes(folder.items, tumour_value=None).warnings) == 1


@pytest.mark.parametrize("image", [ct() // 10, ct() + np.int16(1024), (ct() + 1000) / np.float32(1400)])
def test_images_without_air_are_warned_of(folder, image):
    folder.add()
    folder.add(image=image)
    report = check_volumes(folder.items)
    assert not report.errors
    assert [(case.index, case.problem.split(":")[0]) for case in report.warnings] == [(1, "no air")]
    assert not check_volumes(folder.items, hounsfield=False).warnings


def test_scaled_images_are_read_in_hu(folder):
    """Stored from 0, with the header's intercept from -1024."""
    item = folder.add(image=(ct() + np.int16(1024)), suffix=".nii")
    patch_header(item["image"], scl_slope=1, scl_inter=-1024)
    report = check_volumes(folder.items)
    assert (report.errors, report.warnings) == ([], [])


def test_memory_does_not_grow_with_the_volume(folder, monkeypatch):
    """The volume takes 16 MB, or 32 MB as nibabel's usual float64."""
    voxels = np.zeros((200, 200, 100), dtype=np.float32)
    folder.items.append({"image": folder.save("large.nii.gz", voxels - 300)})
    monkeypatch.setattr("monai_kd.data.volume_checks._CHUNK", 100_000)
    tracemalloc.start()
    report = check_volumes(folder.items)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (report.errors, report.warnings) == ([], [])
    assert peak < 4e6


def test_several_chunks_are_as_one(folder, monkeypatch):
    spoiled = labels()
    spoiled[0, 0, -1] = 9
    folder.add(label=spoiled)
    low = np.zeros(SHAPE, dtype=np.int16)
    low[0, 0, -1] = -500
    folder.add(image=low)
    expected = str(check_volumes(folder.items))
    monkeypatch.setattr("monai_kd.data.volume_checks._CHUNK", 1)
    assert str(check_volumes(folder.items)) == expected
    assert "not expected: 9" in expected
    assert "no air" not in expected


def test_other_keys_and_values(folder):
    folder.add(label=labels() * 3)
    items = [{"scan": item["image"], "organs": item["label"]} for item in folder.items]
    report = check_volumes(items, (0, 3, 6), tumour_value=6, image_key="scan", label_key="organs")
    assert (report.errors, report.warnings, report.labelled) == ([], [], 1)


def test_other_formats_are_refused(folder):
    folder.save("pair.img", ct())
    folder.items.append({"image": str(folder.path / "pair.img")})
    assert folder.errors() == [(0, "expected a .nii or .nii.gz file, got 'pair.img'")]


def test_progress_is_shown_when_asked_for(folder, capfd):
    folder.add()
    check_volumes(folder.items)
    assert "checking" not in capfd.readouterr().err
    check_volumes(folder.items, progress=True)
    assert "checking" in capfd.readouterr().err


def test_wrong_arguments():
    with pytest.raises(ValueError, match="tumour_value 2 is none of label_values"):
        check_volumes([], label_values=(0, 1))
    with pytest.raises(ValueError, match="tolerance must be 0 or more mm, got nan"):
        check_volumes([], tolerance=float("nan"))


@pytest.fixture
def data():
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("set MONAI_KD_DATA to the folder that holds msd_hippocampus and ct_small")
    return Path(os.environ["MONAI_KD_DATA"])


def test_hippocampus_is_sound(data):
    items = decathlon_datalist(data / "msd_hippocampus")["training"]
    report = check_volumes(items, hounsfield=False)
    assert (report.items, report.labelled, report.errors, report.warnings) == (148, 148, [], [])


def test_real_ct_is_sound(data):
    item = {
        key: str(data / "ct_small" / f"example_{name}.nii.gz") for key, name in [("image", "ct_sm"), ("label", "seg")]
    }
    report = check_volumes([item], label_values=range(118), tumour_value=5)
    assert (report.errors, report.warnings) == ([], [])
    assert "not expected: 3, 4, 5" in str(check_volumes([item]))
