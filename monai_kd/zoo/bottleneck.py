"""Where a feature is distilled if nobody says: the deepest layer of a network."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from contextlib import ExitStack

from torch import Tensor, nn

from monai_kd.taps import FeatureTaps, TapRow, dry_run, tap_table, unwrap

__all__ = ["bottleneck_tap", "bottleneck_taps"]

_STEM = 0.05  # of a network's parameters
_ATTENTION = (
    "CrossAttentionBlock",
    "MultiheadAttention",
    "SABlock",
    "WindowAttention",
)  # a matrix of weights is no map


def bottleneck_taps(student: nn.Module, teacher: nn.Module, input_shape: Sequence[int]) -> tuple[str, str] | None:
    """Deepest layers of both networks: one name where both have the same layers, else of each its own.

    Args:
        student: the network to be trained.
        teacher: the trained one.
        input_shape: shape of a batch of images, (B, C, *spatial), with B >= 2; neither network is changed.

    Returns:
        The student's tap and the teacher's; ``None`` if one of them has no layer with a feature map, as pure
        transformers.

    Example:
        >>> from monai.networks.nets import UNet
        >>> teacher, student = (UNet(2, 1, 2, channels=(w, 2 * w, 4 * w), strides=(2, 2)) for w in (8, 4))
        >>> bottleneck_taps(student, teacher, (2, 1, 16, 16))
        ('model.1.submodule.1.submodule', 'model.1.submodule.1.submodule')
    """
    theirs = bottleneck_tap(teacher, input_shape)
    if theirs is None:
        return None
    ours = theirs if _layers(student) == _layers(teacher) else bottleneck_tap(student, input_shape)
    return None if ours is None else (ours, theirs)


def bottleneck_tap(network: nn.Module, input_shape: Sequence[int]) -> str | None:
    """The layer with the largest stride; of these the outermost, then the one with the most channels, then the last.

    Single positions (a pooled feature), a skip connection's join, weights of attention, what runs before a twentieth of
    the parameters (the patch embedding of a transformer) and what a later in-place layer overwrites do not count.
    ``None`` if nothing is left.
    """
    names = _candidates(network, input_shape)
    with dry_run(unwrap(network), training=True), ExitStack() as opened:
        taps = {name: opened.enter_context(FeatureTaps(network, [name])) for name in names}
        network(next(unwrap(network).parameters()).new_zeros(tuple(input_shape)))
        return next((name for name in names if _kept(taps[name])), None)


def _layers(network: nn.Module) -> list[str]:
    return [name for name, _ in unwrap(network).named_modules()]


def _candidates(network: nn.Module, input_shape: Sequence[int]) -> list[str]:
    """Layers of the largest stride, the best first."""
    rows = _behind_the_stem(tap_table(network, input_shape))
    shapes = {row.name: shape for row in rows if (shape := _feature_map(row, input_shape)) is not None}
    sizes = {name: math.prod(shape[2:]) for name, shape in shapes.items()}
    deepest = [name for name in shapes if sizes[name] == min(sizes.values())]

    def preference(name: str) -> tuple[bool, int, int]:
        inner = any(name.startswith(f"{other}.") for other in deepest)
        return not inner, shapes[name][1], deepest.index(name)

    return sorted(deepest, key=preference, reverse=True)


def _behind_the_stem(table: Sequence[TapRow]) -> list[TapRow]:
    """Rows of layers that finish behind the first share of the parameters, do not hold them all, and make features."""
    containers = {row.name.rpartition(".")[0] for row in table}
    attention = tuple(f"{row.name}." for row in table if row.type in _ATTENTION)
    total = sum(row.parameters for row in table if row.name not in containers)
    rows, before = [], 0
    for row in table:
        before += row.parameters if row.name not in containers else 0
        if before > _STEM * total and row.parameters < total and not row.name.startswith(attention):
            rows.append(row)
    return rows


def _feature_map(row: TapRow, input_shape: Sequence[int]) -> tuple[int, ...] | None:
    """Shape of a feature map; ``None`` for anything else."""
    try:
        shape = ast.literal_eval(row.shape)
    except (ValueError, SyntaxError):  # of a dict, or of a layer that ran several times
        return None
    if not isinstance(shape, tuple) or len(shape) != len(input_shape) or row.type == "SkipConnection":
        return None
    # Larger than the image: its channels come last, as in a Swin transformer.
    fits = all(size <= image for image, size in zip(input_shape[2:], shape[2:]))
    return shape if fits and math.prod(shape[2:]) > 1 else None


def _kept(taps: FeatureTaps) -> bool:
    """Whether the layer ran once in training, gave a tensor, and no later layer overwrote it."""
    try:
        return all(isinstance(output, Tensor) for output in taps.outputs().values())
    except RuntimeError:
        return False
