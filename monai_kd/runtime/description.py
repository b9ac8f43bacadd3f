"""What an exported folder says of itself, checked against the files that are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_kd._files import digest_of
from monai_kd._json import read_json

__all__ = ["ExportDescription", "ExportError", "read_export", "reading_pipeline"]

FORMATS = ("torchscript", "onnx", "openvino")
PRECISIONS = ("f32", "bf16", "int8")
TASKS = ("segmentation", "classification")
_AGAIN = "export the bundle again with 'monai-kd export'"


class ExportError(ValueError):
    """An exported folder that is incomplete, changed, or asked for what it cannot give."""


@dataclass(frozen=True)
class ExportDescription:
    """An exported student: where it is, what it takes, what it gives.

    Attributes:
        folder: the exported folder.
        file: of the network, in the folder.
        format: "torchscript", "onnx" or "openvino".
        precision: what the network was exported for: "f32", "bf16" or "int8".
        verified: by runtime, the precisions in which the file was held against the bundle's network.
        not_verified: by runtime and precision, such as "openvino bf16", why that one was tried and is not there.
        task: "segmentation" or "classification".
        in_channels: of an image.
        spatial_shape: what the network is called with, one number an axis.
        out_channels: of the network's answer.
        activation: what makes probabilities of the answer: "softmax", "sigmoid" or ``None``.
        labels: names by channel or label value, in the order of the file.
        pipeline: what is done around the network; ``None`` if the bundle does what cannot be said in these words.
        pipeline_refused: then, the reason.
    """

    folder: Path
    file: Path
    format: str
    precision: str
    verified: Mapping[str, tuple[str, ...]]
    not_verified: Mapping[str, str]
    task: str
    in_channels: int
    spatial_shape: tuple[int, ...]
    out_channels: int
    activation: str | None
    labels: Mapping[str, str]
    pipeline: Mapping[str, Any] | None
    pipeline_refused: str | None


def read_export(folder: str | Path) -> ExportDescription:
    """Read ``export.json`` of an exported folder and check every file it names by its SHA-256.

    Args:
        folder: as ``monai-kd export`` writes it.

    Raises:
        FileNotFoundError: no such folder, no ``export.json`` in it, or a file it names is missing.
        ExportError: ``export.json`` cannot be read or lacks something, names an unknown format, precision or task, or a
            file differs from the one that was exported.

    Example:
        >>> read_export("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: no folder 'nowhere'; give the folder that 'monai-kd export' has written.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder '{folder}'; give the folder that 'monai-kd export' has written.")
    path = root / "export.json"
    if not path.is_file():
        raise FileNotFoundError(f"'{root}' has no export.json; give the folder that 'monai-kd export' has written.")
    try:
        content = read_json(path)
    except ValueError as error:
        raise ExportError(f"{str(error).rstrip('.')}: it cannot be read; {_AGAIN}.") from None
    try:
        source, target = content["input"], content["output"]
        found = ExportDescription(
            folder=root,
            file=root / str(content["file"]),
            format=str(content["format"]),
            precision=str(content["precision"]),
            verified={str(name): tuple(map(str, found)) for name, found in content["verified"].items()},
            not_verified=dict(content.get("not_verified") or {}),
            task=str(content["task"]),
            in_channels=int(source["channels"]),
            spatial_shape=tuple(int(size) for size in source["spatial_shape"]),
            out_channels=int(target["channels"]),
            activation=target.get("activation"),
            labels=dict(target.get("labels") or {}),
            pipeline=content.get("pipeline"),
            pipeline_refused=content.get("pipeline_refused"),
        )
        checksums = {str(name): str(value) for name, value in content["checksums"].items()}
    except KeyError as error:
        raise ExportError(f"'{path}' lacks {error}; {_AGAIN}.") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ExportError(f"'{path}' cannot be read ({error}); {_AGAIN}.") from None
    for what, value, known in (
        ("format", found.format, FORMATS),
        ("precision", found.precision, PRECISIONS),
        ("task", found.task, TASKS),
        ("activation", found.activation, ("softmax", "sigmoid", None)),
    ):
        if value not in known:
            names = ", ".join(str(name) for name in known)
            raise ExportError(f"'{path}' has the {what} {value!r}; known are {names}. Update monai_kd, or {_AGAIN}.")
    if not isinstance(found.pipeline, Mapping | None):
        raise ExportError(f"'{path}' has a {type(found.pipeline).__name__} as its pipeline; {_AGAIN}.")
    _check_files(root, str(content["file"]), found.format, checksums)
    return found


@contextmanager
def reading_pipeline(export: ExportDescription) -> Iterator[dict[str, Any]]:
    """The pipeline of an export; what is missing or wrong in it becomes an :class:`ExportError`."""
    try:
        yield dict(export.pipeline or {})
    except KeyError as error:
        raise ExportError(f"the pipeline in export.json of '{export.folder}' lacks {error}; {_AGAIN}.") from None
    except (ValueError, TypeError) as error:
        raise ExportError(f"the pipeline in export.json of '{export.folder}': {error}.") from None


def _check_files(root: Path, file: str, form: str, checksums: Mapping[str, str]) -> None:
    needed = {file} | ({f"{Path(file).stem}.bin"} if form == "openvino" else set())
    if unchecked := sorted(needed - checksums.keys()):
        raise ExportError(f"export.json of '{root}' has no checksum of {', '.join(unchecked)}; {_AGAIN}.")
    for name, expected in checksums.items():
        path = root / name
        if Path(name).name != name:
            raise ExportError(f"export.json of '{root}' names '{name}', which is not a file in that folder; {_AGAIN}.")
        if not path.is_file():
            raise FileNotFoundError(f"'{path}' is missing; copy the exported folder whole, or {_AGAIN}.")
        if sha256(path) != expected:
            raise ExportError(
                f"'{path}' is not the file that was exported (its SHA-256 differs from the one in export.json): it is "
                f"damaged or from another export. Copy the exported folder whole, or {_AGAIN}."
            )


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return digest_of(file)
