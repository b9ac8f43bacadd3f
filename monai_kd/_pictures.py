"""Pictures that are read whole or not at all."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

__all__ = ["read_picture"]

# Deflate shrinks to no less than a 1032nd; a JPEG file has more than a bit for 64 pixels.
_MOST_PACKED = 1032
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the colour type of a PNG file
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def read_picture(
    path: str | os.PathLike[str], formats: Sequence[str] | None = None, draft: tuple[str, tuple[int, int]] | None = None
) -> Image.Image:
    """A picture, decoded, or an error where Pillow would look away.

    Pillow reads the checksums of a PNG file's pixels on request alone, leaves rows that are not there at 0, makes room
    for whatever a header claims, and cuts pixels of more than 8 bits off at 255 when they are converted.

    Args:
        path: of a regular file; a pipe or a device may have no end.
        formats: those of Pillow's that are known; all if not given.
        draft: of ``Image.draft``, for pictures that may be decoded at a fraction of their size.

    Raises:
        OSError: the file is missing, no picture, cut short or damaged.
        ValueError: its pixels have more than 8 bits, or are more than it can hold or than Pillow takes.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is no regular file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too much for Pillow is an error
            image = Image.open(path, formats=None if formats is None else tuple(formats))
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{image.mode} pixels of more than 8 bits would be cut off at 255; save it with 8 bits")
        if image.format in ("JPEG", "MPO"):
            _check_room(path, image, image.width * image.height)
        if image.format == "PNG":
            _load_png(path, image)
        if draft is not None:
            image.draft(*draft)
        image.load()
    except (OSError, ValueError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"too large: {error}") from None
    except (
        Exception
    ) as error:  # a broken file fails in many ways: SyntaxError, TypeError, IndexError, struct.error, ...
        raise OSError(f"damaged ({error})") from None
    return image


def _load_png(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Decode a PNG file, all of which is there."""
    with open(path, "rb") as file:
        file.seek(24)
        depth, colour, _, _, interlaced = file.read(5)
    bits = depth * _CHANNELS[colour]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(image.width - x) // dx), -(-(image.height - y) // dy)) for x, y, dx, dy in passes]
    expected = sum(height * (1 + -(-width * bits // 8)) for width, height in sizes if width > 0 and height > 0)
    _check_room(path, image, expected)
    try:
        with Image.open(path, formats=("PNG",)) as other:
            other.verify()
    except Exception as error:  # OSError, SyntaxError, struct.error, ...
        raise OSError(f"image file is truncated or damaged ({error})") from None
    image.load()
    last = image.crop((0, image.height - 1, image.width, image.height))
    if (interlaced or last.getbbox(alpha_only=False) is None) and _unpacked(path, expected) < expected:
        raise OSError("image file is truncated (its data end before its last row)")


def _check_room(path: str | os.PathLike[str], image: Image.Image, claimed: int) -> None:
    size = os.path.getsize(path)
    if claimed > _MOST_PACKED * size:
        raise ValueError(f"its header says {image.width} x {image.height} pixels, which {size} bytes cannot hold")


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
