"""NIfTI files, whose header is checked before there is room for what it claims."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Literal

import nibabel
import numpy as np

__all__ = ["NiftiError", "NiftiHead", "NiftiVoxels", "gzip_module", "opened_nifti"]

gzip_module: Any = gzip
_Damaged: Any = (EOFError, zlib.error)
with suppress(ImportError):
    from isal import igzip, isal_zlib

    gzip_module, _Damaged = igzip, (*_Damaged, isal_zlib.error)

_KINDS = {
    348: (nibabel.Nifti1Header, (b"n+1",)),
    540: (nibabel.Nifti2Header, (b"n+2\0\r\n\x1a\n", b"n+2")),
}
_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
# Deflate cannot shrink data by more than this.
_MOST_PACKED = 1032
_BLOCK = 4096  # bytes with which a file may be filled up
_LONGEST, _LARGEST = 5_000, 4e9  # mm, mm³: no patient is so large, and the grid of a network would be
_MILLIMETRES = (0, 2)  # no units, and mm
_UNITS = {1: "metres", 3: "micrometres"}


@dataclass(frozen=True)
class NiftiHead:
    """What the header of a file says, after it was checked.

    Attributes:
        shape: of the volume, one to seven numbers above 0.
        dtype: of the stored numbers, with their order of bytes; real numbers.
        affine: to mm in RAS, 4 x 4; it can be inverted.
        slope, intercept: value = stored number * slope + intercept.
        offset: of the voxels in the file.
        header: as it is in the file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: np.ndarray
    slope: float
    intercept: float
    offset: int
    header: nibabel.Nifti1Header


class NiftiError(ValueError):
    """A file that is no NIfTI volume, or whose header makes no sense."""


class NiftiVoxels:
    """The voxels of an open file, read one behind the other."""

    def __init__(self, file: BinaryIO, head: NiftiHead) -> None:
        self.head = head
        self._file = file

    def read(self, count: int) -> np.ndarray:
        """The next stored numbers, shape (count,).

        Raises:
            OSError: the file ends before, or is damaged.
        """
        numbers = np.empty(count, dtype=self.head.dtype)
        view, done = numbers.view(np.uint8).data, 0
        try:
            while done < len(view):
                if not (more := self._file.readinto(view[done:])):  # type: ignore[attr-defined]
                    raise OSError(f"incomplete: it ends {len(view) - done} bytes before it should")
                done += more
        except _Damaged as error:
            raise OSError(f"damaged or incomplete ({error})") from None
        return numbers

    def end(self) -> None:
        """See that no more follows, and so that the checksum of a compressed file is right.

        Raises:
            OSError: the file holds more than its header says, or is damaged.
        """
        try:
            behind = len(self._file.read(_BLOCK + 1))
        except _Damaged as error:
            raise OSError(f"damaged or incomplete ({error})") from None
        if behind > _BLOCK:
            raise OSError("it holds more than its header says, of which one is damaged; save it again")


@contextmanager
def opened_nifti(path: str | os.PathLike[str]) -> Iterator[NiftiVoxels]:
    """A ``.nii`` or ``.nii.gz`` file, open at its first voxel.

    No memory is taken for voxels here, whatever the header says. The package isal decompresses, if it is installed: in
    about half the time.

    Raises:
        OSError: the file is missing or no regular one, or ends before its header does.
        NiftiError: it is no NIfTI volume of real numbers, or its header makes no sense: of voxels that the file cannot
            hold, of an affine or a spacing that is none, of lengths that are not in mm.
    """
    path = Path(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is no regular file")
    packed = path.name.lower().endswith(".gz")
    with gzip_module.open(path, "rb") if packed else open(path, "rb") as file:
        try:
            head = _head(file, os.path.getsize(path) * (_MOST_PACKED if packed else 1))
            file.seek(head.offset)
        except _Damaged as error:
            raise OSError(f"damaged or incomplete ({error})") from None
        yield NiftiVoxels(file, head)


def _head(file: BinaryIO, most_bytes: int) -> NiftiHead:
    begin = file.read(4)
    order = next((order for order in _ORDERS if int.from_bytes(begin, order) in _KINDS), None)
    if len(begin) < 4:
        raise OSError(f"incomplete: it has {len(begin)} bytes")
    if order is None:
        raise NiftiError("no NIfTI volume (its header does not begin as one)")
    size = int.from_bytes(begin, order)
    kind, magics = _KINDS[size]
    raw = begin + file.read(size - 4)
    if len(raw) < size:
        raise OSError(f"incomplete: it ends within its header, after {len(raw)} bytes")
    header = kind(raw, endianness="<" if order == "little" else ">", check=False)
    if header["magic"].item() not in magics:
        pair = " (its voxels are in another file)" if header["magic"].item()[:2] == b"ni" else ""
        raise NiftiError(f"no NIfTI volume in one file{pair}: its magic is {header['magic'].item()!r}")
    shape, dtype = _shape(header), _dtype(header)
    offset = float(header["vox_offset"])
    if not (offset.is_integer() and offset >= size + 4):
        raise NiftiError(f"its header says that the voxels begin at byte {offset:g}, within the header or nowhere")
    claimed = int(offset) + dtype.itemsize * prod(shape)
    if claimed > most_bytes:
        raise NiftiError(f"truncated: its header says {claimed} bytes, the file can hold {most_bytes}")
    slope, intercept = _scale(header)
    return NiftiHead(shape, dtype, _affine(header, shape), slope, intercept, int(offset), header)


def _dtype(header: nibabel.Nifti1Header) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except Exception:  # nibabel has its own kinds
        raise NiftiError(f"its header names an unknown type of voxels, {int(header['datatype'])}") from None
    if dtype.kind not in "iuf":
        raise NiftiError(
            f"not one value a voxel: its type is {'RGB' if dtype.fields else dtype}, expected real numbers"
        )
    return dtype


def _shape(header: nibabel.Nifti1Header) -> tuple[int, ...]:
    axes, *sizes = (int(number) for number in header["dim"])
    if not 1 <= axes <= 7 or min(sizes[:axes]) < 1:
        shown = "x".join(map(str, sizes[: max(0, axes)]))
        raise NiftiError(f"its header says {axes} axes, its shape is {shown}; expected 1 to 7, none of them below 1")
    return tuple(sizes[:axes])


def _scale(header: nibabel.Nifti1Header) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 or NaN says that there are none."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not np.isfinite([slope, intercept]).all():
        raise NiftiError(f"its values are scaled by {slope:g} and {intercept:g}, which are not finite")
    return slope, intercept


def _affine(header: nibabel.Nifti1Header, shape: tuple[int, ...]) -> np.ndarray:
    spacing = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    axes = min(len(shape), 3)
    if not (np.isfinite(spacing[:axes]) & (spacing[:axes] > 0)).all():
        raise NiftiError(f"spacing is not positive: {spacing.tolist()}")
    if (unit := int(header["xyzt_units"]) % 8) not in _MILLIMETRES:
        raise NiftiError(f"its lengths are in {_UNITS.get(unit, f'units of the unknown code {unit}')}; save it in mm")
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # as the format has it for what is neither
    try:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except nibabel.spatialimages.HeaderDataError as error:
        raise NiftiError(f"its header has no affine ({error})") from None
    except ValueError:
        quaternion = [float(header[f"quatern_{name}"]) for name in "bcd"]
        raise NiftiError(f"its header has no affine: its quaternion {quaternion} is longer than 1") from None
    if not np.isfinite(affine).all():
        raise NiftiError("affine is not finite")
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    # The volume that the axes span, whatever their lengths.
    if not lengths.all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise NiftiError(f"affine is singular: {affine[:3, :3].tolist()}")
    reach = lengths * (*shape[:3], 1, 1)[:3]
    if reach.max() > _LONGEST or reach.prod() > _LARGEST:
        raise NiftiError(f"it is {' x '.join(f'{mm / 1000:.3g}' for mm in reach)} m large: are its lengths in mm?")
    return affine
