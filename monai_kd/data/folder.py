"""A folder of images, to be run through a network."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from PIL import Image

__all__ = ["image_datalist"]


def image_datalist(root: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The images of a folder, sorted by name, as a MONAI data list.

    Args:
        root: the folder; files that are no images, by their extension, are passed over.

    Returns:
        ``[{"image": path}, ...]``.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: two images differ in their extension only, so that what is saved for one would replace the other's.

    Example:
        >>> image_datalist("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: no folder 'nowhere'; give the folder that holds the images.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder '{root}'; give the folder that holds the images.")
    known = Image.registered_extensions()
    paths = sorted(str(path) for path in folder.iterdir() if path.is_file() and path.suffix.lower() in known)
    if not paths:
        raise FileNotFoundError(f"no images in '{root}'; expected files such as .jpg or .png, right in that folder.")
    stems = Counter(Path(path).stem for path in paths)
    if shared := sorted(stem for stem, count in stems.items() if count > 1):
        raise ValueError(f"several images in '{root}' share a name, and would share a mask: {', '.join(shared[:10])}.")
    return [{"image": path} for path in paths]
