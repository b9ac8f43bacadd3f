"""Pictures that are broken, and pictures that are only odd."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from .inputs import Input, cut, file_of, flipped, no_file

SIZE = (24, 20)  # width, height
CHECKS = ("check_datalist", "check_classes", "near_duplicate_groups", "monai-kd check")
PREDICTIONS = ("predict a file", "predict a folder", "monai-kd predict")
EVERY = CHECKS + PREDICTIONS


def pixels(seed: int = 0) -> np.ndarray:
    """A small picture (H, W, 3) with structure."""
    noise = np.random.default_rng(seed).integers(0, 256, (SIZE[1] // 4, SIZE[0] // 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC))


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    """The picture as a file."""
    content = io.BytesIO()
    picture.copy().save(content, form, **options)  # Pillow keeps what one format was told for the next
    return content.getvalue()


def chunk(name: bytes, data: bytes, length: int | None = None) -> bytes:
    """One part of a PNG file."""
    head = struct.pack(">I", len(data) if length is None else length)
    return head + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*parts: bytes) -> bytes:
    """A PNG file of these parts."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def header(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0, packed: int = 0) -> bytes:
    """The first part of a PNG file."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, packed, 0, interlace))


def rows(picture: np.ndarray) -> bytes:
    """The pixels as a PNG file has them."""
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in picture))


def tiff(size: tuple[int, int], packing: int, data: bytes, bits: int = 8, tile: int | None = None) -> bytes:
    """A TIFF file of one strip or tile, RGB or of 1 bit."""
    bands = 1 if bits == 1 else 3
    found = {256: size[0], 257: size[1], 258: bits, 259: packing, 262: 2 if bands == 3 else 0, 277: bands}
    found |= {273: 8, 278: size[1], 279: len(data)} if tile is None else {322: tile, 323: tile, 324: 8, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(found.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(found)) + entries + bytes(4)


def inputs() -> Iterator[Input]:
    """All of them."""
    yield from _broken()
    yield from _claims()
    yield from _others()
    yield from _odd()
    for name, write in no_file("a.png").items():
        yield Input("picture", name, write)


def _broken() -> Iterator[Input]:
    broken: dict[tuple[str, str], bytes] = {}
    picture = Image.fromarray(pixels())
    content = saved(picture, "PNG")
    data = content.index(b"IDAT")
    end = content.index(b"IEND")
    places = [0, 1, 4, 8, 12, 16, 24, 33, data, data + 4, len(content) // 4, len(content) // 2, len(content) * 3 // 4]
    places += [len(content) * 9 // 10, end - 9, end - 5, end - 4, end]
    broken |= {("a.png", f"PNG {name}"): value for name, value in cut(content, places).items()}
    for what, place in {
        "signature": 1, "length of the header": 11, "name of the header": 13, "width": 19, "height": 23, "depth": 24,
        "colour type": 25, "compression": 26, "filter": 27, "interlace": 28, "checksum of the header": 30,
        "length of the data": data - 1, "name of the data": data + 1, "first byte of the data": data + 4,
        "data at a tenth": data + (end - data) // 10, "data at a third": data + (end - data) // 3,
        "data in the middle": (data + end) // 2, "data at nine tenths": data + (end - data) * 9 // 10,
        "sum of the data": end - 10, "checksum of the data": end - 6, "name of the end": end + 1,
    }.items():  # fmt: skip
        broken["a.png", f"PNG with a flipped bit: {what}"] = flipped(content, place)
    body, tail = chunk(b"IDAT", rows(pixels())), chunk(b"IEND", b"")
    for what, parts in {
        "no width": (header(0, 20), body, tail),
        "no height": (header(24, 0), body, tail),
        "a width of 2**31 - 1": (header(2**31 - 1, 20), body, tail),
        "a width of 2**32 - 1": (header(2**32 - 1, 20), body, tail),
        "100,000 x 100,000 pixels by its header": (header(100_000, 100_000), body, tail),
        "20,000 x 8,000 pixels by its header": (header(20_000, 8_000), body, tail),
        "9,000 x 9,000 pixels by its header": (header(9_000, 9_000), body, tail),
        "a depth of 3": (header(24, 20, depth=3), body, tail),
        "a depth of 16 and data of 8": (header(24, 20, depth=16), body, tail),
        "colour type 5": (header(24, 20, colour=5), body, tail),
        "colour type 255": (header(24, 20, colour=255), body, tail),
        "more rows by its header than in its data": (header(24, 40), body, tail),
        "wider by its header than its data": (header(48, 20), body, tail),
        "no data": (header(24, 20), tail),
        "data that is not compressed": (header(24, 20), chunk(b"IDAT", pixels().tobytes()), tail),
        "data that is empty": (header(24, 20), chunk(b"IDAT", b""), tail),
        "data before the header": (body, header(24, 20), tail),
        "a part of 4 GB by its length": (header(24, 20), chunk(b"IDAT", b"abc", length=2**32 - 1), tail),
        "no header at all": (),
    }.items():
        broken["a.png", f"PNG with {what}"] = png(*parts)

    content = saved(picture, "JPEG", quality=90)
    scan = content.index(b"\xff\xda")
    frame = content.index(b"\xff\xc0")
    places = [1, 2, 3, 4, 20, frame, frame + 4, frame + 9, scan, scan + 2, scan + 14, (scan + len(content)) // 2]
    places += [scan + (len(content) - scan) // 4, len(content) * 9 // 10, -30]
    broken |= {("a.jpg", f"JPEG {name}"): value for name, value in cut(content, places).items()}
    for what, place, value in (
        ("no height", frame + 5, b"\0\0"),
        ("no width", frame + 7, b"\0\0"),
        ("65,535 x 65,535 pixels by its header", frame + 5, b"\xff\xff\xff\xff"),
        ("13,000 x 13,000 pixels by its header", frame + 5, struct.pack(">HH", 13_000, 13_000)),
        ("a depth of 12", frame + 4, b"\x0c"),
        ("no channel", frame + 9, b"\0"),
        ("200 channels", frame + 9, b"\xc8"),
        ("a table of the wrong length", content.index(b"\xff\xdb") + 2, b"\xff\xff"),
        ("a table of no length", content.index(b"\xff\xc4") + 2, b"\0\0"),
        ("no start", 0, b"\0\0"),
        ("no scan", scan, b"\xff\xd9"),
    ):
        broken["a.jpg", f"JPEG with {what}"] = content[:place] + value + content[place + len(value) :]

    for form, name in (("BMP", "a.bmp"), ("TIFF", "a.tif"), ("WEBP", "a.webp")):
        content = saved(picture, form, **({"lossless": True} if form == "WEBP" else {}))
        places = [2, 14, 30, len(content) // 2, -200 if form == "BMP" else -20]
        broken |= {(name, f"{form} {what}"): value for what, value in cut(content, places).items()}
    content = saved(picture, "BMP")
    for what, place, value in (
        ("2**31 - 1 pixels wide", 18, struct.pack("<i", 2**31 - 1)),
        ("a negative width", 18, struct.pack("<i", -24)),
        ("no width", 18, struct.pack("<i", 0)),
        ("7 bits a pixel", 28, struct.pack("<H", 7)),
        ("unknown compression", 30, struct.pack("<I", 99)),
        ("pixels behind its end", 10, struct.pack("<I", 1 << 30)),
    ):
        broken["a.bmp", f"BMP with {what}"] = content[:place] + value + content[place + len(value) :]
    content = saved(picture, "TIFF")
    broken["a.tif", "TIFF whose directory lies behind its end"] = content[:4] + struct.pack("<I", 1 << 30) + content[8:]
    floats = np.full((20, 24), np.nan, dtype=np.float32)
    broken["a.tif", "TIFF of NaN"] = saved(Image.fromarray(floats), "TIFF")
    broken["a.tif", "TIFF of floats"] = saved(
        Image.fromarray(np.linspace(0, 1, 480, dtype=np.float32).reshape(20, 24)), "TIFF"
    )
    broken["a.tif", "TIFF of 32 bits"] = saved(
        Image.fromarray(np.arange(480, dtype=np.int32).reshape(20, 24) * 70_000), "TIFF"
    )
    deep = (np.arange(480, dtype=np.uint16) * 130).reshape(20, 24)
    broken["a.tif", "TIFF of 16 bits"] = saved(Image.fromarray(deep), "TIFF")
    broken["a.png", "PNG of 16 bits of grey"] = saved(Image.fromarray(deep), "PNG")

    for name, what, value in (
        ("a.png", "text named .png", b"not a picture\n" * 40),
        ("a.jpg", "a web page named .jpg", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
        ("a.png", "a PDF named .png", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF"),
        ("a.png", "a ZIP archive named .png", b"PK\x03\x04" + bytes(200)),
        ("a.png", "zeros", bytes(4096)),
        ("a.jpg", "ones", b"\xff" * 4096),
        ("a.png", "noise", np.random.default_rng(0).bytes(4096)),
        ("a.png", "XML of shapes named .png", b'<svg xmlns="http://www.w3.org/2000/svg" width="24" height="20"/>'),
        ("a.png", "DICOM named .png", bytes(128) + b"DICM" + bytes(100)),
    ):
        broken[name, what] = value
    for (name, what), value in broken.items():
        yield Input("picture", what, file_of(value, name))

    def texts() -> bytes:
        return png(header(24, 20), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(300_000_000), 1)), body, tail)

    yield Input("picture", "PNG with a text of 300 MB when unpacked", file_of(texts, "a.png"))


def _claims() -> Iterator[Input]:
    """Headers of 13,000 x 13,000 pixels, or of a tile of so many, before a few bytes."""
    side = 13_000
    found: dict[tuple[str, str], bytes] = {}
    nothing = zlib.compress(bytes(100))
    for what, packing, data in (
        ("raw", 1, bytes(16)), ("LZW", 5, b"\x80\x00\x20\x50\x38\x24\x16\x0d\x07\x84"),
        ("deflate", 8, nothing), ("deflate by its old number", 32946, nothing), ("PackBits", 32773, b"\x81\0" * 8),
        ("JPEG", 7, b"\xff\xd8\xff\xd9"), ("old JPEG", 6, b"\xff\xd8\xff\xd9"), ("WebP", 50001, b"RIFF\0\0\0\0WEBP"),
        ("LZMA", 34925, b"\xfd7zXZ\0\0\x04"), ("Zstandard", 50000, b"\x28\xb5\x2f\xfd"),
        ("ThunderScan", 32809, bytes(16)), ("SGI", 34676, bytes(16)),
    ):  # fmt: skip
        found["a.tif", f"TIFF of {what} with 13,000 x 13,000 pixels by its header"] = tiff((side, side), packing, data)
    found["a.tif", "TIFF of 13,000 x 13,000 bits, of which it has 128 rows"] = tiff(
        (side, side), 4, b"\xff" * 16, bits=1
    )
    found["a.tif", "TIFF with a tile of 16,000 x 16,000 pixels"] = tiff(SIZE, 8, nothing, tile=16_000)
    found["a.tif", "TIFF with a tile of no pixels"] = tiff(SIZE, 8, nothing, tile=0)
    picture = Image.fromarray(pixels())
    gif = bytearray(saved(picture.quantize(16), "GIF"))
    found["a.png", "GIF with 13,000 x 13,000 pixels around its own, by its header"] = (
        gif[:6] + struct.pack("<HH", side, side) + gif[10:]
    )
    place = gif.index(b",\0\0\0\0") + 5
    gif[6:10] = gif[place : place + 4] = struct.pack("<HH", side, side)
    found["a.png", "GIF with 13,000 x 13,000 pixels by its header"] = bytes(gif)
    bmp = bytearray(saved(picture.quantize(16), "BMP"))
    bmp[18:26], bmp[30:34] = struct.pack("<ii", side, side), struct.pack("<I", 1)
    pixels_at = int.from_bytes(bmp[10:14], "little")
    jumps = b"\0\2\0\xff" * 51  # each over 255 rows
    found["a.bmp", "BMP with 13,000 x 13,000 pixels, jumped over"] = bytes(bmp[:pixels_at]) + jumps + b"\0\1"
    found["a.png", "PPM with 13,000 x 13,000 pixels by its header"] = b"P6 13000 13000 255 " + bytes(20)
    found["a.png", "PPM of words with 13,000 x 13,000 pixels by its header"] = b"P3 13000 13000 255 1 2 3"
    webp = bytearray(saved(Image.new("RGB", (16, 16)), "WEBP", lossless=True))
    sizes = int.from_bytes(webp[21:25], "little") >> 28 << 28 | (side - 1) << 14 | (side - 1)
    webp[21:25] = sizes.to_bytes(4, "little")
    found["a.webp", "WEBP of one colour with 13,000 x 13,000 pixels"] = bytes(webp)
    webp = bytearray(saved(picture, "WEBP"))
    place = webp.index(b"\x9d\x01\x2a") + 3
    webp[place : place + 4] = struct.pack("<HH", side, side)
    found["a.webp", "WEBP with 13,000 x 13,000 pixels by its header"] = bytes(webp)
    for (name, what), content in found.items():
        yield Input("picture", what, file_of(bytes(content), name))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 20\n%%EndComments\n24 20 scale showpage\n%%EOF\n"
"""A program; Pillow gives it to the command "gs"."""


def _others() -> Iterator[Input]:
    """Pictures of kinds that are not read, whatever their names say."""
    picture = Image.fromarray(pixels())
    with_preview = b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 30, len(EPS), 0, 0, 0, 0) + b"\xff\xff" + EPS
    found = {
        ("a.png", "EPS named .png"): EPS,
        ("a.jpg", "EPS named .jpg"): EPS,
        ("a.tif", "EPS with a place for a preview, named .tif"): with_preview,
        ("a.png", "EPS behind the word %PDF"): b"%PDF-1.7\n" + EPS,
        ("a.png", "an icon named .png"): saved(picture.resize((32, 32)), "ICO", sizes=[(32, 32)]),
    }
    found |= {("a.png", f"{form} named .png"): saved(picture, form) for form in ("PCX", "TGA", "SGI", "JPEG2000")}
    for (name, what), content in found.items():
        yield Input("picture", what, file_of(content, name))
    bits = saved(Image.fromarray(np.asarray(picture.convert("L")) > 128), "TIFF", compression="group4")
    yield Input("picture", "TIFF packed by Group 4", file_of(bits, "a.tif"))


def _odd() -> Iterator[Input]:
    """Valid ones, with the pixels (H, W, 3) that they hold."""
    picture = Image.fromarray(pixels())
    grey = picture.convert("L")
    clear = picture.copy()
    clear.putalpha(grey)
    turned = Image.Exif()
    turned[0x0112] = 6
    pair = [picture, Image.fromarray(pixels(1))]
    plain = (header(24, 20), chunk(b"IDAT", rows(pixels())), chunk(b"IEND", b""))
    bmp = bytearray(saved(picture, "BMP"))
    bmp[22:26] = struct.pack("<i", -20)
    stripes = np.asarray(grey) > 128
    gif = saved(pair[0], "GIF", save_all=True, append_images=pair[1:])
    pad = ((0, 32 - SIZE[1]), (0, 32 - SIZE[0]), (0, 0))
    found: dict[tuple[str, str], bytes] = {
        ("a.png", "PNG of one pixel"): saved(picture.crop((0, 0, 1, 1)), "PNG"),
        ("a.png", "PNG of one row"): saved(picture.crop((0, 0, 24, 1)), "PNG"),
        ("a.png", "PNG of one column"): saved(picture.crop((0, 0, 1, 20)), "PNG"),
        ("a.png", "PNG of grey"): saved(grey, "PNG"),
        ("a.png", "PNG of 1 bit"): saved(Image.fromarray(stripes), "PNG"),
        ("a.png", "PNG with a palette"): saved(picture.quantize(200), "PNG"),
        ("a.png", "PNG with a palette of 4 colours"): saved(picture.quantize(4), "PNG", bits=2),
        ("a.png", "PNG with a palette and a transparent colour"): saved(picture.quantize(16), "PNG", transparency=3),
        ("a.png", "PNG of grey with alpha"): saved(clear.convert("LA"), "PNG"),
        ("a.png", "PNG with alpha"): saved(clear, "PNG"),
        ("a.png", "PNG of 16 bits a colour"): png(
            header(24, 20, depth=16), chunk(b"IDAT", rows(pixels().repeat(2, axis=2))), chunk(b"IEND", b"")
        ),
        ("a.png", "PNG with bytes behind its end"): png(*plain) + b"behind" * 100,
        ("a.png", "PNG without the last 4 bytes, behind its pixels"): png(*plain)[:-4],
        ("a.png", "PNG without the last byte, behind its pixels"): png(*plain)[:-1],
        ("a.png", "PNG with a flipped bit in the checksum of its end"): flipped(png(*plain), -1),
        ("a.png", "PNG with an unknown part"): png(plain[0], chunk(b"teSt", b"abc"), *plain[1:]),
        ("a.png", "PNG with its data in parts of one byte"): png(
            plain[0], *(chunk(b"IDAT", bytes([byte])) for byte in rows(pixels())), plain[2]
        ),
        ("a.png", "PNG with fewer rows by its header than in its data"): png(header(24, 10), *plain[1:]),
        ("a.png", "PNG of an unknown compression, by its header"): png(header(24, 20, packed=9), *plain[1:]),
        ("a.png", "PNG with frames"): saved(pair[0], "PNG", save_all=True, append_images=pair[1:]),
        ("a.png", "PNG turned by its EXIF"): saved(picture, "PNG", exif=turned),
        ("A.PNG", "PNG with its ending in capitals"): saved(picture, "PNG"),
        ("ä ö=ü,'#.png", "PNG with signs in its name"): saved(picture, "PNG"),
        (os.fsdecode(b"a\xff\xfe.png"), "PNG with a name that is no text"): saved(picture, "PNG"),
        ("a\nb.png", "PNG with a line break in its name"): saved(picture, "PNG"),
        ("a.jpg", "PNG named .jpg"): saved(picture, "PNG"),
        ("a.png", "JPEG named .png"): saved(picture, "JPEG"),
        ("a.jpg", "JPEG of grey"): saved(grey, "JPEG"),
        ("a.jpg", "JPEG of CMYK"): saved(picture.convert("CMYK"), "JPEG"),
        ("a.jpg", "JPEG in several passes"): saved(picture, "JPEG", progressive=True),
        ("a.jpg", "JPEG turned by its EXIF"): saved(picture, "JPEG", exif=turned),
        ("a.jpg", "JPEG with broken EXIF"): saved(picture, "JPEG", exif=b"Exif\0\0" + b"\xff" * 60),
        ("a.jpg", "JPEG with bytes behind its end"): saved(picture, "JPEG") + b"behind" * 100,
        ("a.jpg", "two JPEG in one file"): saved(pair[0], "JPEG") + saved(pair[1], "JPEG"),
        ("a.jpg", "JPEG of one pixel"): saved(picture.crop((0, 0, 1, 1)), "JPEG"),
        ("a.bmp", "BMP from top to bottom"): bytes(bmp),
        ("a.bmp", "BMP with a palette"): saved(picture.quantize(200), "BMP"),
        ("a.tif", "TIFF with pages"): saved(pair[0], "TIFF", save_all=True, append_images=pair[1:]),
        ("a.tif", "TIFF of CMYK"): saved(picture.convert("CMYK"), "TIFF"),
        ("a.tif", "TIFF packed by LZW"): saved(picture, "TIFF", compression="tiff_lzw"),
        ("a.tif", "TIFF packed by deflate"): saved(picture, "TIFF", compression="tiff_adobe_deflate"),
        ("a.tif", "TIFF packed by deflate, by its old number"): saved(picture, "TIFF", compression="tiff_deflate"),
        ("a.tif", "TIFF packed by PackBits"): saved(picture, "TIFF", compression="packbits"),
        ("a.tif", "TIFF packed by JPEG"): saved(picture, "TIFF", compression="jpeg"),
        ("a.tif", "TIFF of one colour, packed by LZW"): saved(
            Image.new("RGB", (1000, 1000)), "TIFF", compression="tiff_lzw"
        ),
        ("a.tif", "TIFF of one colour, packed by deflate"): saved(
            Image.new("RGB", (1000, 1000)), "TIFF", compression="tiff_adobe_deflate"
        ),
        ("a.tif", "TIFF of 1 bit"): saved(Image.fromarray(stripes), "TIFF"),
        ("a.tif", "TIFF with a tile"): tiff(SIZE, 8, zlib.compress(np.pad(pixels(), pad).tobytes()), tile=32),
        ("a.webp", "WEBP with frames"): saved(pair[0], "WEBP", save_all=True, append_images=pair[1:], lossless=True),
        ("a.webp", "WEBP with alpha"): saved(clear, "WEBP", lossless=True),
        ("a.webp", "WEBP of one colour"): saved(Image.new("RGB", (1000, 1000)), "WEBP", lossless=True),
        ("a.jpg", "two JPEG in one file that says so"): saved(pair[0], "MPO", save_all=True, append_images=pair[1:]),
        ("a.png", "PPM named .png"): saved(picture, "PPM"),
        ("a.png", "GIF named .png"): gif,
        ("a.png", "GIF of one colour"): saved(Image.new("L", (1000, 1000)), "GIF"),
    }  # fmt: skip
    for (name, what), content in found.items():
        yield Input("picture", what, file_of(content, name), handled=EVERY, truth=as_pillow_reads)
    yield Input("picture", "GIF with frames", file_of(gif, "a.gif"), handled=CHECKS, only=(*CHECKS, "predict a file"))


def as_pillow_reads(path: Path) -> np.ndarray:
    """The pixels, (H, W, 3), of the first frame, as they are stored: not turned by EXIF, alpha left out."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
