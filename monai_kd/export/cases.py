"""Inputs of the network as it will see them: windows of a bundle's own cases, or noise where there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.bundle.config_parser import ConfigParser
from monai.data.utils import dense_patch_slices
from monai.inferers.inferer import SliceInferer
from torch import Tensor

from monai_kd._bundle_scripts import importable
from monai_kd.errors import root_cause
from monai_kd.export.student_bundle import StudentBundle

__all__ = ["Cases", "NoCases", "Sample", "noise", "open_cases"]


class NoCases(ValueError):
    """The bundle's cases are not there, or cannot be read."""


@dataclass(frozen=True)
class Sample:
    """One input: where it is from, and the tensor (1, C, *spatial), float32."""

    name: str
    image: Tensor


@dataclass(frozen=True)
class Cases:
    """Cases of one part of a bundle's data, seen through its validation's preprocessing.

    Attributes:
        part: "training" or "validation".
        items: of the data list.
        transform: of an item.
        slices: axis along which a volume is seen slice by slice, or ``None``.
    """

    part: str
    items: Sequence[Any]
    transform: Callable[[Any], Any]
    slices: int | None = None

    def samples(
        self, count: int, channels: int, shape: Sequence[int], pad_value: float = 0.0, each: int = 2
    ) -> Iterator[Sample]:
        """Up to ``count`` inputs of (1, ``channels``, *``shape``), at most ``each`` windows of a case.

        Cases are spread over the list, for lists are often sorted by class or site. Of a case larger than the
        network's input, windows are taken from the most varied to the emptiest.

        Raises:
            NoCases: a case cannot be read or has another number of channels.
        """
        per_case = max(1, min(each, -(-count // max(1, len(self.items)))))
        left = count
        first = self.spread(-(-count // per_case))
        for number in [*first, *sorted(set(range(len(self.items))) - set(first))]:
            if left <= 0:
                return
            try:
                image = torch.as_tensor(np.asarray(self.transform(self.items[number])["image"]), dtype=torch.float32)
            except Exception as error:  # of the bundle's transforms, around whatever went wrong
                raise NoCases(f"{self.part} case {number} cannot be read: {root_cause(error)}") from error
            for place, window in enumerate(_windows(image, shape, pad_value, self.slices, min(per_case, left))):
                if window.shape != (channels, *shape):
                    raise NoCases(
                        f"{self.part} case {number} gives inputs of {tuple(window.shape)}, the network takes "
                        f"{(channels, *shape)}."
                    )
                yield Sample(f"{self.part} case {number + 1}, window {place + 1}", window[None].contiguous())
                left -= 1

    def spread(self, count: int) -> list[int]:
        """Places of up to ``count`` items, evenly over the list."""
        return [int(place) for place in np.linspace(0, len(self.items) - 1, min(count, len(self.items)))]


@contextmanager
def open_cases(student: StudentBundle, part: str) -> Iterator[Cases]:
    """The training or validation cases of a bundle, as its ``train.json`` finds them.

    Args:
        student: the bundle.
        part: "training" or "validation".

    Raises:
        NoCases: there is no training configuration or no such data, or it is not where the configuration says.
    """
    key = {"training": "train#dataset#data", "validation": "validate#dataset#data"}[part]
    with importable(student.root):
        try:
            parser = student.training()
            items = parser.get_parsed_content(key) if parser.get(key) is not None else []
            transform = parser.get_parsed_content("validate#preprocessing")
            slices = _slice_axis(parser)
        except Exception as error:  # of MONAI's parser, around whatever went wrong
            raise NoCases(f"the bundle's {part} cases cannot be found: {root_cause(error)}") from error
        if not isinstance(items, list | tuple) or not items:
            raise NoCases(f"the bundle has no {part} cases at '{key}' of its training configuration.")
        yield Cases(part, items, transform, slices)


def noise(count: int, channels: int, shape: Sequence[int], seed: int = 0) -> Iterator[Sample]:
    """Inputs of normally distributed values, always the same.

    Example:
        >>> [sample.image.shape for sample in noise(2, 1, (4, 4))]
        [torch.Size([1, 1, 4, 4]), torch.Size([1, 1, 4, 4])]
    """
    generator = torch.Generator().manual_seed(seed)
    for number in range(count):
        yield Sample(f"noise {number + 1}", torch.randn(1, channels, *shape, generator=generator))


def _slice_axis(parser: ConfigParser) -> int | None:
    inferer = parser.get_parsed_content("validate#inferer") if parser.get("validate#inferer") is not None else None
    return int(inferer.spatial_dim) if isinstance(inferer, SliceInferer) else None


def _windows(image: Tensor, shape: Sequence[int], pad_value: float, slices: int | None, count: int) -> Iterator[Tensor]:
    """Windows (C, *shape) of an image (C, *spatial), the most varied first."""
    images = list(image.unbind(slices + 1)) if slices is not None and image.ndim == len(shape) + 2 else [image]
    found = []
    for one in images:
        sizes = one.shape[1:]
        if len(sizes) != len(shape):
            found.append(one)  # said by the caller
            continue
        missing = [max(0, wanted - size) for wanted, size in zip(shape, sizes)]
        padding = [side for more in reversed(missing) for side in (more // 2, more - more // 2)]
        padded = F.pad(one, padding, value=pad_value)
        places = dense_patch_slices(padded.shape[1:], shape, shape)
        found += [padded[(slice(None), *place)] for place in places]
    order = np.argsort([-float(window.std()) for window in found], kind="stable")
    for index in order[:: max(1, len(order) // count)][:count]:
        yield found[int(index)]
