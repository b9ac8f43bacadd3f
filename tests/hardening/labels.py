"""Masks and label maps that are broken or do not fit their image, and such that are only odd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

from . import pictures, volumes
from .inputs import Input, cut, file_of, no_file

PICTURES = ("check_datalist", "monai-kd check")
VOLUMES = ("check_volumes", "monai-kd check")


def ring() -> np.ndarray:
    """A mask of 0 and 1, (H, W), bool."""
    y, x = np.mgrid[: pictures.SIZE[1], : pictures.SIZE[0]]
    return (x - 12) ** 2 + (y - 9) ** 2 < 40


def organ() -> np.ndarray:
    """A label map of 0, 1 and 2, int16."""
    labels = np.zeros(volumes.SHAPE, dtype=np.int16)
    labels[2:8, 2:7, 1:6] = 1
    labels[4:6, 3:5, 2:4] = 2
    return labels


def inputs() -> Iterator[Input]:
    """All of them."""
    yield from _masks()
    yield from _label_maps()
    for name, write in no_file("mask.png").items():
        yield Input("mask", name, write)
    for name, write in no_file("label.nii").items():
        yield Input("label map", name, write)


def _masks() -> Iterator[Input]:
    mask = Image.fromarray(ring().astype(np.uint8) * 255)
    noisy = np.random.default_rng(0).integers(0, 256, ring().shape, dtype=np.uint8)
    soft = np.clip(np.asarray(mask, dtype=np.float32) / 2 + 30, 0, 255)
    coloured = np.stack([np.asarray(mask), np.zeros_like(noisy), np.zeros_like(noisy)], axis=-1)
    deep = Image.fromarray(ring().astype(np.uint16) * 65535)
    content = pictures.saved(mask, "PNG")
    broken: dict[str, bytes] = {
        f"PNG {name}": one for name, one in cut(content, (0, 20, 60, len(content) // 2, -20)).items()
    }
    third = ring() * 1 + (ring() & (noisy > 128)) * 1
    others = np.where(ring(), 200, 100)
    broken |= {
        "noise": pictures.saved(Image.fromarray(noisy), "PNG"),
        "soft edges": pictures.saved(mask.resize((6, 5)).resize(pictures.SIZE, Image.Resampling.BICUBIC), "PNG"),
        "fractions of one class": pictures.saved(Image.fromarray(soft.astype(np.uint8)), "PNG"),
        "three values": pictures.saved(Image.fromarray(third.astype(np.uint8)), "PNG"),
        "two values that are not 0": pictures.saved(Image.fromarray(others.astype(np.uint8)), "PNG"),
        "colours": pictures.saved(Image.fromarray(coloured), "PNG"),
        "colours with alpha": pictures.saved(Image.fromarray(coloured).convert("RGBA"), "PNG"),
        "16 bits": pictures.saved(deep, "PNG"),
        "a photograph": pictures.saved(Image.fromarray(pictures.pixels()), "JPEG"),
        "noise as JPEG": pictures.saved(Image.fromarray(noisy), "JPEG", quality=95),
        "another size than its image": pictures.saved(mask.resize((12, 10), Image.Resampling.NEAREST), "PNG"),
        "its image's size, turned": pictures.saved(mask.transpose(Image.Transpose.ROTATE_90), "PNG"),
        "a row more than its image": pictures.saved(mask.resize((24, 21), Image.Resampling.NEAREST), "PNG"),
        "one pixel": pictures.saved(mask.resize((1, 1)), "PNG"),
        "text": b"0 0 0 1 1 1",
        "NaN": pictures.saved(Image.fromarray(np.full(ring().shape, np.nan, np.float32)), "TIFF"),
        "fractions from 0 to 1": pictures.saved(Image.fromarray(ring() * np.float32(0.5)), "TIFF"),
        "a NIfTI volume": nibabel.Nifti1Image(organ(), volumes.AFFINE).to_bytes(),
    }  # fmt: skip
    for what, one in broken.items():
        yield Input("mask", what, file_of(one, "mask.png"))
    for what, one in {
        "0 and 1": pictures.saved(Image.fromarray(ring().astype(np.uint8)), "PNG"),
        "1 bit": pictures.saved(Image.fromarray(ring()), "PNG"),
        "0 and 7": pictures.saved(Image.fromarray(ring().astype(np.uint8) * 7), "PNG"),
        "grey as three channels": pictures.saved(mask.convert("RGB"), "PNG"),
        "grey with alpha": pictures.saved(mask.convert("RGBA"), "PNG"),
        "a palette": pictures.saved(mask.convert("RGB").quantize(2), "PNG"),
        "JPEG": pictures.saved(mask, "JPEG", quality=90),
        "nothing but background": pictures.saved(Image.new("L", pictures.SIZE, 0), "PNG"),
        "nothing but foreground": pictures.saved(Image.new("L", pictures.SIZE, 255), "PNG"),
    }.items():
        yield Input("mask", what, file_of(one, "mask.png"), handled=PICTURES)


def _label_maps() -> Iterator[Input]:
    def saved(labels: np.ndarray, affine: np.ndarray = volumes.AFFINE, **fields: Any) -> Callable[[Path], Path]:
        return file_of(volumes.changed(nibabel.Nifti1Image(labels, affine).to_bytes(), **fields), "label.nii")

    moved, turned, wide = (volumes.AFFINE.copy() for _ in range(3))
    moved[0, 3] += 1
    turned[:, 0] *= -1
    wide[2, 2] *= 1.1
    labels = organ()
    doubles = labels.astype(np.float64)
    content = nibabel.Nifti1Image(labels, volumes.AFFINE).to_bytes()
    for name, one in cut(content, (0, 300, 352, 1000, -1)).items():
        yield Input("label map", f".nii {name}", file_of(one, "label.nii"))
    for what, write in {
        "fractions": saved(doubles * 0.5 + 0.25),
        "almost whole numbers": saved(doubles * 1.0001),
        "interpolated borders": saved((doubles + np.roll(doubles, 1, axis=0)) / 2),
        "a negative class": saved(np.where(labels == 2, -1, labels).astype(np.int16)),
        "an unknown class": saved(np.where(labels == 2, 3, labels).astype(np.int16)),
        "255 for the foreground": saved((labels * 255 // 2).astype(np.int16)),
        "NaN for the background": saved(np.where(labels == 0, np.nan, doubles).astype(np.float32)),
        "a voxel of infinity": saved(np.where(doubles == 2, np.inf, doubles).astype(np.float32)),
        "classes scaled to fractions": saved(labels, scl_slope=0.5, scl_inter=0.0),
        "classes moved by one": saved(labels, scl_slope=1.0, scl_inter=1.0),
        "a channel a class": saved(np.stack([labels == value for value in (0, 1, 2)], axis=-1).astype(np.uint8)),
        "a fourth axis of 1": saved(labels[..., None]),
        "one slice": saved(labels[:, :, :1]),
        "another size than its image": saved(labels[:-1]),
        "its image's axes in another order": saved(labels.transpose(1, 0, 2)),
        "a place 1 mm away": saved(labels, moved),
        "an axis turned around": saved(labels, turned),
        "a spacing a tenth wider": saved(labels, wide),
        "no place at all": saved(labels, sform_code=0, qform_code=0, pixdim=(1, 1, 1, 1, 1, 1, 1, 1)),
        "an affine of NaN": saved(labels, srow_x=(float("nan"), 0, 0, 0)),
        "complex numbers": saved(labels, datatype=32, bitpix=64),
        "70 terabytes": saved(labels, dim=(3, 32767, 32767, 32767, 1, 1, 1, 1)),
        "its image": file_of(volumes.stored(), "label.nii"),
        "a PNG": file_of(pictures.saved(Image.fromarray(ring()), "PNG"), "label.nii"),
    }.items():
        yield Input("label map", what, write)
    near = volumes.AFFINE.copy()
    near[0, 3] += 0.05
    for what, write in {
        "doubles that are whole": saved(doubles),
        "8 bits": saved(labels.astype(np.uint8)),
        "scaled by 2 and halved": saved((labels * 2).astype(np.int16), scl_slope=0.5, scl_inter=0.0),
        "a place 0.05 mm away": saved(labels, near),
        "nothing but background": saved(np.zeros_like(labels)),
        "no tumour": saved(np.minimum(labels, 1).astype(np.int16)),
        "nothing but foreground": saved(np.ones_like(labels)),
        "negative zeros": saved(np.where(labels == 0, -0.0, doubles).astype(np.float32)),
        "swapped bytes": file_of(
            nibabel.Nifti1Image(labels, volumes.AFFINE, nibabel.Nifti1Header().as_byteswapped(">")).to_bytes(),
            "label.nii",
        ),
    }.items():
        yield Input("label map", what, write, handled=VOLUMES)
