import os
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from monai.transforms import LoadImaged

from monai_kd.data import volume_datalist

TAGS = {"study": "0020|000d", "series": "0020|000e"}


def write_series(folder, slices=3, series="1", suffix=".dcm"):
    """A CT series of small slices, as a scanner numbers them."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index in range(slices):
        image = SimpleITK.GetImageFromArray(np.full((4, 5), 10 * index, dtype=np.int16))
        position = f"0\\0\\{2 * index}"
        for tag, value in {
            "0008|0060": "CT",
            "0008|0021": "20200101",
            "0008|0018": f"1.2.826.0.1.{series}.{index + 1}",
            TAGS["study"]: "1.2.826.0.1.9",
            TAGS["series"]: f"1.2.826.0.1.{series}",
            "0020|0013": str(index),
            "0020|0032": position,
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }.items():
            image.SetMetaData(tag, value)
        path = folder / f"{series}_{index}.dcm"
        writer.SetFileName(str(path))
        writer.Execute(image)
        path.rename(path.with_suffix(suffix))


def paths(root):
    return [os.path.relpath(item["image"], root) for item in volume_datalist(root)]


def test_volumes_come_sorted_and_nothing_else_does(tmp_path):
    for name in ("b.nii.gz", "a.nii", "c.NRRD", "d.mha", "notes.txt", "._b.nii.gz", ".hidden.nii", "e.gz"):
        (tmp_path / name).touch()
    (tmp_path / "f.nii").mkdir()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "g.nii").touch()
    assert volume_datalist(tmp_path) == [
        {"image": str(tmp_path / name)} for name in ("a.nii", "b.nii.gz", "c.NRRD", "d.mha")
    ]


@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_each_folder_with_dicom_files_is_one_volume(tmp_path, suffix):
    write_series(tmp_path / "one" / "study" / "series1", suffix=suffix)
    write_series(tmp_path / "one" / "study" / "series2", series="2", suffix=suffix)
    write_series(tmp_path / ".trash" / "series3", suffix=suffix)
    (tmp_path / "one" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "one" / "short").write_bytes(b"x")
    (tmp_path / "case.nii").touch()
    assert paths(tmp_path) == ["case.nii", "one/study/series1", "one/study/series2"]
    assert LoadImaged("image")(volume_datalist(tmp_path)[1])["image"].shape == (5, 4, 3)


def test_one_volume_may_be_given(tmp_path):
    write_series(tmp_path / "series")
    assert volume_datalist(tmp_path / "series") == [{"image": str(tmp_path / "series")}]
    (tmp_path / "a.nii.gz").touch()
    for path in (tmp_path / "a.nii.gz", tmp_path / "series" / "1_0.dcm"):
        assert volume_datalist(str(path)) == [{"image": str(path)}]
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="is no volume; expected"):
        volume_datalist(tmp_path / "a.txt")


@pytest.mark.parametrize(("first", "second"), [("x.nii", "x.nii.gz"), ("x.mha", "x.nii.gz")])
def test_volumes_that_would_share_a_result_are_refused(tmp_path, first, second):
    for name in (first, second, "y.nii"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=re.escape(f"name used twice: {tmp_path / first} and {tmp_path / second}")):
        volume_datalist(tmp_path)


def test_series_that_would_share_a_result_are_refused(tmp_path):
    """MONAI takes what follows the last dot for an extension."""
    write_series(tmp_path / "1.2.3", slices=1)
    write_series(tmp_path / "1.2.4", slices=1)
    with pytest.raises(ValueError, match="name used twice"):
        volume_datalist(tmp_path)


def test_several_series_in_a_folder_are_refused(tmp_path):
    write_series(tmp_path / "mixed")
    write_series(tmp_path / "mixed", series="2")
    with pytest.raises(ValueError, match=r"2 DICOM series in one folder: .*mixed"):
        volume_datalist(tmp_path)


def test_a_folder_without_volumes_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no volume in .*expected .nii, .nii.gz, .nrrd, .mha files"):
        volume_datalist(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        volume_datalist(tmp_path / "missing")


def test_a_real_series():
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("set MONAI_KD_DATA to the folder that holds ct_small")
    root = Path(os.environ["MONAI_KD_DATA"]) / "ct_small"
    assert "dicom" in paths(root)
    (series,) = volume_datalist(root / "dicom")
    assert LoadImaged("image")(series)["image"].shape[2] == 20
