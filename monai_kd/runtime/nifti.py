"""NIfTI volumes, read as they are stored and written whole."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import nibabel
import numpy as np

from monai_kd import _nifti
from monai_kd._files import save_whole

__all__ = ["StoredVolume", "read_nifti", "write_labels"]

_CODES = (1, 2, 3, 4)


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

    Memory is taken for no more than the file can hold.

    Raises:
        OSError: the file cannot be read, ends before it should, or holds more than its header says.
        ValueError: it is no NIfTI volume of real numbers with three axes, or a fourth one of channels, or its header
            makes no sense.
    """
    with _nifti.opened_nifti(path) as voxels:
        head = voxels.head
        shape = head.shape + (1,) * (3 - len(head.shape))
        while len(shape) > 4 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) > 4:
            raise ValueError(f"expected three axes, or a fourth one of channels, got shape {head.shape}")
        data = voxels.read(prod(shape)).reshape(shape, order="F")
        voxels.end()
    return StoredVolume(
        channels=tuple(data[..., i] for i in range(shape[3])) if len(shape) == 4 else (data,),
        slope=head.slope,
        intercept=head.intercept,
        affine=head.affine,
        header=head.header,
    )


def write_labels(path: Path, labels: np.ndarray, like: StoredVolume) -> None:
    """Write a label map (d0, d1, d2), uint8, whole or not at all, with the place in space of the volume it is of.

    Nothing else of the volume's header is taken over; of its two affines the one that is not in use is left out where
    its numbers give none.
    """
    image = nibabel.Nifti1Image(labels, like.affine)
    for name in ("sform", "qform"):
        code = int(like.header[f"{name}_code"])
        known = code if code in _CODES else int(code > 0)  # "scanner" for what the format does not know
        place = _place(like.header, name) if known else None
        getattr(image, f"set_{name}")(place, 0 if place is None else known)
    if int(like.header["sform_code"]) <= 0 and int(like.header["qform_code"]) <= 0:
        image.set_sform(like.affine, "aligned")
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    if path.name.lower().endswith(".gz"):
        content = _nifti.gzip_module.compress(content, compresslevel=1, mtime=0)
    save_whole(path, lambda file: file.write(content))


def _place(header: nibabel.Nifti1Header, name: str) -> np.ndarray | None:
    """The affine of a header's "sform" or "qform"; ``None`` if its numbers give none."""
    try:
        place = np.asarray(getattr(header, f"get_{name}")())
    except (ValueError, nibabel.spatialimages.HeaderDataError):  # a quaternion longer than 1
        return None
    return place if np.isfinite(place).all() else None
