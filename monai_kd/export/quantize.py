"""int8 by post-training quantisation, calibrated on inputs of the bundle's own training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from monai_kd.export.cases import Sample
from monai_kd.export.documents import Documents
from monai_kd.export.openvino_ir import openvino_module, save_ir
from monai_kd.runtime.engines import openvino_core

__all__ = ["quantize_ir"]


def quantize_ir(folder: Path, network: nn.Module, samples: Sequence[Sample], documents: Documents) -> None:
    """Replace the float32 IR of a folder by its int8 form, by NNCF.

    Args:
        folder: with ``model.xml`` and ``model.bin``.
        network: that it was made from; with layer norms or attention it is quantised as transformers are.
        samples: inputs that the ranges of all values are taken from.
        documents: of the bundle.

    Raises:
        ValueError: no inputs.
    """
    if not samples:
        raise ValueError("int8 needs inputs to calibrate with.")
    openvino_module()
    import nncf

    attends = any(isinstance(module, nn.LayerNorm | nn.MultiheadAttention) for module in network.modules())
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        model = nncf.quantize(
            openvino_core().read_model(str(folder / "model.xml")),
            nncf.Dataset([sample.image.numpy() for sample in samples]),
            subset_size=len(samples),
            model_type=nncf.ModelType.TRANSFORMER if attends else None,
        )
    finally:
        logger.setLevel(level)
    for name in ("model.xml", "model.bin"):
        (folder / name).unlink()
    save_ir(model, folder, documents)
