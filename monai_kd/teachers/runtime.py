"""A frozen teacher that OpenVINO computes on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monai_kd.runtime.description import ExportError, sha256
from monai_kd.runtime.engines import openvino_core, usable_threads
from monai_kd.teachers.protocol import OUTPUT

__all__ = ["RuntimeTeacher", "TeacherEngine", "TeacherExport", "read_teacher_export"]

FORMAT = "monai_kd teacher 1"
DESCRIPTION, MODEL, WEIGHTS = "teacher.json", "teacher.xml", "teacher.bin"
PRECISIONS = ("f32", "bf16")
_AGAIN = "export it again with monai_kd.export.export_teacher"

Layout = Mapping[str, int | Sequence[int]]
"""By tap, which of the exported outputs it is, or which they are where the layer returns several."""


@dataclass(frozen=True)
class TeacherExport:
    """What the folder of an exported teacher says of itself.

    Attributes:
        folder: with ``teacher.xml``, ``teacher.bin`` and ``teacher.json``.
        network: class of the network it was made from.
        fingerprint: :func:`~monai_kd.teachers.fingerprint.network_fingerprint` of that network.
        taps: where the output of each tapped layer is.
        shapes: (C, *spatial) of the images it was verified with; it takes no others.
        precisions: that it was verified in.
    """

    folder: Path
    network: str
    fingerprint: str
    taps: Layout
    shapes: tuple[tuple[int, ...], ...]
    precisions: tuple[str, ...]


def read_teacher_export(folder: str | Path) -> TeacherExport:
    """Read ``teacher.json`` and check the files beside it by their SHA-256.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        ExportError: ``teacher.json`` cannot be read, or a file is not the one that was exported.

    Example:
        >>> read_teacher_export("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: no exported teacher at 'nowhere': expected teacher.json, as export_teacher writes.
    """
    root = Path(folder)
    path = root / DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(f"no exported teacher at '{folder}': expected {DESCRIPTION}, as export_teacher writes.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, expected {FORMAT!r}")
        found = TeacherExport(
            folder=root,
            network=str(content["network"]),
            fingerprint=str(content["fingerprint"]),
            taps=dict(content["taps"]),
            shapes=tuple(tuple(int(size) for size in shape) for shape in content["shapes"]),
            precisions=tuple(content["precisions"]),
        )
        checksums = {name: content["checksums"][name] for name in (MODEL, WEIGHTS)}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ExportError(f"'{path}' cannot be read ({type(error).__name__}: {error}); {_AGAIN}.") from None
    for name, expected in checksums.items():
        if not (root / name).is_file():
            raise FileNotFoundError(f"'{root / name}' is missing; copy the exported folder whole, or {_AGAIN}.")
        if sha256(root / name) != expected:
            raise ExportError(
                f"'{root / name}' is not the file that was exported (its SHA-256 differs from the one in "
                f"{DESCRIPTION}): it is damaged or from another export. Copy the folder whole, or {_AGAIN}."
            )
    return found


class TeacherEngine:
    """An exported teacher's file in OpenVINO: images in, the outputs of its taps out.

    Args:
        file: the IR; its outputs are those that the layout numbers.
        precision: "f32" or "bf16"; the runtime never chooses.
        num_threads: CPU threads.
    """

    def __init__(self, file: Path, precision: str, num_threads: int) -> None:
        import openvino

        self._core = openvino_core()
        if precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ExportError("this CPU does not compute in bf16; ask for precision 'f32'.")
        self._settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # several processes would be pinned to the same cores
        }
        self._shape_of = openvino.PartialShape
        try:
            self._model = self._core.read_model(str(file))
        except Exception as error:  # of OpenVINO's own kinds
            raise ExportError(f"OpenVINO cannot read '{file}': {str(error).strip()}") from None
        self._requests: dict[tuple[int, ...], Any] = {}
        self._turn = Lock()

    def __call__(self, images: np.ndarray, wanted: Sequence[int]) -> dict[int, np.ndarray]:
        """The outputs numbered ``wanted``.

        Args:
            images: float32, (B, C, *spatial), one by one through the network: larger batches are no faster on a CPU.

        Returns:
            By number, the outputs of all images joined along their first axis.
        """
        parts: dict[int, list[np.ndarray]] = {number: [] for number in wanted}
        with self._turn:
            request = self._request(images.shape[1:])
            for image in images:
                request.infer([np.ascontiguousarray(image[None])], share_inputs=True)
                for number, found in parts.items():
                    found.append(np.array(request.get_output_tensor(number).data, dtype=np.float32))
        return {number: np.concatenate(found) for number, found in parts.items()}

    def _request(self, shape: tuple[int, ...]) -> Any:
        """A request for images of one size: a fixed size is planned better than an open one."""
        if shape not in self._requests:
            model = self._model.clone()
            model.reshape(self._shape_of([1, *shape]))
            self._requests[shape] = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        return self._requests[shape]


class RuntimeTeacher(nn.Module):
    """A trained network, exported with its taps, that OpenVINO computes on the CPU in f32 or bf16.

    To the terms it is a ``FrozenTeacher``: no gradients, no parameters, nothing in a ``state_dict``. Images come from
    and answers go to whatever device the images are on; answers are float32.

    Args:
        exported_dir: folder that ``monai_kd.export.export_teacher`` has written; each file of it is checked.
        precision: "f32" or "bf16", one that the export was verified in; the last of them if ``None``.
        num_threads: CPU threads; as many as this process may use if ``None``.
        input_key: batch key of the teacher's images.
        transform: applied to those images, (B, C, *spatial), before the network.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ExportError: a file was changed, or the export was not verified in that precision.
        ModuleNotFoundError: OpenVINO is not installed.
        ValueError: an unknown precision or number of threads.

    Example:
        >>> RuntimeTeacher("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: no exported teacher at 'nowhere': expected teacher.json, as export_teacher writes.
    """

    def __init__(
        self,
        exported_dir: str | Path,
        precision: str | None = None,
        num_threads: int | None = None,
        input_key: str = "image",
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        threads = usable_threads() if num_threads is None else num_threads
        if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
            raise ValueError(f"num_threads must be a positive number, got {num_threads!r}.")
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}; use {' or '.join(PRECISIONS)}.")
        self.export = read_teacher_export(exported_dir)
        self.precision = precision or self.export.precisions[-1]
        if self.precision not in self.export.precisions:
            raise ExportError(
                f"'{exported_dir}' was verified in {', '.join(self.export.precisions)}, not in {self.precision}; "
                f"{_AGAIN}(..., precision='{self.precision}')."
            )
        self.num_threads = threads
        self._input_key = input_key
        self.transform = transform
        # What a runtime has compiled is neither copied nor pickled; from these it is made anew.
        self._made_from = (str(exported_dir), precision, num_threads, input_key, transform)
        try:
            self._engine = TeacherEngine(self.export.folder / MODEL, self.precision, threads)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'openvino is not installed ({error}); install it: pip install "monai-kd[export]".', name=error.name
            ) from None
        self.eval()

    @property
    def input_key(self) -> str:
        """The batch key of this teacher's images."""
        return self._input_key

    def check(self, taps: Sequence[str], name: str = "teacher") -> None:
        """Raise ``ValueError`` when the export lacks a tap; the ones it has are listed."""
        if missing := [tap for tap in taps if tap not in self.export.taps]:
            raise ValueError(
                f"the teacher '{name}' ({self.export.network}, '{self.export.folder}') was exported without "
                f"{', '.join(map(repr, missing))}; it has {', '.join(map(repr, self.export.taps))}. {_AGAIN[0].upper()}"
                f"{_AGAIN[1:]}(..., taps={list(dict.fromkeys([*self.export.taps, *missing]))})."
            )

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor], taps: Sequence[str]) -> dict[str, Any]:
        """Outputs of the tapped layers, ``{tap: output}``, as those of a ``FrozenTeacher`` with float32 weights.

        Args:
            batch: must hold the images under ``input_key``, (B, C, *spatial).
            taps: layer names, or "output" for what the network returns.

        Raises:
            ValueError: images of a shape that the export was not verified with, or a tap that it lacks.
        """
        self.check(taps)
        images = batch[self._input_key].detach()
        if self.transform is not None:
            images = self.transform(images)
        shape = tuple(images.shape[1:])
        if shape not in self.export.shapes or not len(images):
            known = ", ".join(str(one) for one in self.export.shapes)
            raise ValueError(
                f"this teacher was exported for images of shape (C, *spatial) = {known}; got a batch of "
                f"{tuple(images.shape)}. {_AGAIN[0].upper()}{_AGAIN[1:]}(..., shapes=[..., {shape}])."
            )
        asked = {tap: self.export.taps[tap] for tap in dict.fromkeys([OUTPUT, *taps])}
        numbers = [number for place in asked.values() for number in ([place] if isinstance(place, int) else place)]
        plain = images.as_subclass(Tensor).to("cpu", torch.float32).numpy()
        found = {
            number: torch.from_numpy(value).to(images.device)
            for number, value in self._engine(plain, list(dict.fromkeys(numbers))).items()
        }
        return {
            tap: found[place] if isinstance(place, int) else [found[number] for number in place]
            for tap, place in asked.items()
        }

    def train(self, mode: bool = True) -> RuntimeTeacher:
        """Stay in eval mode whatever ``mode`` says."""
        return super().train(False)

    def extra_repr(self) -> str:
        """What computes it, for ``print``."""
        return f"{self.export.network} at {str(self.export.folder)!r}, {self.precision}, {self.num_threads} threads"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._made_from
