"""An exported student, ready to answer."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import numpy as np

from monai_kd.runtime.description import PRECISIONS, ExportDescription, ExportError, read_export
from monai_kd.runtime.engines import RUNTIMES, Engine, open_engine, usable_threads

__all__ = ["ExportedModel", "load_exported"]

_FORMATS = {"openvino": ("openvino", "onnx"), "onnxruntime": ("onnx",)}
_COMPUTES = {"openvino": PRECISIONS, "onnxruntime": ("f32",)}


class ExportedModel:
    """The network of an exported folder as a function of arrays; made by :func:`load_exported`.

    It may be called from several threads; they take turns.

    Attributes:
        description: what the folder says of itself.
        runtime, precision, num_threads: what computes it, as it was asked for.
    """

    def __init__(
        self, description: ExportDescription, engine: Engine, runtime: str, precision: str, num_threads: int
    ) -> None:
        self.description = description
        self.runtime = runtime
        self.precision = precision
        self.num_threads = num_threads
        self._engine = engine
        self._turn = Lock()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """What the network answers, without activation.

        Args:
            images: float32, (B, C, *spatial), with the channels and the spatial shape of the export. They go through
                the network one by one: larger batches are no faster on a CPU.

        Returns:
            float32, (B, classes, *spatial) for a segmentation, (B, classes) for a classification.

        Raises:
            ValueError: images of another shape or type, or no image.
            FloatingPointError: the network's answer is not finite.
        """
        expected = (self.description.in_channels, *self.description.spatial_shape)
        if images.dtype != np.float32 or images.ndim != len(expected) + 1 or images.shape[1:] != expected:
            raise ValueError(
                f"the exported network takes float32 images of shape (B, {', '.join(map(str, expected))}), got "
                f"{images.dtype} {images.shape}; resize or cut them into windows of that size, or export the bundle "
                "with another size."
            )
        if not len(images):
            raise ValueError("no image in the batch.")
        with self._turn:
            answers = [self._engine(np.ascontiguousarray(image[None])) for image in images]
        answer = np.concatenate(answers).astype(np.float32, copy=False)
        if answer.ndim < 2 or answer.shape[1] != self.description.out_channels:
            raise ExportError(
                f"the exported network gave shape {answer.shape}, export.json says {self.description.out_channels} "
                "channels; export the bundle again."
            )
        if not np.isfinite(answer).all():
            raise FloatingPointError("the network's answer is not finite; check the image, or use precision 'f32'.")
        return answer


def load_exported(
    folder: str | Path, runtime: str = "openvino", precision: str | None = None, num_threads: int | None = None
) -> ExportedModel:
    """An exported student; needs numpy and the runtime, neither torch nor MONAI.

    It is served only by a runtime and in a precision in which the export was held against the bundle's network.

    Args:
        folder: as ``monai-kd export`` writes it; each of its files is checked.
        runtime: "openvino" (reads OpenVINO and ONNX exports) or "onnxruntime" (reads ONNX).
        precision: "f32", "bf16" or "int8"; what the folder was exported for if not given. The runtime never chooses.
        num_threads: CPU threads; as many as this process may use if not given.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ExportError: a file was changed, or the runtime does not read it, or it was not verified there in that
            precision.
        ValueError: unknown runtime, precision or number of threads.
        ModuleNotFoundError: the runtime is not installed.

    Example:
        >>> load_exported("exported", runtime="tensorrt")
        Traceback (most recent call last):
        ValueError: unknown runtime 'tensorrt'; use openvino or onnxruntime.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"unknown runtime {runtime!r}; use {' or '.join(RUNTIMES)}.")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; use {', '.join(PRECISIONS)}.")
    threads = usable_threads() if num_threads is None else num_threads
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise ValueError(f"num_threads must be a positive number, got {num_threads!r}.")
    export = read_export(folder)
    precision = precision or export.precision
    _check_possible(export, runtime, precision)
    return ExportedModel(export, open_engine(export, runtime, precision, threads), runtime, precision, threads)


def _check_possible(export: ExportDescription, runtime: str, precision: str) -> None:
    if export.format not in _FORMATS[runtime]:
        use = "--to openvino or --to onnx" if runtime == "openvino" else "--to onnx"
        raise ExportError(
            f"{runtime} does not read the format {export.format} of '{export.folder}'; export the bundle with {use}."
        )
    if precision not in _COMPUTES[runtime]:
        raise ExportError(f"{runtime} is used in f32 alone, not in {precision}; ask for that, or for openvino.")
    if precision not in export.verified.get(runtime, ()):
        pairs = [f"{name} in {' or '.join(found)}" for name, found in export.verified.items()]
        reason = export.not_verified.get(f"{runtime} {precision}")
        because = f" ({reason})" if reason else ""
        form = "onnx" if runtime == "onnxruntime" else "openvino"
        raise ExportError(
            f"'{export.folder}' ({export.format}) was verified with {', '.join(pairs) or 'no runtime'}, not with "
            f"{runtime} in {precision}{because}; export the bundle with --to {form} --precision {precision}."
        )
