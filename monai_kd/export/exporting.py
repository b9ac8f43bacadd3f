"""A trained bundle's student as a folder that runs without the bundle: exported, verified, described."""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monai_kd._files import replace_folder
from monai_kd.export.accuracy import Accuracy, compare_accuracy
from monai_kd.export.cases import NoCases, Sample, noise, open_cases
from monai_kd.export.documents import INFERENCE, METADATA, Answer
from monai_kd.export.instance_norm import with_row_statistics
from monai_kd.export.known import PipelineRefused
from monai_kd.export.onnx_file import load_onnx, write_onnx
from monai_kd.export.openvino_ir import computes_bf16, load_openvino, write_openvino
from monai_kd.export.pipeline import pipeline_for
from monai_kd.export.quantize import quantize_ir
from monai_kd.export.student_bundle import StudentBundle, read_student
from monai_kd.export.torchscript import load_torchscript, write_torchscript
from monai_kd.export.verify import LEAST_AGREEMENT, Verification, VerificationError, same_for_batches, verify
from monai_kd.runtime.description import sha256

__all__ = ["FORMATS", "PRECISIONS", "Exported", "export_bundle"]

FORMATS = ("torchscript", "onnx", "openvino")
PRECISIONS = ("f32", "bf16", "int8")
_FILES = {"torchscript": "model.ts", "onnx": "model.onnx", "openvino": "model.xml"}
_WRITERS = {"torchscript": write_torchscript, "onnx": write_onnx, "openvino": write_openvino}
_LOADERS = {"torchscript": load_torchscript, "onnx": load_onnx, "openvino": load_openvino}
_RUNTIMES = {"torchscript": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
_ENOUGH = {2: (128, 256), 3: (16, 16)}  # inputs to calibrate int8 with, and cases to score it on, of 2D and 3D
_NEEDED: dict[str, tuple[str, ...]] = {
    "torchscript": (),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
}
_DESCRIPTION = "export.json"
_INPUTS = 4


@dataclass(frozen=True)
class Exported:
    """An exported folder.

    Attributes:
        folder: with the network's file, ``export.json``, ``metadata.json`` and ``inference.json``.
        description: what ``export.json`` says.
        verification: the outputs held against the bundle's network.
        accuracy: of int8, else ``None``.
    """

    folder: Path
    description: dict[str, Any]
    verification: Verification
    accuracy: Accuracy | None


def export_bundle(
    bundle: str | Path,
    output: str | Path,
    to: str = "openvino",
    precision: str = "f32",
    checkpoint: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    configs: Sequence[str | Path] = (),
    spatial_shape: Sequence[int] | None = None,
    calibration_inputs: int | None = None,
    validation_cases: int | None = None,
    max_drop: float = 0.005,
) -> Exported:
    """Export the student of a trained bundle, verify it, and write it to a folder, whole or not at all.

    The network is built as ``inference.json`` says and filled with the weights of ``checkpoint``: no teacher, taps or
    adapters. Its exported form must give the outputs of the network (see :data:`~monai_kd.export.verify.LIMITS`) on
    windows of validation cases, or on noise where these are not there. A further precision or runtime that can take the
    file is compared too, of a segmentation by its labels as well (see
    :data:`~monai_kd.export.verify.LEAST_AGREEMENT`): ``export.json`` lists those that give these outputs, no other is
    served, and ``not_verified`` has the reason.

    Args:
        bundle: folder of the bundle.
        output: folder to write; an earlier export in it is replaced.
        to: "torchscript", "onnx" or "openvino".
        precision: "f32"; of OpenVINO also "bf16", float32 weights that the runtime computes with in bfloat16, and
            "int8", quantised after training on windows of the bundle's own training cases. Instance norms are written
            precisely in "f32" alone, so its file is another.
        checkpoint: in the bundle's ``ckpt_dir`` (or ``models``), or a path; by default the bundle's ``checkpoint``, or
            ``model.pt`` where it names none.
        overrides: keys of the bundle's configuration.
        configs: files behind ``inference.json`` (and ``train.json``), such as ``configs/demo.json``.
        spatial_shape: of the network's input, where the bundle leaves it open.
        calibration_inputs: windows that int8 is calibrated with; by default 16 of volumes, 128 of pictures.
        validation_cases: that int8 is scored on; by default 16 volumes or 256 pictures.
        max_drop: the most that int8 may lose of the bundle's own score.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: the bundle, one of its files or the checkpoint is missing.
        FileExistsError: ``output`` holds something other than an export.
        ModuleNotFoundError: the runtime of the format is not installed.
        CheckpointError: the weights are not of this network.
        VerificationError: the exported network answers otherwise.
        AccuracyError: int8 loses too much.
        NoCases: int8 without training cases to calibrate with.
        ValueError: an unknown format or precision, or a network that cannot be exported.

    Example:
        >>> export_bundle("nowhere", "exported", to="tensorrt")
        Traceback (most recent call last):
        ValueError: unknown format 'tensorrt'; use torchscript, onnx, openvino.
    """
    _check_possible(to, precision)
    target = Path(output).absolute()
    _check_target(target)
    student = read_student(bundle, checkpoint, overrides, configs, spatial_shape)
    task, channels = _task(student)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        few, many = _ENOUGH[len(student.spatial_shape)]
        counts = calibration_inputs or few, validation_cases or many
        done = _export(student, temporary, to, precision, task, *counts, max_drop)
        description = _describe(student, temporary, to, precision, task, channels, done)
        _write_json(temporary / _DESCRIPTION, description)
        replace_folder(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Exported(target, description, done.verification, done.accuracy)


@dataclass(frozen=True)
class _Done:
    """How the network was exported."""

    batch: int | None
    batch_reason: str | None
    exporter: str
    verification: Verification
    verified: dict[str, list[str]]
    not_verified: dict[str, str]
    accuracy: Accuracy | None
    calibration: dict[str, Any] | None


def _export(
    student: StudentBundle,
    folder: Path,
    to: str,
    precision: str,
    task: str,
    calibration_inputs: int,
    validation_cases: int,
    max_drop: float,
) -> _Done:
    documents = {METADATA: student.metadata, INFERENCE: student.inference}
    # bf16 and int8 are coarser than the runtime's own instance norm, and quicker with it.
    network = with_row_statistics(student.network) if (to, precision) == ("openvino", "f32") else student.network
    batch, reason, exporter = _write_batched(network, student, to, folder, documents)
    load = partial(_LOADERS[to], folder / _FILES[to])
    samples, kind, missing = _samples(student)
    accuracy, calibration = None, None
    if precision == "int8":
        calibrating = _calibration(student, calibration_inputs)
        calibration = {"inputs": len(calibrating), "first": calibrating[0].name, "last": calibrating[-1].name}
        quantize_ir(folder, student.network, calibrating, documents)
        labelled = samples if missing is None else []
        accuracy = compare_accuracy(
            student, _eager(student.network), load("int8"), validation_cases, max_drop, labelled
        )
    verification = verify(student.network, load(precision), samples, kind, missing, precision)
    verified, not_verified = {_RUNTIMES[to]: [precision]}, {}
    least = LEAST_AGREEMENT if task == "segmentation" else 0.0  # of classes, one of a few inputs would decide
    for runtime, other in _others(to, precision):
        try:
            answer = _LOADERS[runtime](folder / _FILES[to], other)
            verify(student.network, answer, samples, kind, missing, other, least)
        except (VerificationError, RuntimeError) as error:  # the latter is OpenVINO's
            not_verified[f"{runtime} {other}"] = [*str(error).strip().splitlines(), type(error).__name__][0][:200]
        else:
            verified.setdefault(runtime, []).append(other)
    for name, content in documents.items():
        _write_json(folder / name, content)
    return _Done(batch, reason, exporter, verification, verified, not_verified, accuracy, calibration)


def _others(to: str, precision: str) -> Iterator[tuple[str, str]]:
    """Runtimes and precisions that could take the file too."""
    if to == "onnx" and _version("openvino") is not None:
        yield "openvino", "f32"
    if to == "openvino" and precision == "bf16":
        yield "openvino", "f32"
    if to == "openvino" and precision == "f32" and computes_bf16():
        yield "openvino", "bf16"


def _write_batched(
    network: nn.Module, student: StudentBundle, to: str, folder: Path, documents: Mapping[str, Mapping[str, Any]]
) -> tuple[int | None, str | None, str]:
    """Write the network for any batch size, or for a batch of 1 and the reason where that fails."""
    shape = (student.channels, *student.spatial_shape)
    reason: str | None = None
    for batch in (None, 1):
        try:
            exporter = _WRITERS[to](network, shape, batch, folder, documents)
        except ValueError as error:
            if batch is not None:
                raise
            reason = str(error)
            continue
        if batch is not None:
            return batch, reason, exporter
        reason = same_for_batches(_LOADERS[to](folder / _FILES[to], "f32"), shape)
        if reason is None:
            return None, None, exporter
    raise AssertionError("a batch of 1 was tried")


def _eager(network: nn.Module) -> Answer:
    def answer(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = network(torch.from_numpy(images)).numpy()
        return found

    return answer


def _samples(student: StudentBundle) -> tuple[list[Sample], str, str | None]:
    """Inputs to verify with, what they are, and why they are no cases."""
    pad_value = (student.pipeline or {}).get("pad_value", 0.0)
    try:
        with open_cases(student, "validation") as cases:
            found = list(cases.samples(_INPUTS, student.channels, student.spatial_shape, pad_value))
        return found, "validation cases", None
    except NoCases as error:
        return list(noise(_INPUTS, student.channels, student.spatial_shape)), "noise", str(error)


def _calibration(student: StudentBundle, count: int) -> list[Sample]:
    pad_value = (student.pipeline or {}).get("pad_value", 0.0)
    try:
        with open_cases(student, "training") as cases:
            return list(cases.samples(count, student.channels, student.spatial_shape, pad_value))
    except NoCases as error:
        raise NoCases(
            f"int8 is calibrated on the bundle's own training cases: {error} Give their folder by overrides, such as "
            "dataset_dir."
        ) from error


def _task(student: StudentBundle) -> tuple[str, int]:
    """What the network does, by the shape of its output, and the output's channels."""
    image = next(noise(1, student.channels, student.spatial_shape)).image
    name = type(student.network).__name__
    with torch.inference_mode():
        output = student.network(image)
    if not isinstance(output, Tensor):
        raise ValueError(
            f"{name} gives a {type(output).__name__} in evaluation, expected one tensor; export a network whose "
            "further heads are for training alone."
        )
    if output.shape[0] == 1 and output.ndim == 2:
        return "classification", output.shape[1]
    if output.ndim == image.ndim and output.shape[2:] == image.shape[2:]:
        return "segmentation", output.shape[1]
    raise ValueError(
        f"{name} gives {tuple(output.shape)} of an image {tuple(image.shape)}; segmentations of its size (1, classes, "
        "*spatial) and classifications (1, classes) are exported."
    )


def _describe(
    student: StudentBundle, folder: Path, to: str, precision: str, task: str, channels: int, done: _Done
) -> dict[str, Any]:
    pipeline, refused = student.pipeline, student.pipeline_refused
    labels = _labels(student, channels)
    if pipeline is not None:
        try:
            pipeline = pipeline_for(pipeline, task, list(labels.values()), student.activation)
        except PipelineRefused as error:
            pipeline, refused = None, str(error)
    names = sorted(path.name for path in folder.iterdir())
    packages = ("monai-kd", "monai", "torch", "numpy", *_NEEDED[to], *(("nncf",) if precision == "int8" else ()))
    return {
        "format": to,
        "precision": precision,
        "file": _FILES[to],
        "task": task,
        "input": {
            "channels": student.channels,
            "spatial_shape": list(student.spatial_shape),
            "batch": done.batch,
            "batch_reason": done.batch_reason,
        },
        "output": {"channels": channels, "activation": student.activation, "labels": labels},
        "pipeline": pipeline,
        "pipeline_refused": refused,
        "verified": done.verified,
        "not_verified": done.not_verified,
        "verification": done.verification.as_json(),
        "accuracy": None if done.accuracy is None else done.accuracy.as_json(),
        "calibration": done.calibration,
        "checksums": {name: sha256(folder / name) for name in names},
        "bundle": {"name": student.root.name, "version": student.metadata.get("version")},
        "exporter": done.exporter,
        "versions": {name: _version(name) for name in packages} | {"python": sys.version.split()[0]},
    }


def _labels(student: StudentBundle, channels: int) -> dict[str, str]:
    """Names by channel: the bundle's, else those of its metadata, else numbers."""
    outputs = student.metadata.get("network_data_format", {}).get("outputs", {})
    declared: dict[str, Any] = next((answer.get("channel_def", {}) for answer in outputs.values()), {})
    names = student.class_names or tuple(str(name) for name in declared.values())
    if len(names) != channels:
        names = tuple(str(number) for number in range(channels))
    return {str(number): name for number, name in enumerate(names)}


def _check_possible(to: str, precision: str) -> None:
    if to not in FORMATS:
        raise ValueError(f"unknown format '{to}'; use {', '.join(FORMATS)}.")
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision '{precision}'; use {', '.join(PRECISIONS)}.")
    if precision != "f32" and to != "openvino":
        raise ValueError(f"{to} is exported in f32; {precision} is computed by OpenVINO: export to openvino.")
    needed = (*_NEEDED[to], *(("nncf",) if precision == "int8" else ()))
    if missing := [name for name in needed if _version(name) is None]:
        raise ModuleNotFoundError(
            f'an export to {to} in {precision} needs {", ".join(missing)}: pip install "monai-kd[export]"',
            name=missing[0],
        )
    if precision == "bf16" and not computes_bf16():
        raise ValueError(
            "this CPU does not compute in bf16, so the export cannot be verified here; export in f32, or on a CPU that "
            "does."
        )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _check_target(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()) and not (target / _DESCRIPTION).is_file():
        raise FileExistsError(f"'{target}' holds something other than an export; give another folder.")
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"'{target}' is a file; give a folder.")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
