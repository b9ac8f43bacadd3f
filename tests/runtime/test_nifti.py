from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest

from monai_kd import _nifti
from monai_kd.runtime.nifti import read_nifti, write_labels

AFFINE = np.array([[0, 0, -0.7, 5], [0, -0.7, 0, 6], [-3.0, 0, 0, 7], [0, 0, 0, 1]])
DATA = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)


@pytest.fixture(autouse=True, params=["isal", "zlib"])
def decompressor(request, monkeypatch):
    """All of it holds with the package and without it."""
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setattr(_nifti, "gzip_module", gzip)


def values(stored):
    return np.stack([channel * stored.slope + stored.intercept for channel in stored.channels], axis=-1)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 1), (5, 6, 7, 1, 1)])
def test_reads_what_nibabel_reads(tmp_path, name, kind, shape):
    nibabel.save(kind(DATA.reshape(shape), AFFINE), tmp_path / name)
    stored = read_nifti(tmp_path / name)
    np.testing.assert_array_equal(values(stored)[..., 0], DATA)
    np.testing.assert_array_equal(stored.affine, nibabel.load(tmp_path / name).affine)


def test_scaling_byte_order_and_channels(tmp_path):
    image = nibabel.Nifti1Image(np.stack([DATA, DATA // 2], axis=-1).astype(">i2"), AFFINE)
    image.header.set_slope_inter(0.5, -10)
    nibabel.save(image, tmp_path / "a.nii.gz")
    stored = read_nifti(tmp_path / "a.nii.gz")
    assert len(stored.channels) == 2
    np.testing.assert_allclose(values(stored), nibabel.load(tmp_path / "a.nii.gz").get_fdata())


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (2, 1), (0, 0)])
def test_labels_lie_where_the_volume_lies(tmp_path, sform, qform):
    image = nibabel.Nifti1Image(DATA, AFFINE)
    image.set_sform(AFFINE, sform)
    image.set_qform(AFFINE, qform)
    image.header["descrip"] = b"JOHN DOE"
    nibabel.save(image, tmp_path / "a.nii.gz")
    write_labels(tmp_path / "b.nii.gz", (DATA > 0).astype(np.uint8), read_nifti(tmp_path / "a.nii.gz"))
    made = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(made.affine, nibabel.load(tmp_path / "a.nii.gz").affine, atol=1e-5)
    assert made.get_data_dtype() == np.uint8
    assert bytes(made.header["descrip"]).strip(b"\0") != b"JOHN DOE"
    np.testing.assert_array_equal(np.asarray(made.dataobj), DATA > 0)


LONGER = {"quatern_b": 1 + 3.5e-7, "quatern_c": 0, "quatern_d": 0}  # than 1, as rounding leaves it


def with_quaternion(path, numbers, sform):
    image = nibabel.Nifti1Image(DATA, AFFINE)
    image.set_sform(AFFINE, sform)
    image.set_qform(AFFINE, 1)
    content = image.to_bytes()
    header = nibabel.Nifti1Header(content[:348], check=False)
    for name, number in numbers.items():
        header[name] = number
    path.write_bytes(header.binaryblock + content[348:])
    return path


@pytest.mark.parametrize("numbers", [LONGER, {"quatern_b": np.nan}, {"qoffset_x": np.inf}])
def test_a_quaternion_that_is_none_does_not_matter_beside_an_affine(tmp_path, numbers):
    """And is not handed on."""
    stored = read_nifti(with_quaternion(tmp_path / "a.nii", numbers, sform=1))
    np.testing.assert_array_equal(stored.affine, nibabel.load(tmp_path / "a.nii").affine)
    write_labels(tmp_path / "b.nii", (DATA > 0).astype(np.uint8), stored)
    made = nibabel.load(tmp_path / "b.nii")
    np.testing.assert_allclose(made.affine, AFFINE, atol=1e-5)
    assert (int(made.header["sform_code"]), int(made.header["qform_code"])) == (1, 0)
    assert np.isfinite(made.get_qform()).all()


def test_a_quaternion_longer_than_1_gives_no_affine(tmp_path):
    path = with_quaternion(tmp_path / "a.nii", LONGER, sform=0)
    with pytest.raises(
        _nifti.NiftiError, match=r"no affine: its quaternion \[1.0000003.*, 0.0, 0.0\] is longer than 1"
    ):
        read_nifti(path)


@pytest.mark.parametrize("cut", [4, 200, 360, -3])
@pytest.mark.parametrize("packed", [True, False])
def test_damaged_files_are_refused(tmp_path, cut, packed):
    nibabel.save(nibabel.Nifti1Image(DATA, AFFINE), tmp_path / "a.nii.gz")
    raw = (tmp_path / "a.nii.gz").read_bytes()
    raw = raw[:cut] if packed else gzip.compress(gzip.decompress(raw)[:cut])
    (tmp_path / "a.nii.gz").write_bytes(raw)
    with pytest.raises((OSError, ValueError)):
        read_nifti(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("where", [20, 300, -6])
def test_a_changed_byte_is_noticed(tmp_path, where):
    raw = bytearray(gzip.compress(nibabel.Nifti1Image(DATA, AFFINE).to_bytes()))
    raw[where] ^= 255
    (tmp_path / "a.nii.gz").write_bytes(raw)
    with pytest.raises(OSError, match=r"CRC|damaged"):
        read_nifti(tmp_path / "a.nii.gz")


def test_reads_what_was_compressed_in_parts(tmp_path):
    raw = nibabel.Nifti1Image(DATA, AFFINE).to_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]))
    np.testing.assert_array_equal(values(read_nifti(tmp_path / "a.nii.gz"))[..., 0], DATA)


def test_what_is_no_volume_is_refused(tmp_path):
    (tmp_path / "a.nii").write_text("a note")
    with pytest.raises(ValueError, match="no NIfTI volume"):
        read_nifti(tmp_path / "a.nii")
    colours = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, AFFINE), tmp_path / "b.nii")
    with pytest.raises(ValueError, match="real numbers"):
        read_nifti(tmp_path / "b.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2, 2), np.int16), AFFINE), tmp_path / "c.nii")
    with pytest.raises(ValueError, match="three axes"):
        read_nifti(tmp_path / "c.nii")
