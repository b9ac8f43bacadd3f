"""Files of ``torch.save``, looked through before torch reads them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import BinaryIO

__all__ = ["damaged_part"]


def damaged_part(file: BinaryIO | Path, old_format: bool = False) -> str | None:
    """What is wrong with a file; ``None`` if every checksum in it is right.

    ``torch.load`` takes altered tensors without a word, and makes room for whatever a packed part may unpack to.
    ``torch.save`` packs none.

    Args:
        file: a path, or an open file, which is left where it stands.
        old_format: take the format before PyTorch 1.6 too, which has no checksums.

    Raises:
        OSError: the file cannot be opened.
    """
    if isinstance(file, Path):
        if not file.is_file() and file.exists():
            return "it is no regular file"
        with file.open("rb") as opened:
            return damaged_part(opened, old_format)
    begin = file.tell()
    try:
        if old_format and file.read(4)[:2] != b"PK":
            return None
        file.seek(begin)
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                return "parts of it are packed, which torch.save never does"
            if sum(part.file_size for part in parts) > file.seek(0, os.SEEK_END):
                return "its parts are larger than the file"
            if parts and not any(part.CRC for part in parts):
                return "it was saved without checksums; save it after torch.serialization.set_crc32_options(True)"
            damaged = archive.testzip()
    except Exception as error:  # a broken file fails in many ways: BadZipFile, UnicodeDecodeError, EOFError, ...
        return str(error) or type(error).__name__
    finally:
        file.seek(begin)
    return None if damaged is None else f"the checksum of its '{damaged}' is wrong"
