"""NIfTI volumes, read as they are stored and written whole."""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from monai_kd._files import save_whole

__all__ = ["StoredVolume", "read_nifti", "write_labels"]

_gzip: Any = gzip
_Damaged: Any = zlib.error
with suppress(ImportError):
    from isal import igzip, isal_zlib

    _gzip, _Damaged = igzip, isal_zlib.error

_NIFTI2 = 540  # the size of its header, its first number


@dataclass(frozen=True)
class StoredVolume:
    """A volume as its file has it.

    Attributes:
        channels: the stored numbers, one array (d0, d1, d2) a channel, of the file's type.
        slope, intercept: value = stored number * slope + intercept.
        affine: to mm in RAS, 4 x 4.
        header: of the file.
    """

    channels: tuple[np.ndarray, ...]
    slope: float
    intercept: float
    affine: np.ndarray
    header: nibabel.Nifti1Header


def read_nifti(path: Path) -> StoredVolume:
    """A volume from ``.nii`` or ``.nii.gz``, without a copy of another type.

    The package isal decompresses, if it is installed: in about half the time.

    Raises:
        OSError: the file cannot be read, or ends before it should.
        ValueError: it is no NIfTI volume of real numbers with three axes, or a fourth one of channels.
    """
    raw = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        try:
            raw = _gzip.decompress(raw)
        except (EOFError, _Damaged) as error:
            raise OSError(f"damaged or incomplete ({error})") from None
    first = {int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big")}
    kind = nibabel.Nifti2Image if _NIFTI2 in first else nibabel.Nifti1Image
    try:
        image = kind.from_bytes(raw)
    except Exception as error:  # nibabel has many kinds
        raise ValueError(f"no NIfTI volume ({error})") from None
    header, shape = image.header, image.shape
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise ValueError(f"expected a volume of real numbers, got {dtype}")
    shape = shape + (1,) * (3 - len(shape))
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 4 or prod(shape) == 0:
        raise ValueError(f"expected three axes, or a fourth one of channels, got shape {image.shape}")
    proxy: Any = image.dataobj  # knows what the header of an image that was read has forgotten
    offset = proxy.offset
    if len(raw) < offset + prod(shape) * dtype.itemsize:
        raise OSError(f"incomplete: shape {shape} of {dtype} needs more than its {len(raw)} bytes")
    data = np.frombuffer(raw, dtype, prod(shape), offset).reshape(shape, order="F")
    return StoredVolume(
        channels=tuple(data[..., i] for i in range(shape[3])) if len(shape) == 4 else (data,),
        slope=float(proxy.slope),
        intercept=float(proxy.inter),
        affine=image.affine,
        header=header,
    )


def write_labels(path: Path, labels: np.ndarray, like: StoredVolume) -> None:
    """Write a label map (d0, d1, d2), uint8, whole or not at all, with the place in space of the volume it is of.

    Nothing else of the volume's header is taken over.
    """
    image = nibabel.Nifti1Image(labels, like.affine)
    for name, affine in (("sform", like.header.get_sform()), ("qform", like.header.get_qform())):
        code = int(like.header[f"{name}_code"])
        getattr(image, f"set_{name}")(affine if code else None, code)
    if not int(like.header["sform_code"]) and not int(like.header["qform_code"]):
        image.set_sform(like.affine, "aligned")
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    if path.name.lower().endswith(".gz"):
        content = _gzip.compress(content, compresslevel=1, mtime=0)
    save_whole(path, lambda file: file.write(content))
