"""How a bundle reads its files: by MONAI's own readers, with values and axes as the runtime has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from monai_kd.export.known import FLOATS, PipelineRefused, only

__all__ = ["converted_mode"]

_MODULE = "monai.data.image_reader"
_READERS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "ITKReader": {
        "channel_dim": (None, -1),
        "series_name": ("",),
        "reverse_indexing": (False,),
        "affine_lps_to_ras": (True,),
    },
    "NibabelReader": {
        "channel_dim": (None, -1),
        "as_closest_canonical": (False,),
        "squeeze_non_spatial_dims": (False,),
    },
    "PILReader": {"reverse_indexing": (True,)},
}
# ``LoadImaged`` gives its further arguments to every reader, also to those that have others.
_NAMES = {"converter", *(name for arguments in _READERS.values() for name in arguments)}


def converted_mode(transform: Any) -> str | None:
    """The mode, such as "RGB", that a ``LoadImaged`` converts pictures to; ``None`` if it leaves them as they are.

    Raises:
        PipelineRefused: it reads by another reader than MONAI's for NIfTI and pictures, or with other arguments.

    Example:
        >>> from monai.transforms import LoadImaged
        >>> converted_mode(LoadImaged("image", reader="PILReader", converter=lambda picture: picture.convert("L")))
        'L'
    """
    loader = transform._loader
    only(transform, "dtype", loader.dtype, FLOATS)
    mode = None
    for reader in loader.readers:
        kind = type(reader)
        chosen = not loader.auto_select and reader is loader.readers[-1]  # others are tried where this one fails
        if kind.__module__ != _MODULE or (chosen and kind.__name__ not in _READERS):
            raise PipelineRefused(
                f"LoadImaged with the reader {kind.__module__}.{kind.__name__} is not known; {', '.join(_READERS)} of "
                f"{_MODULE} are."
            )
        if kind.__name__ not in _READERS:
            continue
        for name, allowed in _READERS[kind.__name__].items():
            only(transform, f"{kind.__name__}'s {name}", getattr(reader, name), allowed)
        if unknown := sorted(reader.kwargs.keys() - _NAMES):
            raise PipelineRefused(f"LoadImaged with {', '.join(unknown)} for {kind.__name__} is not known.")
        if (converter := getattr(reader, "converter", None)) is not None:
            mode = _mode_after(converter)
    return mode


def _mode_after(converter: Callable[[Any], Any]) -> str:
    try:
        modes = {converter(Image.new(mode, (1, 1))).mode for mode in ("L", "RGB", "RGBA")}
    except Exception as error:  # of somebody's own function
        raise PipelineRefused(f"LoadImaged with a converter that fails on a picture ({error}).") from None
    if len(modes) != 1:
        raise PipelineRefused(f"LoadImaged with a converter that gives pictures of modes {sorted(modes)}.")
    return str(modes.pop())
