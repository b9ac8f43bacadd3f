"""The runtimes that compute an exported network on a CPU: an array in, an array out."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from monai_kd.runtime.description import ExportDescription, ExportError

__all__ = ["RUNTIMES", "Engine", "open_engine", "openvino_core", "usable_threads"]

Engine = Callable[[np.ndarray], np.ndarray]
_ONE_CORE = Lock()


def open_engine(export: ExportDescription, runtime: str, precision: str, num_threads: int) -> Engine:
    """The exported network in a runtime: ``engine(images)`` with images (1, C, *spatial) of one size, float32.

    Raises:
        ExportError: the runtime cannot give the precision from this file, or the file is no such network.
        ModuleNotFoundError: the runtime is not installed.
    """
    try:
        engine, channels = RUNTIMES[runtime](export, precision, num_threads)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{runtime} is not installed ({error}); install it: pip install {runtime}.", name=error.name
        ) from None
    for what, found, said in zip(("input", "output"), channels, (export.in_channels, export.out_channels)):
        if isinstance(found, int) and found != said:
            raise ExportError(
                f"'{export.file}' has {found} {what} channels, export.json says {said}: they are not of one export. "
                "Copy the exported folder whole, or export the bundle again."
            )
    return engine


def usable_threads() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def openvino_core() -> Any:
    """OpenVINO's ``Core``, one for the process and never freed.

    Each sets a stack for signals and puts back the one before when it goes. Of several that do not go in reverse order
    the last puts back one that is freed, and the next signal ends the process: a worker of a ``DataLoader`` that is
    done, or Ctrl-C.
    """
    with _ONE_CORE:
        return _core()


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _openvino(export: ExportDescription, precision: str, num_threads: int) -> tuple[Engine, tuple[Any, Any]]:
    import openvino

    core = openvino_core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ExportError("this CPU does not compute in bf16; ask for precision 'f32', or export the bundle in that.")
    model = _read(core.read_model, export.file, "OpenVINO")
    source, target = model.input(0).get_partial_shape(), model.output(0).get_partial_shape()
    channels = (_fixed(source, 1), _fixed(target, 1))
    asked = [1, export.in_channels, *export.spatial_shape]
    if not source.compatible(openvino.PartialShape(asked)):
        raise ExportError(
            f"'{export.file}' takes images of shape {source}, export.json says {asked}: they are not of one export. "
            "Copy the exported folder whole, or export the bundle again."
        )
    model.reshape({model.input(0): openvino.PartialShape(asked)})  # a fixed size is planned better than an open one
    compiled = core.compile_model(
        model,
        "CPU",
        {
            # Never the runtime's own choice, which may be bf16.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # several processes would be pinned to the same cores
        },
    )
    request = compiled.create_infer_request()

    def engine(images: np.ndarray) -> np.ndarray:
        request.infer([images], share_inputs=True)
        return np.array(request.get_output_tensor(0).data)

    return engine, channels


def _fixed(shape: Any, axis: int) -> int | None:
    """A size of an OpenVINO shape that is not left open."""
    known = shape.rank.is_static and len(shape) > axis and shape[axis].is_static
    return int(shape[axis].get_length()) if known else None


def _onnxruntime(export: ExportDescription, precision: str, num_threads: int) -> tuple[Engine, tuple[Any, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1

    def make(path: str) -> Any:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    session = _read(make, export.file, "ONNX Runtime")
    source, target = session.get_inputs()[0], session.get_outputs()[0]

    def engine(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([target.name], {source.name: images})[0])

    return engine, (source.shape[1], target.shape[1])


def _read(read: Callable[[str], Any], path: Path, name: str) -> Any:
    try:
        return read(str(path))
    except Exception as error:  # the runtimes have their own kinds
        raise ExportError(f"{name} cannot read '{path}': {str(error).strip()}") from None


RUNTIMES: dict[str, Callable[[ExportDescription, str, int], tuple[Engine, tuple[Any, Any]]]] = {
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}
