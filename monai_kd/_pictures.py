"""Pictures that are read whole or not at all."""

from __future__ import annotations

import math
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, IMAGELENGTH, IMAGEWIDTH, TILELENGTH, TILEWIDTH, TiffImageFile

__all__ = ["FORMATS", "read_picture", "whole_pictures"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, by Pillow's names, JPEG with MPO; for EPS it would start a program."""

# Deflate shrinks to no less than a 1032nd; a JPEG file has more than a bit for 64 pixels.
_MOST_PACKED = 1032
_MOST_LZW = 2731  # 4096 bytes in a code of 12 bits
_MOST_TIFF = {
    "raw": 1,
    "packbits": 64,  # 128 bytes in two
    "tiff_lzw": _MOST_LZW,
    "tiff_adobe_deflate": _MOST_PACKED,
    "tiff_deflate": _MOST_PACKED,
    "jpeg": 3 * _MOST_PACKED,  # by colours
}
_FREE = 1 << 22  # pixels of a WebP file, however short it is
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the colour type of a PNG file
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def read_picture(path: str | os.PathLike[str], draft: tuple[str, tuple[int, int]] | None = None) -> Image.Image:
    """A picture, decoded, or an error where Pillow would look away.

    Pillow reads the checksums of a PNG file's pixels on request alone, leaves rows that are not there at 0, makes room
    for whatever a header claims, and cuts pixels of more than 8 bits off at 255 when they are converted.

    Args:
        path: of a regular file; a pipe or a device may have no end.
        draft: of ``Image.draft``, for pictures that may be decoded at a fraction of their size.

    Raises:
        OSError: the file is missing, no picture of :data:`FORMATS`, cut short or damaged.
        ValueError: its pixels have more than 8 bits, or are more than it can hold or than Pillow takes; a TIFF file
            is packed in a way that does not show whether all of it is there.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is no regular file")
    try:
        image = Image.open(path, formats=FORMATS)
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{image.mode} pixels of more than 8 bits would be cut off at 255; save it with 8 bits")
        if image.format == "PNG":
            _load_png(path, image)
        elif isinstance(image, TiffImageFile):
            _check_tiff(path, image)
        elif image.format == "WEBP":
            _check_webp(path, image)
        else:
            most = _MOST_LZW if image.format == "GIF" else _MOST_PACKED
            _check_room(path, image.size, image.width * image.height, most)
        if draft is not None:
            image.draft(*draft)
        image.load()
    except UnidentifiedImageError:
        raise OSError(f"cannot identify image file; expected one of {', '.join(FORMATS)}") from None
    except (OSError, ValueError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"too large: {error}") from None
    except (
        Exception
    ) as error:  # a broken file fails in many ways: SyntaxError, TypeError, IndexError, struct.error, ...
        raise OSError(f"damaged ({error})") from None
    return image


@contextmanager
def whole_pictures() -> Iterator[None]:
    """Within, Pillow fills up no file that is cut short, as other libraries tell it to, and warns of no large one.

    Both hold for the whole process: to be entered around threads that read, not in them.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too much for Pillow is an error
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _load_png(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Decode a PNG file, all of which is there."""
    with open(path, "rb") as file:
        file.seek(24)
        depth, colour, _, _, interlaced = file.read(5)
    bits = depth * _CHANNELS[colour]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(image.width - x) // dx), -(-(image.height - y) // dy)) for x, y, dx, dy in passes]
    expected = sum(height * (1 + -(-width * bits // 8)) for width, height in sizes if width > 0 and height > 0)
    _check_room(path, image.size, expected)
    try:
        with Image.open(path, formats=("PNG",)) as other:
            other.verify()
    except Exception as error:  # OSError, SyntaxError, struct.error, ...
        raise OSError(f"image file is truncated or damaged ({error})") from None
    image.load()
    last = image.crop((0, image.height - 1, image.width, image.height))
    if (interlaced or last.getbbox(alpha_only=False) is None) and _unpacked(path, expected) < expected:
        raise OSError("image file is truncated (its data end before its last row)")


def _check_tiff(path: str | os.PathLike[str], image: TiffImageFile) -> None:
    packing, tags = image.info["compression"], image.tag_v2
    if packing not in _MOST_TIFF:
        raise ValueError(f"a TIFF file packed by {packing} does not show whether all of it is there; save it as PNG")
    size = tags[IMAGEWIDTH], tags[IMAGELENGTH]
    if packing != "raw" and TILEWIDTH in tags:  # libtiff makes room for whole tiles
        size = tuple(-(-side // tags[tile]) * tags[tile] for side, tile in zip(size, (TILEWIDTH, TILELENGTH)))
    bits = len(image.getbands()) * min(tags.get(BITSPERSAMPLE, (1,)))
    _check_room(path, size, math.prod(size) * bits // 8, _MOST_TIFF[packing])


def _check_webp(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Pixels of one colour take no bits at all, so that a few bytes may be a picture of any size."""
    length = os.path.getsize(path)
    if image.width * image.height > max(_FREE, _MOST_PACKED * length):
        said = f"{image.width} x {image.height} pixels in {length} bytes"
        raise ValueError(f"its header says {said}, which is too much for a WebP file; save it as PNG")


def _check_room(path: str | os.PathLike[str], size: tuple[int, ...], claimed: int, most: int = _MOST_PACKED) -> None:
    length = os.path.getsize(path)
    if claimed > most * length:
        raise ValueError(f"its header says {size[0]} x {size[1]} pixels, which {length} bytes cannot hold")


def _unpacked(path: str | os.PathLike[str], most: int) -> int:
    """How many bytes the data of a PNG file are, at most so many."""
    raw = Path(path).read_bytes()
    unpack, found, place = zlib.decompressobj(), 0, 8
    while place + 8 <= len(raw) and found < most:
        length = int.from_bytes(raw[place : place + 4], "big")
        if raw[place + 4 : place + 8] == b"IDAT":
            part = raw[place + 8 : place + 8 + length]
            while part and found < most:
                found += len(unpack.decompress(part, 1 << 20))
                part = unpack.unconsumed_tail
        place += length + 12
    return found + len(unpack.flush()) if found < most else found
