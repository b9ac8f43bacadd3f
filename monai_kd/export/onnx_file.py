"""ONNX: any batch size, the bundle's documents in its metadata."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_kd.export.documents import INPUT, OUTPUT, Answer, Documents, example_input
from monai_kd.runtime.engines import usable_threads

__all__ = ["load_onnx", "write_onnx"]

_OPSET = 18


def write_onnx(network: nn.Module, shape: Sequence[int], batch: int | None, folder: Path, documents: Documents) -> str:
    """Write ``model.onnx``, with weights inside, input "image" and output "pred".

    torch's exporter is used, and its former, tracing one for networks that the newer cannot read.

    Args:
        network, shape, batch, folder, documents: see :func:`~monai_kd.export.torchscript.write_torchscript`.

    Returns:
        What made it: "torch.export" or "torch.jit.trace".

    Raises:
        ValueError: neither can export the network.
    """
    import onnx

    failed = {}
    for exporter, export in (("torch.export", _exported), ("torch.jit.trace", _traced)):
        try:
            model = export(network, example_input(shape, batch), batch)
            break
        except Exception as error:  # of the exporters, whatever they meet in a network
            failed[exporter] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    else:
        reasons = "; ".join(f"{exporter}: {reason}" for exporter, reason in failed.items())
        raise ValueError(f"{type(network).__name__} cannot be exported to ONNX ({reasons}); export to torchscript.")
    onnx.helper.set_model_props(model, {name: json.dumps(content) for name, content in documents.items()})
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "model.onnx"))
    return exporter


def load_onnx(file: Path, precision: str) -> Answer:
    """The file as a function of arrays, in ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images})[0]


def _exported(network: nn.Module, example: torch.Tensor, batch: int | None) -> Any:
    dynamic = ({0: torch.export.Dim("batch")},) if batch is None else None
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=_OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=dynamic,
            verbose=False,
        )
    assert program is not None  # noqa: S101  # with dynamo and without a file
    return program.model_proto


def _traced(network: nn.Module, example: torch.Tensor, batch: int | None) -> Any:
    import onnx

    file = io.BytesIO()
    axes = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}} if batch is None else None
    with _quiet():
        torch.onnx.export(
            network,
            (example,),
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=_OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes=axes,
        )
    return onnx.load_from_string(file.getvalue())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say about operators that are not used here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
