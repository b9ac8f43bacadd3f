"""TorchScript: the network traced, with the bundle's documents inside, as MONAI's own exporter writes it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data.torchscript_utils import save_net_with_metadata
from torch import nn

from monai_kd.export.documents import INFERENCE, METADATA, Answer, Documents, example_input

__all__ = ["load_torchscript", "trace", "write_torchscript"]


def trace(network: nn.Module, shape: Sequence[int], batch: int | None) -> torch.jit.ScriptModule:
    """The network traced on :func:`~monai_kd.export.documents.example_input`."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what may not hold for other inputs; that is verified
        traced = torch.jit.trace(network, example_input(shape, batch), check_trace=False)
    if not isinstance(traced, torch.jit.ScriptModule):
        raise TypeError(f"tracing gave a {type(traced).__name__}, expected a ScriptModule.")
    return traced


def write_torchscript(
    network: nn.Module, shape: Sequence[int], batch: int | None, folder: Path, documents: Documents
) -> str:
    """Write ``model.ts``, which ``torch.jit.load`` and MONAI Deploy read.

    Args:
        network: in evaluation mode, on the CPU.
        shape: (C, *spatial) of the input.
        batch: its fixed batch size, or ``None`` for any.
        folder: where the file goes.
        documents: of the bundle; ``metadata.json`` gets the versions of MONAI, torch and numpy besides.

    Returns:
        What made it.
    """
    save_net_with_metadata(
        trace(network, shape, batch),
        str(folder / "model.ts"),
        meta_values=documents[METADATA],
        more_extra_files={INFERENCE: json.dumps(documents[INFERENCE]).encode()},
    )
    return "torch.jit.trace"


def load_torchscript(file: Path, precision: str) -> Answer:
    """The file as a function of arrays, in float32."""
    network = torch.jit.load(str(file), map_location="cpu").eval()

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = network(torch.from_numpy(images)).numpy()
        return found

    return answer
