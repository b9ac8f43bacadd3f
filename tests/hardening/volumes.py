"""NIfTI files that are broken, and such that are only odd."""

from __future__ import annotations

import bz2
import gzip
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from .inputs import Input, cut, file_of, flipped, no_file

SHAPE = (12, 10, 8)
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2.0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])
CHECKS = ("check_volumes", "monai-kd check")
PREDICTIONS = ("predict a file", "predict a folder", "monai-kd predict")
EVERY = CHECKS + PREDICTIONS
LONGER = (1 + 3.5e-7, 0, 0)  # a quaternion, as rounding leaves it

# Where a header of NIfTI-1 has what, and how.
FIELDS = {
    "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"), "pixdim": (76, "8f"),
    "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "B"),
    "qform_code": (252, "h"),
    "sform_code": (254, "h"), "quatern": (256, "3f"), "qoffset": (268, "3f"), "srow_x": (280, "4f"),
    "srow_y": (296, "4f"), "srow_z": (312, "4f"), "magic": (344, "4s"),
}  # fmt: skip


def values(seed: int = 0, shape: tuple[int, ...] = SHAPE, dtype: Any = np.int16) -> np.ndarray:
    """Voxels of both signs, with air."""
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(dtype)


def plain(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A volume without anything odd: values and affine."""
    return values(seed), AFFINE


def stored(
    voxels: np.ndarray | None = None, affine: np.ndarray = AFFINE, kind: Any = nibabel.Nifti1Image, **fields: Any
) -> bytes:
    """A file ``.nii`` with the header's fields changed afterwards."""
    image = kind(values() if voxels is None else voxels, affine)
    return changed(image.to_bytes(), **fields)


def changed(content: bytes, **fields: Any) -> bytes:
    """The file with fields of its header changed."""
    edited = bytearray(content)
    for name, value in fields.items():
        place, form = FIELDS[name]
        several = value if isinstance(value, tuple) else (value,)
        struct.pack_into(f"<{form}", edited, place, *several)
    return bytes(edited)


def packed(content: bytes) -> bytes:
    """The file as ``.nii.gz``."""
    return gzip.compress(content, mtime=0)


def inputs() -> Iterator[Input]:
    """All of them."""
    yield from _files()
    yield from _headers()
    yield from _odd()
    for name, write in no_file("a.nii").items():
        yield Input("volume", name, write)


def _files() -> Iterator[Input]:
    content = stored()
    broken: dict[tuple[str, str], Any] = {}
    places = [0, 1, 4, 100, 300, 347, 348, 351, 352, 353, len(content) // 4, len(content) // 2, -100, -2, -1]
    broken |= {("a.nii", f".nii {name}"): one for name, one in cut(content, places).items()}
    zipped = packed(content)
    places = [
        0,
        1,
        2,
        9,
        10,
        11,
        100,
        200,
        len(zipped) // 4,
        len(zipped) // 2,
        len(zipped) * 3 // 4,
        -30,
        -9,
        -8,
        -5,
        -1,
    ]
    broken |= {("a.nii.gz", f".nii.gz {name}"): one for name, one in cut(zipped, places).items()}
    for what, place in {
        "its first byte": 0, "its second byte": 1, "the method": 2, "the flags": 3, "the first block": 10,
        "a tenth": len(zipped) // 10, "a third": len(zipped) // 3, "the middle": len(zipped) // 2,
        "nine tenths": len(zipped) * 9 // 10, "its checksum": len(zipped) - 6, "its length": len(zipped) - 3,
    }.items():  # fmt: skip
        broken["a.nii.gz", f".nii.gz with a flipped bit: {what}"] = flipped(zipped, place, bit=1)
    png = b"\x89PNG\r\n\x1a\n" + bytes(500)
    for name, what, one in (
        ("a.nii.gz", ".nii.gz packed twice", packed(zipped)),
        ("a.nii.gz", ".nii.gz of a text", packed(b"not a volume\n" * 100)),
        ("a.nii.gz", ".nii.gz of nothing", packed(b"")),
        ("a.nii.gz", ".nii.gz of zeros", packed(bytes(5000))),
        ("a.nii.gz", ".nii.gz with the rest of another behind it", zipped + zipped[100:]),
        ("a.nii.gz", "a bzip2 file named .nii.gz", bz2.compress(content)),
        ("a.nii.gz", "a .nii file named .nii.gz", content),
        ("a.nii", "a .nii.gz file named .nii", zipped),
        ("a.nii", "a text named .nii", b"not a volume\n" * 100),
        ("a.nii", "zeros named .nii", bytes(5000)),
        ("a.nii", "ones named .nii", b"\xff" * 5000),
        ("a.nii", "noise named .nii", np.random.default_rng(0).bytes(5000)),
        ("a.nii", "a PNG named .nii", png),
        ("a.nii", "a ZIP archive named .nii", b"PK\x03\x04" + bytes(500)),
        ("a.nii", "DICOM named .nii", bytes(128) + b"DICM" + bytes(400)),
        ("a.nii", "MGH named .nii", nibabel.MGHImage(values(dtype=np.float32), AFFINE).to_bytes()),
        ("a.nii", "a list of items named .nii", b'[{"image": "a.nii"}]' + bytes(400)),
        (
            "a.nii.gz",
            ".nii.gz of 300 MB when unpacked, of which its header knows 2 kB",
            lambda: packed(content + bytes(300_000_000)),
        ),
        ("a.nii", ".nii with 1 MB behind its voxels", content + bytes(1_000_000)),
        ("a.nii.gz", ".nii.gz with 1 MB behind its voxels", packed(content + bytes(1_000_000))),
    ):
        broken[name, what] = one
    for (name, what), one in broken.items():
        yield Input("volume", what, file_of(one, name))


def _headers() -> Iterator[Input]:
    nan, inf = float("nan"), float("inf")
    huge = 32767
    odd: dict[str, dict[str, Any]] = {
        "a header of 0 bytes": {"sizeof_hdr": 0},
        "a header of 347 bytes": {"sizeof_hdr": 347},
        "a header of -1 bytes": {"sizeof_hdr": -1},
        "a header of NIfTI-2's size": {"sizeof_hdr": 540},
        "no magic": {"magic": b"\0\0\0\0"},
        "the magic of a pair of files": {"magic": b"ni1\0"},
        "the magic of NIfTI-3": {"magic": b"n+3\0"},
        "an unknown magic": {"magic": b"abcd"},
        "no type": {"datatype": 0},
        "bits as its type": {"datatype": 1},
        "complex numbers": {"datatype": 32, "bitpix": 64},
        "complex numbers of 256 bits": {"datatype": 2048, "bitpix": 256},
        "colours": {"datatype": 128, "bitpix": 24},
        "colours with alpha": {"datatype": 2304, "bitpix": 32},
        "an unknown type": {"datatype": 9999},
        "a negative type": {"datatype": -4},
        "a type larger than its voxels": {"datatype": 64, "bitpix": 64},
        "no axis": {"dim": (0, *SHAPE, 1, 1, 1, 1)},
        "-1 axes": {"dim": (-1, *SHAPE, 1, 1, 1, 1)},
        "8 axes": {"dim": (8, *SHAPE, 1, 1, 1, 1)},
        f"{huge} axes": {"dim": (huge, *SHAPE, 1, 1, 1, 1)},
        "an axis of 0": {"dim": (3, 12, 0, 8, 1, 1, 1, 1)},
        "axes of 0": {"dim": (3, 0, 0, 0, 1, 1, 1, 1)},
        "a negative axis": {"dim": (3, 12, -10, 8, 1, 1, 1, 1)},
        "two negative axes": {"dim": (3, -12, -10, 8, 1, 1, 1, 1)},
        "a slice more than it has": {"dim": (3, 12, 10, 9, 1, 1, 1, 1)},
        "32,767 slices": {"dim": (3, 12, 10, huge, 1, 1, 1, 1)},
        "70 terabytes": {"dim": (3, huge, huge, huge, 1, 1, 1, 1)},
        "70 terabytes of doubles": {"dim": (3, huge, huge, huge, 1, 1, 1, 1), "datatype": 64, "bitpix": 64},
        "more bytes than 64 bits can count": {"dim": (7, huge, huge, huge, huge, huge, huge, huge)},
        "4 gigabytes": {"dim": (3, 2048, 1024, 1024, 1, 1, 1, 1)},
        "5 volumes that it does not have": {"dim": (4, 12, 10, 8, 5, 1, 1, 1)},
        "voxels at a negative place": {"vox_offset": -352.0},
        "voxels far behind its end": {"vox_offset": 1e9},
        "voxels at NaN": {"vox_offset": nan},
        "voxels at infinity": {"vox_offset": inf},
        "voxels within the header": {"vox_offset": 100.0},
        "a slope of infinity": {"scl_slope": inf},
        "an intercept of infinity": {"scl_slope": 1.0, "scl_inter": inf},
        "a slope that makes numbers overflow": {"scl_slope": 3e38},
        "a type of quadruple precision": {"datatype": 1536, "bitpix": 128},
        "voxels at half a byte": {"vox_offset": 352.5},
        "voxels at 0": {"vox_offset": 0.0},
        "lengths in micrometres": {"xyzt_units": 3},
        "lengths in metres": {"xyzt_units": 1},
        "lengths in unknown units": {"xyzt_units": 7},
        "voxels of a kilometre": {"srow_x": (1e6, 0, 0, 0), "srow_y": (0, 1e6, 0, 0), "srow_z": (0, 0, 1e6, 0)},
        "voxels of 400 mm": {"srow_x": (400, 0, 0, 0), "srow_y": (0, 400, 0, 0), "srow_z": (0, 0, 400, 0)},
        "voxels of a metre": {"srow_x": (1e3, 0, 0, 0), "srow_y": (0, 1e3, 0, 0), "srow_z": (0, 0, 1e3, 0)},
        "a spacing of NaN": {"pixdim": (1, nan, 2, 3, 1, 1, 1, 1)},
        "a spacing of infinity": {"pixdim": (1, inf, 2, 3, 1, 1, 1, 1)},
        "a spacing of 0": {"pixdim": (1, 0, 2, 3, 1, 1, 1, 1)},
        "a negative spacing": {"pixdim": (1, -2, 2, 3, 1, 1, 1, 1)},
        "spacings of 0": {"pixdim": (1, 0, 0, 0, 1, 1, 1, 1)},
        "an affine of NaN": {"srow_x": (nan, nan, nan, nan)},
        "an affine with one NaN": {"srow_y": (0, nan, 0, -20)},
        "an affine of infinity": {"srow_x": (inf, 0, 0, 0)},
        "an affine beyond all measure": {"srow_x": (1e38, 0, 0, 0), "srow_y": (0, 1e38, 0, 0)},
        "an affine of zeros": {"srow_x": (0, 0, 0, 0), "srow_y": (0, 0, 0, 0), "srow_z": (0, 0, 0, 0)},
        "an affine with a row of zeros": {"srow_z": (0, 0, 0, 0)},
        "an affine with two equal axes": {"srow_x": (2, 2, 0, 0), "srow_y": (0, 0, 0, 0)},
        "an origin of NaN": {"srow_x": (-2, 0, 0, nan)},
        "an affine from a quaternion of NaN": {"sform_code": 0, "qform_code": 1, "quatern": (nan, 0, 0)},
        "an affine from a quaternion longer than 1": {"sform_code": 0, "qform_code": 1, "quatern": (1, 1, 1)},
        "an affine from a quaternion hardly longer than 1": {"sform_code": 0, "qform_code": 1, "quatern": LONGER},
        "an affine from an offset of NaN": {"sform_code": 0, "qform_code": 1, "qoffset": (nan, 0, 0)},
        "an affine from a negative spacing": {"sform_code": 0, "qform_code": 1, "pixdim": (1, -2, 2, 3, 1, 1, 1, 1)},
        "no affine and spacings of 0": {"sform_code": 0, "qform_code": 0, "pixdim": (1, 0, 0, 0, 1, 1, 1, 1)},
        "no affine and spacings of NaN": {"sform_code": 0, "qform_code": 0, "pixdim": (1, nan, nan, nan, 1, 1, 1, 1)},
    }  # fmt: skip
    for what, fields in odd.items():
        yield Input("volume", f".nii with {what}", file_of(stored(**fields), "a.nii"))
    for what in (
        "an unknown magic", "complex numbers", "colours", "8 axes", "an axis of 0", "a negative axis",
        "a slice more than it has", "70 terabytes", "70 terabytes of doubles", "4 gigabytes",
        "more bytes than 64 bits can count", "voxels far behind its end", "voxels at NaN", "an affine of NaN",
        "an affine of zeros", "spacings of 0", "a slope of infinity",
    ):  # fmt: skip
        yield Input("volume", f".nii.gz with {what}", file_of(packed(stored(**odd[what])), "a.nii.gz"))

    big = bytearray(stored(kind=nibabel.Nifti2Image))
    struct.pack_into("<8q", big, 16, 3, 2**40, 2**40, 2**40, 1, 1, 1, 1)
    yield Input("volume", "NIfTI-2 of 2**121 bytes", file_of(bytes(big), "a.nii"))
    struct.pack_into("<8q", big, 16, 3, 2**40, 1, 1, 1, 1, 1, 1)
    yield Input("volume", "NIfTI-2 with an axis of 2**40", file_of(bytes(big), "a.nii"))
    yield Input("volume", "NIfTI-2 with an axis of 2**40, packed", file_of(packed(bytes(big)), "a.nii.gz"))
    struct.pack_into("<8q", big, 16, 3, 2**63 - 1, 2**63 - 1, 2, 1, 1, 1, 1)
    yield Input("volume", "NIfTI-2 with axes of 2**63 - 1", file_of(bytes(big), "a.nii"))
    yield Input("volume", "NIfTI-2 without its magic", file_of(bytes(big[:4]) + bytes(8) + bytes(big[12:]), "a.nii"))

    for what, voxels in {
        "a voxel of NaN": _with(nan),
        "a voxel of infinity": _with(inf),
        "voxels of NaN alone": np.full(SHAPE, nan, dtype=np.float32),
        "voxels of 1e308": np.full(SHAPE, 1e308),
        "a voxel of NaN in doubles": _with(nan).astype(np.float64),
        "5 axes": values(shape=(*SHAPE, 2, 3)),
        "3 channels": values(shape=(*SHAPE, 3)),
    }.items():
        yield Input("volume", f".nii with {what}", file_of(stored(voxels), "a.nii"))
    fine = np.diag([150.0, 150.0, 150.0, 1.0])  # 4 m³ of voxels of 2 mm are no more than the network may have
    yield Input("volume", ".nii with voxels of 150 mm", file_of(stored(affine=fine), "a.nii"), handled=EVERY,
                truth=_holding(values(), fine), only=CHECKS)  # fmt: skip
    sheared = AFFINE.copy()
    sheared[0, 1] = 1.0
    yield Input(
        "volume", ".nii with axes that are not at right angles", file_of(stored(affine=sheared), "a.nii"),
        handled=CHECKS,
    )  # fmt: skip
    far = bytearray(stored())
    far[348:352] = b"\1\0\0\0"
    for what, size in (("of no length", 0), ("of a negative length", -16), ("of 2 GB by its length", 2**31 - 16)):
        extended = bytes(far)[:352] + struct.pack("<ii", size, 6) + bytes(8) + bytes(far[352:])
        yield Input("volume", f".nii with an extension {what}", file_of(changed(extended, vox_offset=368.0), "a.nii"),
                    handled=EVERY, truth=lambda path: plain())  # fmt: skip


def _with(value: float) -> np.ndarray:
    voxels = values(dtype=np.float32)
    voxels[6, 5, 4] = value
    return voxels


def _odd() -> Iterator[Input]:
    """Valid ones, with the values and the affine that they hold."""
    content, affine = stored(), AFFINE
    swapped = nibabel.Nifti1Image(values(), AFFINE).header.as_byteswapped(">")
    big_end = nibabel.Nifti1Image(values(), AFFINE, swapped).to_bytes()
    big_end_2 = nibabel.Nifti2Image(values(), AFFINE, nibabel.Nifti2Header().as_byteswapped(">")).to_bytes()
    extended = nibabel.Nifti1Image(values(), AFFINE)
    extended.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"made by hand"))
    from_spacing = np.diag([2.0, 2.0, 3.0, 1.0])
    from_spacing[:3, 3] = [-11.0, -9.0, -10.5]
    turned = np.array([[0, -2.0, 0, 10], [2.0, 0, 0, 3], [0, 0, 3.0, 5], [0, 0, 0, 1]])
    other = nibabel.Nifti1Image(values(), AFFINE)
    other.set_sform(AFFINE, 2)
    other.set_qform(turned, 1)
    quatern = nibabel.Nifti1Image(values(), AFFINE)
    quatern.set_sform(None, 0)
    quatern.set_qform(AFFINE, 1)
    one = values(shape=(1, 1, 1))
    doubles = values(dtype=np.float64)
    found: dict[str, tuple[str, bytes, np.ndarray, np.ndarray]] = {
        ".nii with swapped bytes": ("a.nii", big_end, values(), affine),
        ".nii.gz with swapped bytes": ("a.nii.gz", packed(big_end), values(), affine),
        "NIfTI-2": ("a.nii", stored(kind=nibabel.Nifti2Image), values(), affine),
        "NIfTI-2, packed": ("a.nii.gz", packed(stored(kind=nibabel.Nifti2Image)), values(), affine),
        "NIfTI-2 with swapped bytes": ("a.nii", big_end_2, values(), affine),
        ".nii with an extension": ("a.nii", extended.to_bytes(), values(), affine),
        ".nii with 100 bytes behind its voxels": ("a.nii", content + b"behind" * 16 + b"...!", values(), affine),
        ".nii.gz with 100 bytes behind its voxels": ("a.nii.gz", packed(content + bytes(100)), values(), affine),
        ".nii.gz in two parts": ("a.nii.gz", packed(content[:1000]) + packed(content[1000:]), values(), affine),
        ".nii.gz with zeros behind it": ("a.nii.gz", packed(content) + bytes(512), values(), affine),
        ".nii.gz that is not shrunk": ("a.nii.gz", gzip.compress(content, compresslevel=0), values(), affine),
        ".nii named in capitals": ("A.NII", content, values(), affine),
        ".nii.gz named in capitals": ("A.NII.GZ", packed(content), values(), affine),
        ".nii with dots in its name": ("a.b.nii.c.nii", content, values(), affine),
        ".nii with signs in its name": ("ä ö=ü,'#.nii", content, values(), affine),
        ".nii with a name that is no text": (os.fsdecode(b"a\xff\xfe.nii"), content, values(), affine),
        ".nii with a slope of 0": ("a.nii", stored(scl_slope=0.0), values(), affine),
        ".nii with a slope of NaN": ("a.nii", stored(scl_slope=float("nan")), values(), affine),
        ".nii with a slope of 0 and an intercept": ("a.nii", stored(scl_slope=0.0, scl_inter=5.0), values(), affine),
        ".nii with a slope and an intercept": (
            "a.nii", stored(scl_slope=0.5, scl_inter=-100.0), (values() * 0.5 - 100).astype(np.float32), affine
        ),
        ".nii with a negative slope": ("a.nii", stored(scl_slope=-1.0, scl_inter=0.0), -values(), affine),
        ".nii with other bits than its type": ("a.nii", stored(bitpix=8), values(), affine),
        ".nii with a first spacing of 0": ("a.nii", stored(pixdim=(0, 2, 2, 3, 1, 1, 1, 1)), values(), affine),
        ".nii with a first spacing of 5": ("a.nii", stored(pixdim=(5, 2, 2, 3, 1, 1, 1, 1)), values(), affine),
        ".nii with other spacings than its affine": (
            "a.nii", stored(pixdim=(1, 9, 9, 9, 1, 1, 1, 1)), values(), affine
        ),
        ".nii without an affine": (
            "a.nii", stored(sform_code=0, qform_code=0, pixdim=(1, 2, 2, 3, 1, 1, 1, 1)), values(), None
        ),
        ".nii with unknown codes of its affines": ("a.nii", stored(sform_code=99, qform_code=99), values(), affine),
        ".nii whose two affines disagree": ("a.nii", other.to_bytes(), values(), affine),
        ".nii with a quaternion alone": ("a.nii", quatern.to_bytes(), values(), affine),
        ".nii with turned axes": ("a.nii", stored(affine=turned), values(), turned),
        ".nii of one voxel": ("a.nii", stored(one - 1000), one - 1000, affine),
        ".nii of one slice": ("a.nii", stored(values(shape=(12, 10, 1))), values(shape=(12, 10, 1)), affine),
        ".nii of one row": ("a.nii", stored(values(shape=(12, 1, 1))), values(shape=(12, 1, 1)), affine),
        ".nii of one value": ("a.nii", stored(np.full(SHAPE, -500, np.int16)), np.full(SHAPE, -500, np.int16), affine),
        ".nii of doubles": ("a.nii", stored(doubles), doubles.astype(np.float32), affine),
        ".nii of 8 bits": ("a.nii", stored(values(dtype=np.int8)), values(dtype=np.int8).astype(np.int16), affine),
        ".nii of 32 bits": ("a.nii", stored(values(dtype=np.int32)), values(), affine),
        ".nii of 64 bits": ("a.nii", nibabel.Nifti1Image(values(dtype=np.int64), AFFINE, dtype=np.int64).to_bytes(),
                            values(), affine),
        ".nii with an unused quaternion longer than 1": (
            "a.nii", stored(quatern=(1, 1, 1), qform_code=0), values(), affine
        ),
        ".nii with a quaternion longer than 1 beside its affine": (
            "a.nii", stored(quatern=(1, 1, 1), qform_code=1), values(), affine
        ),
        ".nii with a quaternion hardly longer than 1 beside its affine": (
            "a.nii", stored(quatern=LONGER, qform_code=1), values(), affine
        ),
        ".nii with a quaternion of NaN beside its affine": (
            "a.nii", stored(quatern=(float("nan"), 0, 0), qform_code=1), values(), affine
        ),
        ".nii with a quaternion alone and a first spacing of 0": (
            "a.nii", changed(quatern.to_bytes(), pixdim=(0, 2, 2, 3, 1, 1, 1, 1)), values(), None
        ),
    }  # fmt: skip
    for what, (name, file, voxels, place) in found.items():
        yield Input("volume", what, file_of(file, name), handled=EVERY, truth=_holding(voxels, place))
    # Of four axes or two, which a network may take as channels and slices; a check of single volumes does not.
    for what, voxels, truth in (
        (".nii with a fourth axis of 1", values(shape=(*SHAPE, 1)), values()),
        (".nii with two axes", values(shape=(12, 10)), values(shape=(12, 10)).reshape(12, 10, 1)),
        (".nii with seven axes, four of 1", values(shape=(*SHAPE, 1, 1, 1, 1)), values()),
    ):
        yield Input(
            "volume", what, file_of(stored(voxels), "a.nii"), handled=PREDICTIONS, truth=_holding(truth, AFFINE)
        )


def _holding(voxels: np.ndarray, affine: np.ndarray | None) -> Any:
    def truth(path: Path) -> tuple[np.ndarray, np.ndarray]:
        return voxels, nibabel.load(path).affine if affine is None else affine

    return truth
