"""OpenVINO IR: any batch size, float32 weights as they are, the bundle's documents in its runtime information."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from monai_kd.export.documents import INPUT, OUTPUT, Answer, Documents
from monai_kd.export.torchscript import trace
from monai_kd.runtime.engines import openvino_core, usable_threads

__all__ = ["computes_bf16", "load_openvino", "openvino_module", "save_ir", "write_openvino"]

_HINTS = {"f32": "f32", "bf16": "bf16", "int8": "f32"}


def openvino_module() -> Any:
    """OpenVINO; without its telemetry where it was not imported before: no export is told of to anybody."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # makes its import fail
    import openvino

    return openvino


def write_openvino(
    network: nn.Module, shape: Sequence[int], batch: int | None, folder: Path, documents: Documents
) -> str:
    """Write ``model.xml`` and ``model.bin``, converted from the traced network; input "image", output "pred".

    Args:
        network, shape, batch, folder, documents: see :func:`~monai_kd.export.torchscript.write_torchscript`.

    Returns:
        What made it.

    Raises:
        ValueError: OpenVINO cannot convert the network.
    """
    openvino = openvino_module()
    traced = trace(network, shape, batch)
    try:
        model = openvino.convert_model(traced, input=[openvino.PartialShape([batch or -1, *shape])])
    except Exception as error:  # of its own kinds
        reason = [*str(error).strip().splitlines(), type(error).__name__][0][:200]
        raise ValueError(
            f"OpenVINO cannot convert {type(network).__name__} ({reason}); export to onnx or torchscript."
        ) from error
    model.input(0).get_tensor().set_names({INPUT})
    model.output(0).get_tensor().set_names({OUTPUT})
    save_ir(model, folder, documents)
    return "openvino.convert_model"


def save_ir(model: Any, folder: Path, documents: Documents) -> None:
    """Write a model of OpenVINO's with the bundle's documents under "monai_kd" in its ``rt_info``."""
    for name, content in documents.items():
        model.set_rt_info(json.dumps(content), ["monai_kd", name])
    openvino_module().save_model(model, str(folder / "model.xml"), compress_to_fp16=False)


def load_openvino(file: Path, precision: str) -> Answer:
    """The file as a function of arrays, in OpenVINO on the CPU, in just this precision."""
    settings = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "INFERENCE_NUM_THREADS": usable_threads()}
    openvino_module()
    compiled = openvino_core().compile_model(str(file), "CPU", settings)
    return lambda images: np.array(compiled([images])[0], dtype=np.float32)


def computes_bf16() -> bool:
    """Whether this CPU computes in bfloat16."""
    openvino_module()
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
