"""What a bundle does around its network, in the few words that a runtime without MONAI understands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.transforms.compose import Compose
from PIL import Image

__all__ = ["PipelineRefused", "output_activation", "translate_pipeline"]

_LOADING, _AXES, _GRID, _CAST, _VALUES = range(5)
_FLOATS = (None, float, torch.float32, torch.float64, np.float32, np.float64)


class PipelineRefused(ValueError):
    """A bundle does around its network what the runtime does not know; the message names it."""


def translate_pipeline(preprocessing: Any, inferer: Any, postprocessing: Any, channels: int) -> dict[str, Any]:
    """The pipeline of an exported folder, from the parts of a bundle's ``inference.json``.

    Volumes: read, ``Orientationd``, ``Spacingd``, intensities, ``SlidingWindowInferer``. Pictures: read, transposed to
    rows and columns, ``Resized``, intensities, ``SimpleInferer``. Post-processing: ``Invertd``, ``Activationsd``,
    ``AsDiscreted``, ``SaveImaged``. Anything else, another order, or an argument that changes what these do is refused,
    never passed over.

    Args:
        preprocessing: a transform, or a ``Compose`` of them.
        inferer: of the network.
        postprocessing: as ``preprocessing``; or ``None``.
        channels: of the network's input.

    Returns:
        ``{"kind": "volume", "orientation", "spacing", "intensity", "pad_value", "roi_size", "overlap", "mode",
        "sw_batch_size", "exact_borders"}`` or ``{"kind": "picture", "channels", "size", "resize", "cast", "mean",
        "std"}``, with a ``"threshold"`` where the output is cut at one, and ``"activated": True`` where probabilities
        are interpolated, not what the network gives.

    Raises:
        PipelineRefused: as said; the message names the transform.

    Example:
        >>> from monai.inferers import SimpleInferer
        >>> from monai.transforms import LoadImaged, Resized, Transposed
        >>> chain = Compose([LoadImaged("image"), Transposed("image", (0, 2, 1)), Resized("image", (64, 64))])
        >>> translate_pipeline(chain, SimpleInferer(), None, 3)["size"]
        [64, 64]
    """
    chain = _Chain(channels)
    for transform in _flat(preprocessing):
        chain.add(transform)
    behind = _flat(postprocessing)
    threshold, exact = _threshold(behind), _exact_borders(behind)
    if chain.size is None:
        pipeline = {**chain.volume(inferer), "exact_borders": exact}
    elif exact:
        pipeline = chain.picture(inferer)
    else:
        raise PipelineRefused("Invertd with nearest_interp True is known of volumes alone.")
    if threshold is not None:
        pipeline["threshold"] = threshold
    if _activated(behind):
        pipeline["activated"] = True
    return pipeline


def output_activation(postprocessing: Any) -> str | None:
    """What makes probabilities of the network's output: "softmax", "sigmoid", or ``None`` if the bundle does not say.

    An ``argmax`` alone means classes that exclude each other: "softmax".

    Example:
        >>> from monai.transforms import AsDiscreted
        >>> output_activation(AsDiscreted("pred", argmax=True))
        'softmax'
    """
    for transform in _flat(postprocessing):
        if _is(transform, "Activationsd"):
            return "softmax" if transform.softmax[0] else "sigmoid" if transform.sigmoid[0] else None
        if _is(transform, "AsDiscreted") and transform.argmax[0]:
            return "softmax"
    return None


@dataclass
class _Chain:
    """The transforms before the network, read one by one, in the one order that the runtime has."""

    channels: int
    stage: int = _LOADING
    last: str = ""
    pictures: str | None = None
    orientation: str | None = None
    spacing: list[float] | None = None
    transposed: bool = False
    size: list[int] | None = None
    resize: str = ""
    cast: str | None = None
    intensity: list[dict[str, Any]] = field(default_factory=list)

    def add(self, transform: Any) -> None:
        name = type(transform).__name__
        if name not in _TRANSFORMS or not type(transform).__module__.startswith(("monai.", "monai_kd.data")):
            known = ", ".join(sorted(_TRANSFORMS))
            raise PipelineRefused(f"the transform {type(transform).__module__}.{name} is not known; known are {known}.")
        stage, read = _TRANSFORMS[name]
        if stage is not None:
            if stage < self.stage:
                raise PipelineRefused(f"{name} after {self.last} is another order than the runtime's.")
            self.stage, self.last = stage, name
        read(self, transform)

    def volume(self, inferer: Any) -> dict[str, Any]:
        if self.pictures is not None or self.transposed or self.cast is not None:
            raise PipelineRefused("pictures that are not resized to one size (Resized) are not known.")
        if not _is(inferer, "SlidingWindowInferer"):
            raise PipelineRefused(f"{type(inferer).__name__} of a volume is not known; SlidingWindowInferer is.")
        roi, overlaps = inferer.roi_size, set(_sequence(inferer.overlap))
        _only(inferer, "sigma_scale", inferer.sigma_scale, (0.125,))
        _only(inferer, "padding_mode", _word(inferer.padding_mode), ("constant",))
        if not isinstance(roi, Sequence) or len(roi) != 3 or min(roi) < 1:
            raise PipelineRefused(f"SlidingWindowInferer with roi_size {roi} is not known; three sizes are.")
        if len(overlaps) != 1:
            raise PipelineRefused(f"SlidingWindowInferer with overlap {inferer.overlap} is not known; one number is.")
        return {
            "kind": "volume",
            "orientation": self.orientation,
            "spacing": self.spacing,
            "intensity": self.intensity,
            "pad_value": float(inferer.cval),
            "roi_size": [int(size) for size in roi],
            "overlap": float(overlaps.pop()),
            "mode": _word(inferer.mode),
            "sw_batch_size": int(inferer.sw_batch_size),
        }

    def picture(self, inferer: Any) -> dict[str, Any]:
        if not _is(inferer, "SimpleInferer"):
            raise PipelineRefused(f"{type(inferer).__name__} of a picture is not known; SimpleInferer is.")
        if not self.transposed:
            raise PipelineRefused("Resized without Transposed: MONAI reads pictures by columns, the runtime by rows.")
        if self.spacing is not None or self.orientation is not None:
            raise PipelineRefused("Resized of a volume is not known.")
        mode = self.pictures or {1: "L", 3: "RGB"}.get(self.channels)
        if {"L": 1, "RGB": 3}.get(str(mode)) != self.channels:
            raise PipelineRefused(f"LoadImaged gives pictures of mode {mode} to a network of {self.channels} channels.")
        mean, std = _affine(self.intensity, self.channels)
        return {
            "kind": "picture",
            "channels": mode,
            "size": self.size,
            "resize": self.resize,
            "cast": self.cast,
            "mean": mean,
            "std": std,
        }


def _nothing(chain: _Chain, transform: Any) -> None:
    """Neither values nor places change."""


def _load(chain: _Chain, transform: Any) -> None:
    for reader in getattr(transform._loader, "readers", ()):
        converter = getattr(reader, "converter", None)
        if converter is not None:
            chain.pictures = _mode_after(converter)


def _mode_after(converter: Callable[[Any], Any]) -> str:
    try:
        modes = {converter(Image.new(mode, (1, 1))).mode for mode in ("L", "RGB", "RGBA")}
    except Exception as error:  # of somebody's own function
        raise PipelineRefused(f"LoadImaged with a converter that fails on a picture ({error}).") from None
    if len(modes) != 1:
        raise PipelineRefused(f"LoadImaged with a converter that gives pictures of modes {sorted(modes)}.")
    return str(modes.pop())


def _ensure_type(chain: _Chain, transform: Any) -> None:
    for dtype in _sequence(getattr(transform, "dtype", None)):
        _only(transform, "dtype", dtype, _FLOATS)


def _orient(chain: _Chain, transform: Any) -> None:
    inner = transform.ornt_transform
    if inner.as_closest_canonical or inner.axcodes is None:
        raise PipelineRefused("Orientationd without axcodes is not known.")
    _only(transform, "labels", inner.labels, (None, (("L", "R"), ("P", "A"), ("I", "S"))))
    if chain.orientation is not None:
        raise PipelineRefused("Orientationd twice is not known.")
    chain.orientation = "".join(inner.axcodes)


def _space(chain: _Chain, transform: Any) -> None:
    inner = transform.spacing_transform
    _only(transform, "mode", _word(transform.mode[0]), ("bilinear",))
    _only(transform, "padding_mode", _word(transform.padding_mode[0]), ("border",))
    for name in ("align_corners", "scale_extent"):
        _only(transform, name, getattr(transform, name)[0], (False,))
    for name in ("diagonal", "recompute_affine"):
        _only(transform, name, getattr(inner, name), (False,))
    if not (np.isnan(inner.min_pixdim).all() and np.isnan(inner.max_pixdim).all()):
        raise PipelineRefused("Spacingd with min_pixdim or max_pixdim is not known.")
    sizes = [float(size) for size in inner.pixdim]
    if all(size <= 0 for size in sizes):  # the image's own
        return
    if len(sizes) != 3 or min(sizes) <= 0 or chain.spacing is not None:
        raise PipelineRefused(f"Spacingd with pixdim {sizes} is not known; three positive sizes, once, are.")
    chain.spacing = sizes


def _transpose(chain: _Chain, transform: Any) -> None:
    indices = tuple(transform.transform.indices or ())
    if indices != (0, 2, 1) or chain.transposed:
        raise PipelineRefused(f"Transposed with indices {indices} is not known; (0, 2, 1), once, is.")
    chain.transposed = True


def _resized(chain: _Chain, transform: Any) -> None:
    inner = transform.resizer
    sizes = [int(size) for size in _sequence(inner.spatial_size)]
    sizes = sizes * 2 if len(sizes) == 1 and chain.transposed else sizes
    if inner.size_mode != "all" or len(sizes) != 2 or min(sizes) < 1 or chain.size is not None:
        raise PipelineRefused(f"Resized to {sizes} ({inner.size_mode}) is not known; two sizes, once, are.")
    _only(transform, "anti_aliasing", transform.anti_aliasing[0], (False,))
    _only(transform, "align_corners", transform.align_corners[0], (None, False))
    chain.resize = _word(transform.mode[0])
    _only(transform, "mode", chain.resize, ("area", "bilinear"))
    chain.size = sizes


def _cast(chain: _Chain, transform: Any) -> None:
    dtype = transform.dtype[0]
    if dtype in _FLOATS:
        return
    _only(transform, "dtype", dtype, (np.uint8, torch.uint8))
    if chain.size is None or chain.stage > _CAST:
        raise PipelineRefused("CastToTyped to uint8 is known right behind Resized alone.")
    chain.stage, chain.cast = _CAST, "uint8"


def _scale_range(chain: _Chain, transform: Any) -> None:
    inner = transform.scaler
    low, high = float(inner.a_min), float(inner.a_max)
    if high == low:
        raise PipelineRefused("ScaleIntensityRanged with a_min equal to a_max is not known.")
    both = inner.b_min is not None and inner.b_max is not None
    width, start = (float(inner.b_max - inner.b_min), float(inner.b_min)) if both else (1.0, 0.0)
    factor = width / (high - low)
    chain.intensity.append({"op": "scale", "factor": factor, "offset": start - low * factor})
    if inner.clip:
        if not both:
            raise PipelineRefused("ScaleIntensityRanged with clip and without b_min and b_max is not known.")
        chain.intensity.append({"op": "clip", "min": float(inner.b_min), "max": float(inner.b_max)})


def _normalize(chain: _Chain, transform: Any) -> None:
    inner = transform.normalizer
    if inner.subtrahend is None and inner.divisor is None:
        chain.intensity.append(
            {"op": "normalize", "nonzero": bool(inner.nonzero), "channel_wise": bool(inner.channel_wise)}
        )
        return
    if inner.nonzero or inner.subtrahend is None or inner.divisor is None:
        raise PipelineRefused(
            "NormalizeIntensityd is known with neither subtrahend nor divisor, or with both and without nonzero."
        )
    means, stds = (np.asarray(value, dtype=np.float64).ravel() for value in (inner.subtrahend, inner.divisor))
    if (stds <= 0).any() or (not inner.channel_wise and (means.size != 1 or stds.size != 1)):
        raise PipelineRefused("NormalizeIntensityd needs positive divisors, and channel_wise where there are several.")
    factors, offsets = np.broadcast_arrays(1 / stds, -means / stds)
    if len(factors) == 1 or (np.ptp(factors) == 0 and np.ptp(offsets) == 0):
        factors, offsets = factors[0], offsets[0]
    elif len(factors) != chain.channels or chain.size is None:
        raise PipelineRefused(f"NormalizeIntensityd with {len(factors)} values a channel is known of pictures alone.")
    chain.intensity.append({"op": "scale", "factor": factors.tolist(), "offset": offsets.tolist()})


def _affine(operations: Sequence[dict[str, Any]], channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, on the scale 0 to 255, of what is done to a picture's values."""
    factor, offset = np.ones(channels), np.zeros(channels)
    for operation in operations:
        if operation["op"] == "clip":
            ends = np.stack([offset, 255 * factor + offset])
            if ends.min() < operation["min"] - 1e-6 or ends.max() > operation["max"] + 1e-6:
                raise PipelineRefused("ScaleIntensityRanged that clips the values of a picture is not known.")
        elif operation["op"] == "scale":
            factor, offset = (
                factor * operation["factor"],
                offset * operation["factor"] + np.asarray(operation["offset"]),
            )
        else:
            raise PipelineRefused("NormalizeIntensityd by a picture's own values is not known.")
    if (factor <= 0).any():
        raise PipelineRefused("ScaleIntensityRanged that inverts a picture is not known.")
    return _rounded(-offset / factor), _rounded(1 / factor)


def _threshold(transforms: Iterable[Any]) -> float | None:
    """Where the output is cut; refuses what the runtime does not do behind the network."""
    found = None
    for transform in transforms:
        name = type(transform).__name__
        if name not in _BEHIND or not type(transform).__module__.startswith("monai."):
            raise PipelineRefused(
                f"the post-processing {type(transform).__module__}.{name} is not known; known are {', '.join(_BEHIND)}."
            )
        if name == "Activationsd" and transform.other[0] is not None:
            raise PipelineRefused("Activationsd with a function of its own is not known.")
        if name == "AsDiscreted":
            _only(transform, "rounding", transform.rounding[0], (None,))
            _only(transform, "to_onehot", transform.to_onehot[0], (None,))
            found = None if transform.threshold[0] is None else float(transform.threshold[0])
    return found


def _exact_borders(transforms: Iterable[Any]) -> bool:
    """Whether labels are decided on the volume's own voxels, not brought there from the network's."""
    decided, exact = False, True
    for transform in transforms:
        if _is(transform, "AsDiscreted"):
            decided = decided or bool(transform.argmax[0]) or transform.threshold[0] is not None
        if _is(transform, "Invertd"):
            exact = not transform.nearest_interp[0]
            if decided and exact:
                raise PipelineRefused(
                    "Invertd behind AsDiscreted is known with nearest_interp True; else it gives labels between labels."
                )
    return exact


def _activated(transforms: Sequence[Any]) -> bool:
    """Whether probabilities are made before an inversion that interpolates."""
    names = [type(transform).__name__ for transform in transforms]
    if not {"Activationsd", "Invertd"} <= set(names):
        return False
    activation, inversion = (transforms[names.index(name)] for name in ("Activationsd", "Invertd"))
    makes = bool(activation.softmax[0] or activation.sigmoid[0])
    return makes and not inversion.nearest_interp[0] and names.index("Activationsd") < names.index("Invertd")


def _flat(transform: Any) -> list[Any]:
    if transform is None:
        return []
    if type(transform) is Compose:
        return [inner for one in transform.transforms for inner in _flat(one)]
    return [transform]


def _is(thing: Any, name: str) -> bool:
    """Whether it is this class of MONAI's; a subclass may do something else."""
    return type(thing).__name__ == name and type(thing).__module__.startswith("monai.")


def _only(thing: Any, name: str, value: Any, allowed: Sequence[Any]) -> None:
    if not any(value is one or value == one for one in allowed):
        known = " or ".join(str(one) for one in allowed)
        raise PipelineRefused(f"{type(thing).__name__} with {name} {value} is not known; {known} is.")


def _word(value: Any) -> str:
    return str(getattr(value, "value", value))


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _rounded(values: np.ndarray) -> list[float]:
    """Without the digits that single precision does not have."""
    return [float(f"{value:.7g}") for value in values]


_TRANSFORMS: dict[str, tuple[int | None, Callable[[_Chain, Any], None]]] = {
    "CastToTyped": (None, _cast),
    "EnsureChannelFirstd": (None, _nothing),
    "EnsureTyped": (None, _ensure_type),
    "LoadImaged": (_LOADING, _load),
    "NormalizeIntensityd": (_VALUES, _normalize),
    "Orientationd": (_AXES, _orient),
    "Resized": (_GRID, _resized),
    "SafeSpacingd": (_GRID, _space),
    "ScaleIntensityRanged": (_VALUES, _scale_range),
    "Spacingd": (_GRID, _space),
    "ToTensord": (None, _ensure_type),
    "Transposed": (_AXES, _transpose),
}
_BEHIND = ("Activationsd", "AsDiscreted", "EnsureTyped", "Invertd", "SaveImaged")
