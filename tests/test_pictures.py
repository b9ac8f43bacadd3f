from __future__ import annotations

import io
import os
import struct
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from monai_kd._pictures import FORMATS, read_picture, whole_pictures
from monai_kd.data import check_classes, check_datalist, near_duplicate_groups
from monai_kd.report.overlays import save_overlays
from monai_kd.report.picture_files import read_frame, read_labels

EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 20\n%%EndComments\nshowpage\n%%EOF\n"
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
DOORS = {
    "read_picture": read_picture,
    "check_datalist": lambda path: check_datalist([{"image": str(path)}]).raise_if_bad(),
    "check_classes": lambda path: check_classes([{"image": str(path), "label": 0}], 1).raise_if_bad(),
    "near_duplicate_groups": lambda path: near_duplicate_groups([path]),
    "read_frame": read_frame,
    "read_labels": read_labels,
    "save_overlays": lambda path: save_overlays([path], {"student": path.parent}, path.with_name("made.png")),
}


@pytest.fixture
def started(tmp_path, monkeypatch):
    """What Ghostscript leaves behind when Pillow starts it."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\ntouch '{folder}/started'\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # to be looked for
    yield folder / "started"
    EpsImagePlugin.gs_binary = None


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ["a.png", "a.eps"])
def test_a_program_is_not_started(door, name, started, tmp_path):
    (tmp_path / name).write_text(EPS)
    with pytest.raises((OSError, ValueError), match="cannot identify image file"):
        DOORS[door](tmp_path / name)
    assert not started.exists()
    with pytest.raises(OSError, match=r"\S"):
        Image.open(tmp_path / name).load()
    assert started.exists()


@pytest.mark.parametrize("form", [*FORMATS, "MPO"])
def test_pixels_are_those_of_pillow(form, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a", form)
    with Image.open(tmp_path / "a") as expected:
        np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "a")), np.asarray(expected))


def tiff(side, packing, tile=None):
    """A file that says it has so many pixels, and none."""
    data = zlib.compress(bytes(100)) if packing in (8, 32946) else b"\x81\0" * 8
    found = {256: side, 257: side, 258: 8, 259: packing, 262: 2, 277: 3}
    found |= {322: tile, 323: tile, 324: 8, 325: len(data)} if tile else {273: 8, 278: side, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(found.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(found)) + entries + bytes(4)


@pytest.mark.parametrize(("packing", "most"), [(1, 1), (5, 2731), (7, 1032), (8, 1032), (32773, 64), (32946, 1032)])
def test_a_tiff_file_is_held_against_what_it_can_expand_to(packing, most, tmp_path):
    size = len(tiff(0, packing))
    bands = 1 if packing == 7 else 3
    side = int((size * most / bands) ** 0.5)
    (tmp_path / "a.tif").write_bytes(tiff(side + 1, packing))
    with pytest.raises(ValueError, match=f"says {side + 1} x {side + 1} pixels, which {size} bytes cannot hold"):
        read_picture(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes(tiff(side, packing))
    if packing != 1:  # whose directory may be its pixels
        with pytest.raises(OSError, match="decoder error"):
            read_picture(tmp_path / "a.tif")


def test_tiles_that_a_tiff_file_cannot_hold(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(20, 8, tile=16_000))
    with pytest.raises(ValueError, match="says 16000 x 16000 pixels"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("packing", ["group3", "group4", "tiff_ccitt"])
def test_tiff_files_of_fax_codes_are_refused(packing, tmp_path):
    """Pillow makes rows that are missing white."""
    Image.new("1", (24, 20)).save(tmp_path / "a.tif", compression=packing)
    with pytest.raises(
        ValueError, match=f"packed by {packing} does not show whether all of it is there; save it as PNG"
    ):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG", "JPEG"])
def test_pictures_of_one_colour_are_read(form, tmp_path):
    """They expand to the most that there is."""
    options = {"TIFF": {"compression": "tiff_lzw"}, "WEBP": {"lossless": True}}.get(form, {})
    Image.new("RGB", (1500, 1500)).save(tmp_path / "a", form, **options)
    assert read_picture(tmp_path / "a").size == (1500, 1500)


def test_a_webp_file_of_one_colour_has_a_limit(tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, "WEBP", lossless=True)
    raw = bytearray(content.getvalue())
    raw[21:25] = (int.from_bytes(raw[21:25], "little") >> 28 << 28 | 2999 << 14 | 2999).to_bytes(4, "little")
    (tmp_path / "a.webp").write_bytes(raw)
    with pytest.raises(ValueError, match=r"3000 x 3000 pixels in \d+ bytes, .* save it as PNG"):
        read_picture(tmp_path / "a.webp")


@pytest.mark.parametrize("door", ["check_datalist", "near_duplicate_groups"])
def test_nothing_of_the_process_is_changed_for_good(door, tmp_path, monkeypatch):
    """Filters of warnings are those of all threads; each that puts them back may put back another one's."""
    for number in range(200):
        Image.fromarray(PIXELS).save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.iterdir())
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    entered = []
    enter = warnings.catch_warnings.__enter__
    monkeypatch.setattr(
        warnings.catch_warnings, "__enter__", lambda self: entered.append(threading.current_thread()) or enter(self)
    )
    before, interval = list(warnings.filters), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        if door == "check_datalist":
            check_datalist([{"image": str(path)} for path in paths])
        else:
            near_duplicate_groups(paths)
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert set(entered) == {threading.main_thread()}


def test_large_pictures_are_not_warned_of(tmp_path, monkeypatch, recwarn):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with whole_pictures():
        assert read_picture(tmp_path / "a.png").size == (24, 20)
    assert not check_datalist([{"image": str(tmp_path / "a.png")}]).errors
    assert not recwarn.list
