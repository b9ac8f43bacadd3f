"""Exported students of the bundles with random weights: time and memory do not depend on what a network has learned."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle.config_parser import ConfigParser
from torch import Tensor, nn

from monai_kd.data.ct_intensities import simulate_ct
from monai_kd.data.ct_phantoms import abdomen_labels

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
KIDNEY = "hlfd_kidney_tumor_segmentation"
FAST = ("fast_student.json",)
FOREGROUND = 0.02  # share of the voxels that a student with random weights says is not background


def scratch() -> Path:
    """A folder that all processes of a run share; ``python -m benchmarks`` makes and removes it."""
    return Path(os.environ["BENCHMARKS_SCRATCH"])


def bundle_network(
    bundle: str, name: str = "network_def", overrides: Mapping[str, Any] | None = None, configs: Sequence[str] = ()
) -> nn.Module:
    """A network of a bundle, with weights that are always the same; ``configs`` come behind ``train.json``."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLES / bundle / "configs" / file) for file in ("train.json", *configs)])
    parser.update(dict(overrides or {}))
    torch.manual_seed(0)
    network: nn.Module = parser.get_parsed_content(name)
    return network.eval().requires_grad_(False)


def volume_overrides(window: int) -> dict[str, Any]:
    """The kidney bundle at 1.5 mm with windows of this side, overlapping by a quarter."""
    return {"patch_size": [window] * 3, "spacing": [1.5] * 3, "overlap": 0.25}


def volume_network(role: str) -> nn.Module:
    """ "teacher", "student" or "fast student" (of ``fast_student.json``) of the kidney bundle.

    Its weights are random, but kernels are the same at all their places, so that labels are of regions, as those of a
    trained network, and not of single voxels; and a bias makes most of an abdomen background.
    """
    configs = FAST if role == "fast student" else ()
    network = bundle_network(KIDNEY, "teacher_def" if role == "teacher" else "network_def", configs=configs)
    weight, bias = network.get_submodule("output_block").parameters()
    classes = network.get_submodule("output_block")(torch.zeros(1, weight.shape[1], 2, 2, 2)).shape[1]
    voxels = len(bias) // classes  # that one position of the head answers for: alike
    for kernel in (one for one in network.parameters() if one.ndim == 5):
        kernel.copy_(kernel.mean(dim=(2, 3, 4), keepdim=True).expand_as(kernel))
    weight.copy_(weight.unflatten(0, (classes, voxels)).mean(dim=1).repeat_interleave(voxels, dim=0))
    bias.zero_()
    answer: Tensor = network(_abdomen())
    bias[:voxels] += (answer[:, 1:].amax(dim=1) - answer[:, 0]).flatten().quantile(1 - FOREGROUND)
    return network


def _abdomen() -> Tensor:
    """Four parts of a generated CT, 64^3 voxels each, as the kidney bundle shows it to its networks."""
    spacing, size = (1.5, 1.5, 1.5), np.array((240, 200, 144))
    image = simulate_ct(abdomen_labels(0, size, spacing), spacing, 0, "kidney", "RAS").astype(np.float32)
    corners = product(*((full // 4 - 32, 3 * full // 4 - 32) for full in size[:2]), (size[2] // 2 - 32,))
    parts = [image[tuple(slice(start, start + 64) for start in corner)] for corner in corners]
    return torch.from_numpy(np.clip(np.stack(parts)[:, None] * 0.004 - 0.2, -1, 1))


def volume_student(window: int, precision: str = "f32", fast: bool = False) -> Path:
    """The exported student of the kidney bundle; ``fast``: that of ``fast_student.json``."""
    role, configs, suffix = ("fast student", FAST, "_fast") if fast else ("student", (), "")
    network, overrides = volume_network(role), volume_overrides(window)
    return _exported(KIDNEY, precision, network, overrides, f"{suffix}_{window}", configs)


def picture_student(bundle: str, precision: str = "f32", size: int | None = None) -> Path:
    """The exported student of a bundle for pictures."""
    overrides = {} if size is None else {"image_size": size}
    return _exported(bundle, precision, bundle_network(bundle), overrides, "" if size is None else f"_{size}")


def precisions() -> tuple[str, ...]:
    """What OpenVINO computes in on this processor."""
    from monai_kd.export.openvino_ir import computes_bf16

    return ("f32", "bf16", "int8") if computes_bf16() else ("f32", "int8")


def _exported(
    bundle: str,
    precision: str,
    network: nn.Module,
    overrides: Mapping[str, Any],
    suffix: str,
    configs: Sequence[str] = (),
) -> Path:
    """The folder, made on first use."""
    from monai_kd.export import export_bundle

    root = scratch() / f"{bundle}{suffix}"
    folder = root / precision
    if folder.is_dir():
        return folder
    if precision == "int8":
        _quantize(_exported(bundle, "f32", network, overrides, suffix, configs), folder, network)
        return folder
    root.mkdir(exist_ok=True)
    torch.save(network.state_dict(), root / "model.pt")
    changes = {**overrides, "ckpt_dir": str(root), "dataset_dir": str(root / "no data")}
    files = [BUNDLES / bundle / "configs" / file for file in configs]
    export_bundle(
        BUNDLES / bundle, folder, precision=precision, checkpoint="model.pt", overrides=changes, configs=files
    )
    return folder


def _quantize(source: Path, folder: Path, network: nn.Module) -> None:
    """The int8 form of an exported folder, calibrated on noise: good for its time alone."""
    from monai_kd.export.cases import noise
    from monai_kd.export.openvino_ir import write_openvino
    from monai_kd.export.quantize import quantize_ir
    from monai_kd.runtime.description import sha256

    draft = folder.with_name("int8_draft")
    shutil.copytree(source, draft)
    content = json.loads((draft / "export.json").read_text(encoding="utf-8"))
    channels, shape = content["input"]["channels"], content["input"]["spatial_shape"]
    write_openvino(network, (channels, *shape), None, draft, {})  # without the precise instance norms of f32
    quantize_ir(draft, network, list(noise(2, channels, shape)), {})
    content |= {"precision": "int8", "verified": {"openvino": ["int8"]}}
    content["checksums"] |= {name: sha256(draft / name) for name in ("model.xml", "model.bin")}
    (draft / "export.json").write_text(json.dumps(content))
    draft.rename(folder)
