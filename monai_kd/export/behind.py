"""What a bundle does behind its network, step by step until a mask is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.utils.type_conversion import get_equivalent_dtype

from monai_kd.export.known import FLOATS, PipelineRefused, flat, only, place

__all__ = ["Behind"]

_PRED, _IMAGE = "pred", "image"


@dataclass
class Behind:
    """The transforms behind the network, read one by one by :meth:`add`.

    Attributes:
        moved: names of the transforms in front of the network that move voxels.
        probabilities: whether the answer was made probabilities.
        threshold: where probabilities are cut, or ``None``.
        decided: whether they were made labels.
        brought_back: to the image's own voxels: "answer", "probabilities" or "nearest" (labels, or an answer, by the
            nearest voxel); ``None`` so far.
        saved: whether the mask is written.
        scale: of the written mask's values, or ``None``.
        ending: of the written file's name.
    """

    moved: Sequence[str]
    probabilities: bool = False
    threshold: float | None = None
    decided: bool = False
    brought_back: str | None = None
    saved: bool = False
    scale: int | None = None
    ending: str = ""

    def add(self, transform: Any) -> None:
        """Read the next transform.

        Raises:
            PipelineRefused: the runtime does not know it, its arguments, or it at this place.
        """
        name = type(transform).__name__
        if name not in _STEPS or not type(transform).__module__.startswith("monai."):
            raise PipelineRefused(
                f"the post-processing {type(transform).__module__}.{name} is not known; known are {', '.join(_STEPS)}."
            )
        if self.saved:
            raise PipelineRefused(f"{name} behind SaveImaged is not known.")
        _STEPS[name](self, transform)

    def _activate(self, transform: Any) -> None:
        at = place(transform, _PRED)
        if transform.other[at] is not None:
            raise PipelineRefused("Activationsd with a function of its own is not known.")
        only(transform, "dim", transform.converter.kwargs.get("dim", 0), (0,))
        if transform.softmax[at] or transform.sigmoid[at]:
            if self.decided or self.probabilities:
                raise PipelineRefused(f"Activationsd {'behind AsDiscreted' if self.decided else 'twice'} is not known.")
            self.probabilities = True

    def _decide(self, transform: Any) -> None:
        at = place(transform, _PRED)
        only(transform, "rounding", transform.rounding[at], (None,))
        only(transform, "to_onehot", transform.to_onehot[at], (None,))
        more = transform.converter.kwargs
        only(transform, "dim", more.get("dim", 0), (0,))
        only(transform, "keepdim", more.get("keepdim", True), (True,))
        _holds_labels(transform, "dtype", more.get("dtype"))
        argmax, threshold = bool(transform.argmax[at]), transform.threshold[at]
        if not argmax and threshold is None:
            return
        if self.decided or (argmax and threshold is not None):
            how = "twice" if self.decided else "with argmax and threshold"
            raise PipelineRefused(f"AsDiscreted {how} is not known.")
        if threshold is not None and not 0 < threshold < 1:
            raise PipelineRefused(f"AsDiscreted with threshold {threshold} is not known; one between 0 and 1 is.")
        self.decided = True
        self.threshold = None if threshold is None else float(threshold)

    def _bring_back(self, transform: Any) -> None:
        at = place(transform, _PRED, alone=True)
        only(transform, "orig_keys", transform.orig_keys[at], (_IMAGE,))
        only(transform, "post_func", transform.post_func[at], (None,))
        undone = [name for name in (type(one).__name__ for one in flat(transform.transform)) if name in self.moved]
        if undone != list(self.moved) or self.brought_back is not None:
            again = "twice" if self.brought_back else f"of {', '.join(undone) or 'nothing'}"
            raise PipelineRefused(f"Invertd {again} is not known; once, of {', '.join(self.moved)} it is.")
        if transform.nearest_interp[at]:
            self.brought_back = "nearest"
            return
        if self.decided:
            raise PipelineRefused(
                "Invertd behind AsDiscreted is known with nearest_interp True; else it gives labels between labels."
            )
        self.brought_back = "probabilities" if self.probabilities else "answer"

    def _type(self, transform: Any) -> None:
        dtype = transform.dtype[place(transform, _PRED)]
        if self.decided:
            _holds_labels(transform, "dtype", dtype)
        else:
            only(transform, "dtype", dtype, FLOATS)

    def _save(self, transform: Any) -> None:
        place(transform, _PRED, alone=True)
        saver = transform.saver
        only(transform, "resample", saver.meta_kwargs["resample"], (False,))
        _holds_labels(transform, "output_dtype", saver.init_kwargs["output_dtype"])
        for writer in saver.writers:
            if not writer.__module__.startswith("monai."):
                raise PipelineRefused(f"SaveImaged with the writer {writer.__module__}.{writer.__name__} is not known.")
        if not self.decided:
            raise PipelineRefused("SaveImaged without AsDiscreted, of what are no labels, is not known.")
        self.saved, self.scale, self.ending = True, saver.init_kwargs["scale"], saver.output_ext


def _holds_labels(transform: Any, name: str, dtype: Any) -> None:
    """Labels are the same in any type that has their numbers; the runtime writes uint8."""
    if dtype is not None and np.dtype(get_equivalent_dtype(dtype, np.ndarray)) in (np.bool_, np.int8):
        raise PipelineRefused(f"{type(transform).__name__} with {name} {dtype} is not known; it does not hold labels.")


_STEPS: dict[str, Callable[[Behind, Any], None]] = {
    "Activationsd": Behind._activate,
    "AsDiscreted": Behind._decide,
    "EnsureTyped": Behind._type,
    "Invertd": Behind._bring_back,
    "SaveImaged": Behind._save,
}
