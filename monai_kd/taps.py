"""Outputs of named layers, taken by forward hooks that leave nothing behind."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "FeatureTaps",
    "TapRow",
    "TapTable",
    "check_tap_names",
    "dry_run",
    "tap_table",
    "unwrap",
    "zeros_like_input",
]


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own network under ``DistributedDataParallel`` and ``torch.compile``.

    Raises:
        TypeError: for ``DataParallel``, whose replicas are rebuilt on every call and cannot be tapped.
    """
    while True:
        if isinstance(model, nn.DataParallel):
            raise TypeError(
                "DataParallel rebuilds its replicas on every call; use DistributedDataParallel to tap layers."
            )
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile's OptimizedModule
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def check_tap_names(model: nn.Module, names: Sequence[str], owner: str = "the network") -> None:
    """Raise ``ValueError`` for layer names that ``model`` does not have, with the closest names of each."""
    known = [name for name, _ in unwrap(model).named_modules() if name]
    unknown = [name for name in names if name not in set(known)]
    if not unknown:
        return
    lines = []
    for name in unknown:
        close = get_close_matches(name, known, n=5, cutoff=0.4) or [k for k in known if name in k][:5]
        lines.append(f"'{name}'" + (f" (closest: {', '.join(close)})" if close else ""))
    raise ValueError(
        f"{owner} ({type(unwrap(model)).__name__}) has no layer named {'; '.join(lines)}. "
        "tap_table(model, input_shape) lists every name."
    )


class FeatureTaps:
    """Outputs of named layers during the forward passes inside a ``with`` block.

    Nothing is set on the layers but a hook, removed on exit. A deepcopy or pickle of a tapped model carries inert
    hooks, so a copy (an EMA model, say) never writes into these taps.

    Args:
        model: the network; ``DistributedDataParallel`` and ``torch.compile`` wrappers are looked through. Open the
            taps before the first call of a compiled model: a graph traced without hooks stays without them.
        names: layer names as in ``model.named_modules()``.

    Raises:
        ValueError: when a name does not exist; the closest names are listed.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        >>> with FeatureTaps(net, ["0"]) as taps:
        ...     _ = net(torch.zeros(2, 1, 8, 8))
        ...     taps.outputs()["0"].shape
        torch.Size([2, 4, 6, 6])
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        check_tap_names(model, names)
        self.model = model
        self.names = tuple(dict.fromkeys(names))
        self._hits: dict[str, list[tuple[Any, tuple[int, ...] | None]]] = {name: [] for name in self.names}
        self._hooks = {name: _Record(self, name) for name in self.names}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def open(self) -> FeatureTaps:
        """Start recording. Opening twice is opening once."""
        if not self._handles:
            layers = dict(unwrap(self.model).named_modules())
            self._handles = [layers[name].register_forward_hook(self._hooks[name]) for name in self.names]
        return self

    def close(self) -> None:
        """Remove the hooks and drop what was recorded."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.clear()

    def clear(self) -> None:
        """Drop what was recorded, keep recording."""
        for hits in self._hits.values():
            hits.clear()

    def outputs(self) -> dict[str, Any]:
        """What each layer returned since the taps were opened or cleared.

        Returns:
            ``{name: output}``; a list of outputs, in call order, for a layer that ran more than once.

        Raises:
            RuntimeError: when a layer did not run, or a later in-place layer overwrote what it returned.
        """
        result: dict[str, Any] = {}
        for name, hits in self._hits.items():
            if not hits:
                raise RuntimeError(
                    f"layer '{name}' returned nothing: it did not run in the forward pass, or the model was compiled "
                    "and called before the taps were opened (open them first, or call torch.compiler.reset())."
                )
            for output, versions in hits:
                if versions is not None and _versions(output) != versions:
                    raise RuntimeError(
                        f"the output of layer '{name}' was overwritten in place by a later layer (an in-place "
                        "activation); tap that later layer instead."
                    )
            values = [output for output, _ in hits]
            result[name] = values[0] if len(values) == 1 else values
        return result

    def __enter__(self) -> FeatureTaps:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureTaps:
        return self._rebuild(copy.deepcopy(self.model, memo), self.names, bool(self._handles))

    def __reduce__(self) -> tuple[Any, ...]:
        return self._rebuild, (self.model, self.names, bool(self._handles))

    @classmethod
    def _rebuild(cls, model: nn.Module, names: Sequence[str], opened: bool) -> FeatureTaps:
        """A copy records its own model, and starts empty: a graph cannot be copied."""
        taps = cls(model, names)
        return taps.open() if opened else taps


class _Record:
    """A forward hook that hands a layer's output to its taps; its copies are inert."""

    def __init__(self, taps: FeatureTaps | None, name: str) -> None:
        self.taps = taps
        self.name = name

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.taps is not None:
            # A compiled graph has no in-place layers left, and no counters to read.
            versions = None if torch.compiler.is_compiling() else _versions(output)
            self.taps._hits[self.name].append((output, versions))

    def __deepcopy__(self, memo: dict[int, Any]) -> _Record:
        return _Record(None, self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Record, (None, self.name)


def _versions(output: Any) -> tuple[int, ...]:
    """In-place counters of all tensors in ``output``; inference tensors have none."""
    if isinstance(output, Tensor):
        return () if output.is_inference() else (output._version,)
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return tuple(version for item in output for version in _versions(item))
    return ()


@dataclass(frozen=True)
class TapRow:
    """One tappable layer: what it is and what it returns."""

    name: str
    type: str
    shape: str
    stride: str
    parameters: int


class TapTable(list[TapRow]):
    """Rows of :func:`tap_table`; ``print`` shows them as an aligned table."""

    def __str__(self) -> str:
        head = ("name", "type", "output shape", "stride", "parameters")
        body = [(row.name, row.type, row.shape, row.stride, f"{row.parameters:,}") for row in self]
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(5)]
        lines = []
        for line in [head, *body]:
            cells = [cell.rjust(w) if i >= 3 else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths))]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


def tap_table(model: nn.Module, input_shape: Sequence[int]) -> TapTable:
    """Every layer that can be tapped, in the order in which the layers finish.

    The model runs once in eval mode, without gradients, on zeros; its mode, buffers and the random state are as before.

    Args:
        model: any network called with one tensor.
        input_shape: shape of that tensor, (B, C, *spatial).

    Returns:
        One row per layer that ran: name, type, output shape, stride against the input and parameters. A layer that ran
        n times has "xn" behind its shape.

    Example:
        >>> print(tap_table(nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU()), (1, 1, 8, 8)))
        name  type    output shape  stride  parameters
        0     Conv2d  (1, 4, 4, 4)       2          40
        1     ReLU    (1, 4, 4, 4)       2           0
    """
    network = unwrap(model)
    names = [name for name, _ in network.named_modules() if name]
    layers = dict(network.named_modules())
    taps = FeatureTaps(network, names)
    order: list[str] = []
    watchers = [layers[name].register_forward_hook(lambda *_, name=name: order.append(name)) for name in names]
    with dry_run(network, training=False), taps:
        try:
            network(zeros_like_input(network, input_shape))
        finally:
            for watcher in watchers:
                watcher.remove()
        hits = {name: [output for output, _ in taps._hits[name]] for name in names}
    rows = TapTable()
    for name in dict.fromkeys(order):
        first, times = hits[name][0], len(hits[name])
        rows.append(
            TapRow(
                name=name,
                type=type(layers[name]).__name__,
                shape=describe(first) + (f" x{times}" if times > 1 else ""),
                stride=_stride(first, input_shape),
                parameters=sum(p.numel() for p in layers[name].parameters()),
            )
        )
    return rows


def describe(value: Any) -> str:
    """Shape of a tensor, or of each tensor in a list, tuple or dict, for tables and messages."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(describe(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {describe(item)}" for key, item in value.items()) + "}"
    return type(value).__name__


@contextmanager
def dry_run(network: nn.Module, training: bool) -> Iterator[None]:
    """Run ``network`` without gradients and leave no trace: modes, buffers and random state are restored."""
    modes = {module: module.training for module in network.modules()}
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in modes
        for name, buffer in module._buffers.items()
        if training and buffer is not None
    ]
    devices = sorted({p.device.index or 0 for p in network.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            network.train(training)
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)  # also where forward() put a new tensor in its place


def zeros_like_input(network: nn.Module, shape: Sequence[int]) -> Tensor:
    """Zeros of this shape, of the kind and on the device of the network's weights.

    Example:
        >>> zeros_like_input(nn.Conv2d(1, 1, 1).half(), (1, 1, 2, 2)).dtype
        torch.float16
    """
    parameter = next(network.parameters(), torch.zeros(()))
    return torch.zeros(tuple(shape), device=parameter.device, dtype=parameter.dtype)


def _stride(output: Any, input_shape: Sequence[int]) -> str:
    if not isinstance(output, Tensor) or output.ndim != len(input_shape):
        return "-"
    strides = [i / o if o else 0.0 for i, o in zip(input_shape[2:], output.shape[2:])]
    if len(set(strides)) == 1:
        strides = strides[:1]
    return "x".join(f"{s:g}" for s in strides)
