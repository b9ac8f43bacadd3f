"""Exported students small enough to be made by hand, for what is predicted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

PICTURE = {
    "kind": "picture",
    "channels": "RGB",
    "size": [16, 16],
    "resize": "bilinear",
    "mean": [128.0] * 3,
    "std": [64.0] * 3,
    "threshold": 0.5,
}
VOLUME = {
    "kind": "volume",
    "orientation": "RAS",
    "spacing": [2.0, 2.0, 2.0],
    "intensity": [],
    "pad_value": 0.0,
    "roi_size": [16, 16, 16],
    "overlap": 0.25,
    "mode": "gaussian",
}


def write_network(folder: Path, channels: int, classes: int, size: tuple[int, ...]) -> None:
    """A convolution of one voxel as ``model.xml`` and ``model.bin``."""
    import openvino
    from openvino import opset13 as ops

    axes = len(size)
    weights = np.random.default_rng(0).standard_normal((classes, channels, *[1] * axes)).astype(np.float32)
    image = ops.parameter([-1, channels, *size], np.float32, name="image")
    answer = ops.convolution(image, ops.constant(weights), [1] * axes, [0] * axes, [0] * axes, [1] * axes)
    openvino.save_model(openvino.Model([answer], [image]), folder / "model.xml", compress_to_fp16=False)


def described(folder: Path, channels: int, classes: int, pipeline: dict[str, Any]) -> dict[str, Any]:
    """``export.json`` of such a folder."""
    return {
        "format": "openvino",
        "precision": "f32",
        "verified": {"openvino": ["f32"]},
        "file": "model.xml",
        "task": "segmentation",
        "input": {"channels": channels, "spatial_shape": pipeline.get("size") or pipeline["roi_size"]},
        "output": {"channels": classes, "activation": "sigmoid" if classes == 1 else "softmax", "labels": {}},
        "pipeline": pipeline,
        "pipeline_refused": None,
        "checksums": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("model.xml", "model.bin")
        },
    }


def export(folder: Path, kind: str) -> Path:
    """An exported student of pictures or of volumes."""
    folder.mkdir(parents=True)
    channels, classes, pipeline = (3, 1, PICTURE) if kind == "picture" else (1, 2, VOLUME)
    write_network(folder, channels, classes, (16,) * (2 if kind == "picture" else 3))
    (folder / "export.json").write_text(json.dumps(described(folder, channels, classes, pipeline)), encoding="utf-8")
    return folder
