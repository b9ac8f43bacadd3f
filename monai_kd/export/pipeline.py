"""What a bundle does around its network, in the few words that a runtime without MONAI understands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.transforms.compose import Compose

from monai_kd.export.behind import Behind
from monai_kd.export.known import FLOATS, PipelineRefused, flat, is_monais, only, place, sequence, word
from monai_kd.export.loading import converted_mode

__all__ = ["output_activation", "pipeline_for", "translate_pipeline"]

_LOADING, _AXES, _GRID, _CAST, _VALUES = range(5)


def translate_pipeline(preprocessing: Any, inferer: Any, postprocessing: Any, channels: int) -> dict[str, Any]:
    """The pipeline of an exported folder, from the parts of a bundle's ``inference.json``.

    Volumes: read once by a reader of MONAI's, with a channel axis, ``Orientationd``, ``Spacingd``, intensities,
    ``SlidingWindowInferer``. Pictures: read likewise, transposed to rows and columns, ``Resized``, intensities,
    ``SimpleInferer``. Post-processing: ``Invertd``, ``Activationsd``, ``AsDiscreted``, ``SaveImaged``. Anything else,
    another order, other keys than "image" and "pred", or an argument that changes what these do is refused, never
    passed over.

    Args:
        preprocessing: a transform, or a ``Compose`` of them.
        inferer: of the network.
        postprocessing: as ``preprocessing``; or ``None``.
        channels: of the network's input.

    Returns:
        ``{"kind": "volume", "orientation", "spacing", "intensity", "pad_value", "roi_size", "overlap", "mode",
        "exact_borders"}`` or ``{"kind": "picture", "channels", "size", "resize", "cast", "mean", "std"}``, with a
        ``"threshold"`` where the output is cut at one, ``"activated": True`` where probabilities are interpolated, not
        what the network gives, ``"foreground": 1`` where a picture's mask of one class is written so, not as 255,
        ``"convert": False`` where files are not converted to the picture's ``"channels"``, so that those of another
        mode are not known, and ``"inverted": False`` where nothing is brought back to a picture's size, see
        :func:`pipeline_for`.

    Raises:
        PipelineRefused: as said; the message names the transform.

    Example:
        >>> from monai.inferers import SimpleInferer
        >>> from monai.transforms import LoadImaged, Resized, Transposed
        >>> load = LoadImaged("image", ensure_channel_first=True)
        >>> chain = Compose([load, Transposed("image", (0, 2, 1)), Resized("image", (64, 64))])
        >>> translate_pipeline(chain, SimpleInferer(), None, 3)["size"]
        [64, 64]
    """
    _refuse_lazy(preprocessing)
    chain = _Chain(channels)
    for transform in flat(preprocessing):
        chain.add(transform)
    chain.check_loaded()
    behind = Behind(chain.moved)
    for transform in flat(postprocessing):
        behind.add(transform)
    pipeline = _volume(chain, inferer, behind) if chain.size is None else _picture(chain, inferer, behind)
    if behind.threshold is not None:
        pipeline["threshold"] = behind.threshold
    if behind.brought_back == "probabilities":
        pipeline["activated"] = True
    return pipeline


def pipeline_for(
    pipeline: Mapping[str, Any], task: str, class_names: Sequence[str], activation: str | None
) -> dict[str, Any]:
    """A translated pipeline, complete for what the network does.

    Args:
        pipeline: of :func:`translate_pipeline`.
        task: "segmentation" or "classification".
        class_names: one a channel of the network's output.
        activation: of :func:`output_activation`.

    Raises:
        PipelineRefused: classes that overlap (several with a sigmoid or a threshold), a softmax of one; a
            classification of one output or cut at a threshold, of which the runtime would write probabilities; masks
            of pictures that are not brought back to the pictures' size.
    """
    count, threshold = len(class_names), pipeline.get("threshold")
    if task == "classification" and count == 1:
        raise PipelineRefused("a classification of a single output is not known; one of several classes is.")
    if task == "classification" and threshold is not None:
        raise PipelineRefused(f"AsDiscreted with threshold {threshold} of a classification is not known.")
    if count > 1 and (activation == "sigmoid" or threshold is not None):
        how = "Activationsd with sigmoid" if threshold is None else f"AsDiscreted with threshold {threshold}"
        raise PipelineRefused(f"{how} over {count} classes, which may overlap, is not known; of one class it is.")
    if count == 1 and activation == "softmax":
        raise PipelineRefused("softmax or argmax over a single class is not known; a sigmoid or a threshold is.")
    if task == "segmentation" and not pipeline.get("inverted", True):
        raise PipelineRefused("Resized without Invertd: masks of the network's size, not the picture's, are not known.")
    found = {key: value for key, value in pipeline.items() if key != "inverted"}
    return found if task == "segmentation" else {**found, "class_names": list(class_names)}


def output_activation(postprocessing: Any) -> str | None:
    """What makes probabilities of the network's output: "softmax", "sigmoid", or ``None`` if the bundle does not say.

    An ``argmax`` alone means classes that exclude each other: "softmax".

    Example:
        >>> from monai.transforms import AsDiscreted
        >>> output_activation(AsDiscreted("pred", argmax=True))
        'softmax'
    """
    for transform in flat(postprocessing):
        if "pred" not in getattr(transform, "keys", ()):
            continue
        at = place(transform, "pred")
        if is_monais(transform, "Activationsd"):
            return "softmax" if transform.softmax[at] else "sigmoid" if transform.sigmoid[at] else None
        if is_monais(transform, "AsDiscreted") and transform.argmax[at]:
            return "softmax"
    return None


@dataclass
class _Chain:
    """The transforms before the network, read one by one, in the one order that the runtime has."""

    channels: int
    stage: int = _LOADING
    last: str = ""
    loaded: bool = False
    channel_first: bool = False
    pictures: str | None = None
    orientation: str | None = None
    spacing: list[float] | None = None
    transposed: bool = False
    size: list[int] | None = None
    resize: str = ""
    cast: str | None = None
    intensity: list[dict[str, Any]] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)

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
        if stage in (_AXES, _GRID):
            self.moved.append(name)
        read(self, transform, place(transform, "image"))

    def check_loaded(self) -> None:
        """Refuse a chain that reads no file, or gives no channel axis."""
        if not self.loaded:
            raise PipelineRefused("preprocessing without LoadImaged of the image is not known.")
        if not self.channel_first:
            raise PipelineRefused("LoadImaged without EnsureChannelFirstd or ensure_channel_first is not known.")

    def add_channel_axis(self) -> None:
        if self.channel_first:
            raise PipelineRefused("EnsureChannelFirstd behind another channel axis is not known.")
        self.channel_first = True


def _volume(chain: _Chain, inferer: Any, behind: Behind) -> dict[str, Any]:
    if chain.pictures is not None or chain.transposed or chain.cast is not None:
        raise PipelineRefused("pictures that are not resized to one size (Resized) are not known.")
    if not is_monais(inferer, "SlidingWindowInferer"):
        raise PipelineRefused(f"{type(inferer).__name__} of a volume is not known; SlidingWindowInferer is.")
    roi, overlaps = inferer.roi_size, set(sequence(inferer.overlap))
    only(inferer, "sigma_scale", inferer.sigma_scale, (0.125,))
    only(inferer, "padding_mode", word(inferer.padding_mode), ("constant",))
    if not isinstance(roi, Sequence) or len(roi) != 3 or min(roi) < 1:
        raise PipelineRefused(f"SlidingWindowInferer with roi_size {roi} is not known; three sizes are.")
    if len(overlaps) != 1:
        raise PipelineRefused(f"SlidingWindowInferer with overlap {inferer.overlap} is not known; one number is.")
    if (chain.orientation or chain.spacing) and behind.brought_back is None:
        raise PipelineRefused(
            f"{' and '.join(chain.moved)} without Invertd: masks of the network's grid, not the volume's, are not "
            "known."
        )
    if behind.saved and behind.ending not in (".nii", ".nii.gz"):
        raise PipelineRefused(f"SaveImaged with output_ext {behind.ending} of a volume is not known; .nii.gz is.")
    if behind.scale is not None:
        raise PipelineRefused(f"SaveImaged with scale {behind.scale} is known of pictures alone.")
    return {
        "kind": "volume",
        "orientation": chain.orientation,
        "spacing": chain.spacing,
        "intensity": chain.intensity,
        "pad_value": float(inferer.cval),
        "roi_size": [int(size) for size in roi],
        "overlap": float(overlaps.pop()),
        "mode": word(inferer.mode),
        "exact_borders": behind.brought_back != "nearest",
    }


def _picture(chain: _Chain, inferer: Any, behind: Behind) -> dict[str, Any]:
    if not is_monais(inferer, "SimpleInferer"):
        raise PipelineRefused(f"{type(inferer).__name__} of a picture is not known; SimpleInferer is.")
    if not chain.transposed:
        raise PipelineRefused("Resized without Transposed: MONAI reads pictures by columns, the runtime by rows.")
    if chain.spacing is not None or chain.orientation is not None:
        raise PipelineRefused("Resized of a volume is not known.")
    if behind.brought_back == "nearest":
        raise PipelineRefused("Invertd with nearest_interp True is known of volumes alone.")
    mode = chain.pictures or {1: "L", 3: "RGB"}.get(chain.channels)
    if {"L": 1, "RGB": 3}.get(str(mode)) != chain.channels:
        raise PipelineRefused(f"LoadImaged gives pictures of mode {mode} to a network of {chain.channels} channels.")
    if behind.saved and behind.ending != ".png":
        raise PipelineRefused(f"SaveImaged with output_ext {behind.ending} of a picture is not known; .png is.")
    cut = behind.threshold is not None
    if behind.saved and behind.scale not in ((None, 255) if cut else (None,)):
        raise PipelineRefused(
            f"SaveImaged with scale {behind.scale} of {'one class' if cut else 'several classes'} is not known; "
            f"{'255 or None' if cut else 'None'} is."
        )
    mean, std = _affine(chain.intensity, chain.channels)
    pipeline: dict[str, Any] = {
        "kind": "picture",
        "channels": mode,
        "size": chain.size,
        "resize": chain.resize,
        "cast": chain.cast,
        "mean": mean,
        "std": std,
    }
    if chain.pictures is None:
        pipeline["convert"] = False
    if behind.saved and cut and behind.scale is None:
        pipeline["foreground"] = 1
    return pipeline if behind.brought_back else {**pipeline, "inverted": False}


def _refuse_lazy(transform: Any) -> None:
    """Refuse steps that MONAI would join into one, with other values than one by one."""
    if getattr(transform, "lazy", False):
        raise PipelineRefused(f"{type(transform).__name__} with lazy True is not known; False is.")
    for inner in transform.transforms if type(transform) is Compose else ():
        _refuse_lazy(inner)


def _channel_first(chain: _Chain, transform: Any, at: int) -> None:
    only(transform, "channel_dim", transform.adjuster.input_channel_dim, (None, "no_channel", -1))
    chain.add_channel_axis()


def _load(chain: _Chain, transform: Any, at: int) -> None:
    chain.pictures = converted_mode(transform)
    if chain.loaded:
        raise PipelineRefused("LoadImaged twice is not known.")
    chain.loaded = True
    if transform._loader.ensure_channel_first:
        chain.add_channel_axis()


def _ensure_type(chain: _Chain, transform: Any, at: int) -> None:
    dtype = transform.dtype[at] if hasattr(transform, "dtype") else transform.converter.dtype
    only(transform, "dtype", dtype, FLOATS)


def _orient(chain: _Chain, transform: Any, at: int) -> None:
    inner = transform.ornt_transform
    if inner.as_closest_canonical or inner.axcodes is None:
        raise PipelineRefused("Orientationd without axcodes is not known.")
    only(transform, "labels", inner.labels, (None, (("L", "R"), ("P", "A"), ("I", "S"))))
    if chain.orientation is not None:
        raise PipelineRefused("Orientationd twice is not known.")
    chain.orientation = "".join(inner.axcodes)


def _space(chain: _Chain, transform: Any, at: int) -> None:
    inner = transform.spacing_transform
    only(transform, "mode", word(transform.mode[at]), ("bilinear",))
    only(transform, "dtype", transform.dtype[at], FLOATS)
    only(transform, "padding_mode", word(transform.padding_mode[at]), ("border",))
    for name in ("align_corners", "scale_extent"):
        only(transform, name, getattr(transform, name)[at], (False,))
    for name in ("diagonal", "recompute_affine"):
        only(transform, name, getattr(inner, name), (False,))
    if not (np.isnan(inner.min_pixdim).all() and np.isnan(inner.max_pixdim).all()):
        raise PipelineRefused("Spacingd with min_pixdim or max_pixdim is not known.")
    sizes = [float(size) for size in inner.pixdim]
    if all(size <= 0 for size in sizes):  # the image's own
        return
    if len(sizes) != 3 or min(sizes) <= 0 or chain.spacing is not None:
        raise PipelineRefused(f"Spacingd with pixdim {sizes} is not known; three positive sizes, once, are.")
    chain.spacing = sizes


def _transpose(chain: _Chain, transform: Any, at: int) -> None:
    indices = tuple(transform.transform.indices or ())
    if indices != (0, 2, 1) or chain.transposed:
        raise PipelineRefused(f"Transposed with indices {indices} is not known; (0, 2, 1), once, is.")
    chain.transposed = True


def _resized(chain: _Chain, transform: Any, at: int) -> None:
    inner = transform.resizer
    sizes = [int(size) for size in sequence(inner.spatial_size)]
    sizes = sizes * 2 if len(sizes) == 1 and chain.transposed else sizes
    if inner.size_mode != "all" or len(sizes) != 2 or min(sizes) < 1 or chain.size is not None:
        raise PipelineRefused(f"Resized to {sizes} ({inner.size_mode}) is not known; two sizes, once, are.")
    only(transform, "dtype", transform.dtype[at], FLOATS)
    only(transform, "anti_aliasing", transform.anti_aliasing[at], (False,))
    only(transform, "align_corners", transform.align_corners[at], (None, False))
    chain.resize = word(transform.mode[at])
    only(transform, "mode", chain.resize, ("area", "bilinear"))
    chain.size = sizes


def _cast(chain: _Chain, transform: Any, at: int) -> None:
    dtype = transform.dtype[at]
    if dtype in FLOATS:
        return
    only(transform, "dtype", dtype, (np.uint8, torch.uint8))
    if chain.size is None or chain.stage > _CAST:
        raise PipelineRefused("CastToTyped to uint8 is known right behind Resized alone.")
    chain.stage, chain.cast = _CAST, "uint8"


def _scale_range(chain: _Chain, transform: Any, at: int) -> None:
    inner = transform.scaler
    only(transform, "dtype", inner.dtype, FLOATS)
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


def _normalize(chain: _Chain, transform: Any, at: int) -> None:
    inner = transform.normalizer
    only(transform, "dtype", inner.dtype, FLOATS)
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


def _rounded(values: np.ndarray) -> list[float]:
    """Without the digits that single precision does not have."""
    return [float(f"{value:.7g}") for value in values]


_TRANSFORMS: dict[str, tuple[int | None, Callable[[_Chain, Any, int], None]]] = {
    "CastToTyped": (None, _cast),
    "EnsureChannelFirstd": (_LOADING, _channel_first),
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
