"""A teacher exported with its taps, verified, for a student that learns from it on the CPU."""

from __future__ import annotations

import copy
import json
import re
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from monai_kd._files import replace_folder
from monai_kd._processes import processes, rank
from monai_kd.checkpoints import check_sha256, load_weights
from monai_kd.distiller import DistillationTerm
from monai_kd.export.instance_norm import with_row_statistics
from monai_kd.export.openvino_ir import computes_bf16, openvino_module
from monai_kd.export.torchscript import trace
from monai_kd.export.verify import LIMITS, VerificationError
from monai_kd.runtime.description import ExportError, sha256
from monai_kd.runtime.engines import usable_threads
from monai_kd.taps import FeatureTaps, check_tap_names, describe, unwrap
from monai_kd.teachers import OUTPUT
from monai_kd.teachers.fingerprint import network_fingerprint
from monai_kd.teachers.runtime import (
    DESCRIPTION,
    FORMAT,
    MODEL,
    PRECISIONS,
    WEIGHTS,
    RuntimeTeacher,
    TeacherEngine,
    read_teacher_export,
)

__all__ = ["export_teacher", "serve_teacher", "taps_of_teacher"]


def export_teacher(
    network: nn.Module,
    folder: str | Path,
    shapes: Sequence[Sequence[int]],
    taps: Sequence[str] = (),
    precision: str = "f32",
) -> Path:
    """Write a teacher as one OpenVINO file whose outputs are the network's and those of its tapped layers.

    Each output must agree with the network's own, in eval mode, for a batch of noise of each shape (see
    :data:`~monai_kd.export.verify.LIMITS`), or nothing is written. ``monai_kd.teachers.RuntimeTeacher`` reads
    the folder.

    Args:
        network: the teacher's, with its weights; it is left alone.
        folder: to write; an exported teacher in it is replaced.
        shapes: (C, *spatial) of all images it will see: of the training, and of the distiller's ``input_shape``.
        taps: layers whose outputs the terms compare, names of ``network.named_modules()``; "output" is always there.
        precision: "f32", or "bf16" to verify that as well; the file holds float32 either way.

    Returns:
        The folder.

    Raises:
        ModuleNotFoundError: OpenVINO is not installed.
        FileExistsError: the folder holds something else.
        VerificationError: an output differs.
        ValueError: unknown taps, shapes that do not belong together, or a network that cannot be converted.

    Example:
        >>> export_teacher(nn.Conv2d(1, 2, 1), "exported", shapes=[(1, 8, 8)], taps=["body"])
        Traceback (most recent call last):
        ValueError: the teacher (Conv2d) has no layer named 'body'. tap_table(model, input_shape) lists every name.
    """
    target = Path(folder).absolute()
    sizes = _checked(network, target, shapes, taps, precision)
    tapped = _Tapped(network, taps)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        # The runtime's own instance norm is quicker, and precise enough for bf16.
        _write(_Tapped(with_row_statistics(tapped.network), taps) if precision == "f32" else tapped, sizes, temporary)
        rows, precisions = _verify(tapped, temporary / MODEL, sizes, precision), [precision]
        if precision != "f32":  # may be asked for too, unless its instance norms are too coarse for it
            with suppress(VerificationError):
                rows = _verify(tapped, temporary / MODEL, sizes, "f32") + rows
                precisions = ["f32", precision]
        content = {
            "format": FORMAT,
            "network": type(unwrap(network)).__name__,
            "fingerprint": network_fingerprint(network),
            "taps": tapped.layout,
            "shapes": sizes,
            "precisions": precisions,
            "verification": rows,
            "checksums": {name: sha256(temporary / name) for name in (MODEL, WEIGHTS)},
            "versions": {"torch": torch.__version__, "openvino": openvino_module().__version__},
        }
        (temporary / DESCRIPTION).write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        replace_folder(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def serve_teacher(
    network: nn.Module,
    folder: str | Path,
    shapes: Sequence[Sequence[int]],
    terms: Sequence[DistillationTerm],
    checkpoint: str | Path | None = None,
    precision: str = "f32",
    num_threads: int | None = None,
    input_key: str = "image",
    transform: Callable[[Tensor], Tensor] | None = None,
    name: str = "teacher",
    sha256: str | None = None,
) -> RuntimeTeacher:
    """A teacher served by OpenVINO, exported first where ``folder`` does not hold just this one; for bundles.

    An export of other weights, of other layers, without a tap or a shape, or with a damaged file is replaced. Several
    processes look one after another, so that the first exports for all that share its disk.

    Args:
        network: of the teacher.
        folder, shapes, precision: see :func:`export_teacher`.
        terms: of the distillation; their taps of this teacher are exported.
        checkpoint: the weights; every name and shape must fit. ``None`` keeps the weights it has.
        num_threads, input_key, transform: see :class:`~monai_kd.teachers.RuntimeTeacher`.
        name: of this teacher where there are several.
        sha256: that the checkpoint must have, ``None`` for no check.

    Raises:
        CheckpointError: another file than ``sha256`` says, or one that does not fit the network.
    """
    check_sha256(sha256, checkpoint)
    if checkpoint is not None:
        load_weights(network, checkpoint, sha256=sha256)
    taps = taps_of_teacher(terms, name)
    for turn in range(processes()):
        if turn == rank() and not _is_of(folder, network, shapes, taps, precision):
            export_teacher(network, folder, shapes, taps, precision)
        if processes() > 1:
            dist.barrier()
    return RuntimeTeacher(folder, precision, num_threads, input_key, transform)


def taps_of_teacher(terms: Sequence[DistillationTerm], name: str = "teacher") -> list[str]:
    """The layers of one teacher that terms compare.

    Example:
        >>> from monai_kd.losses import HintLoss
        >>> taps_of_teacher([DistillationTerm("hint", HintLoss(), "a", ["big:down[1]", "small:up"])], "big")
        ['down']
    """
    found = []
    for reference in (tap for term in terms for tap in term.teacher_taps):
        owner, _, tap = reference.rpartition(":")
        if owner in ("", name):
            found.append(re.sub(r"\[\d+\]$", "", tap))
    return [tap for tap in dict.fromkeys(found) if tap != OUTPUT]


class _Tapped(nn.Module):
    """The network on the CPU, in eval mode, with its taps among its outputs.

    ``layout`` says, after a forward, which output is which tap's; a tensor that several taps share comes once.
    """

    def __init__(self, network: nn.Module, taps: Sequence[str]) -> None:
        super().__init__()
        self.network = copy.deepcopy(unwrap(network)).cpu().float().eval().requires_grad_(False)
        self.taps = [tap for tap in dict.fromkeys(taps) if tap != OUTPUT]
        self.layout: dict[str, int | list[int]] = {}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with FeatureTaps(self.network, self.taps) as recorder:
            output = self.network(images)
            values = {OUTPUT: output, **recorder.outputs()}
        tensors: list[Tensor] = []
        self.layout = {tap: _place(tap, value, tensors) for tap, value in values.items()}
        return tuple(tensors)


def _place(tap: str, value: Any, tensors: list[Tensor]) -> int | list[int]:
    """Where ``value`` is in ``tensors``, to which it is added unless it is there."""
    if isinstance(value, Tensor):
        known = [number for number, one in enumerate(tensors) if one is value]
        if not known:
            tensors.append(value)
        return known[0] if known else len(tensors) - 1
    if isinstance(value, list | tuple) and value and all(isinstance(item, Tensor) for item in value):
        return [_place(tap, item, tensors) for item in value]  # type: ignore[misc]
    raise ValueError(f"'{tap}' returns {describe(value)}; a tensor, or a list of tensors, can be exported.")


def _checked(
    network: nn.Module, target: Path, shapes: Sequence[Sequence[int]], taps: Sequence[str], precision: str
) -> list[list[int]]:
    if not isinstance(network, nn.Module):
        raise TypeError(f"the teacher's network must be a torch.nn.Module, got {type(network).__name__}.")
    check_tap_names(network, [tap for tap in taps if tap != OUTPUT], owner="the teacher")
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; use {' or '.join(PRECISIONS)}.")
    sizes = [list(shape) for shape in dict.fromkeys(tuple(int(size) for size in shape) for shape in shapes)]
    if not sizes or len({(len(shape), shape[0]) for shape in sizes}) > 1 or len(sizes[0]) < 2:
        raise ValueError(f"shapes are (C, *spatial), all of as many channels and axes; got {list(shapes)}.")
    if target.exists() and not (target / DESCRIPTION).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"'{target}' holds something other than an exported teacher; give another folder.")
    try:
        openvino_module()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'a teacher is exported by openvino ({error}): pip install "monai-kd[export]"', name=error.name
        ) from None
    if precision == "bf16" and not computes_bf16():
        raise ValueError("this CPU does not compute in bf16; export and ask for the teacher in f32.")
    return sizes


def _write(tapped: _Tapped, sizes: Sequence[Sequence[int]], folder: Path) -> None:
    """The IR, of open spatial size where there are several sizes."""
    openvino = openvino_module()
    network = type(tapped.network).__name__
    try:
        traced = trace(tapped, sizes[0], None)
        spatial = sizes[0][1:] if len(sizes) == 1 else [-1] * (len(sizes[0]) - 1)
        model = openvino.convert_model(traced, input=[openvino.PartialShape([-1, sizes[0][0], *spatial])])
    except ValueError:
        raise
    except Exception as error:  # of torch's and OpenVINO's own kinds
        reason = [*str(error).strip().splitlines(), type(error).__name__][0][:200]
        raise ValueError(f"OpenVINO cannot convert {network} ({reason}); keep it as a FrozenTeacher.") from error
    model.input(0).get_tensor().set_names({"image"})
    for tap, place in tapped.layout.items():
        for item, number in enumerate([place] if isinstance(place, int) else place):
            model.output(number).get_tensor().add_names({tap if isinstance(place, int) else f"{tap}[{item}]"})
    openvino.save_model(model, str(folder / MODEL), compress_to_fp16=False)


def _verify(tapped: _Tapped, file: Path, sizes: Sequence[Sequence[int]], precision: str) -> list[dict[str, Any]]:
    """Each output of the file against the network's own, for two images of each size."""
    engine = TeacherEngine(file, precision, usable_threads())
    measure, limit = LIMITS[precision]
    rows = []
    for shape in sizes:
        images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            wanted = [value.numpy() for value in tapped(images)]
        where = f"for images of {tuple(shape)} in {precision}"
        try:
            found = engine(images.numpy(), range(len(wanted)))
        except Exception as error:  # of OpenVINO's own kinds
            reason = [*str(error).strip().splitlines(), type(error).__name__][0][:200]
            raise VerificationError(
                f"the exported teacher fails {where}: {reason} Its network may be bound to one size: give one shape."
            ) from error
        for tap, place in tapped.layout.items():
            for number in [place] if isinstance(place, int) else place:
                difference = _difference(found[number], wanted[number])
                if not difference[measure] <= limit:
                    raise VerificationError(
                        f"'{tap}' of the exported teacher differs from the network's {where}: {measure} is "
                        f"{difference[measure]:.3g}, at most {limit:g} is allowed. Nothing was written. "
                        "With several shapes, try one; else keep it as a FrozenTeacher."
                    )
                rows.append({"tap": tap, "shape": shape, "precision": precision, **difference})
    return rows


def _difference(found: np.ndarray, wanted: np.ndarray) -> Mapping[str, float]:
    """How far two outputs are apart; infinitely where they have other shapes or are not finite."""
    if found.shape != wanted.shape or not np.isfinite(wanted).all() or not np.isfinite(found).all():
        return dict.fromkeys(("max_abs_difference", "relative_max", "relative_rms"), float("inf"))
    difference, exact = np.abs(found.astype(np.float64) - wanted), np.abs(wanted.astype(np.float64))
    tiny = np.finfo(np.float32).tiny
    return {
        "max_abs_difference": float(difference.max()),
        "relative_max": float(difference.max() / max(exact.max(), tiny)),
        "relative_rms": float(np.sqrt((difference**2).mean()) / max(np.sqrt((exact**2).mean()), tiny)),
    }


def _is_of(
    folder: str | Path, network: nn.Module, shapes: Sequence[Sequence[int]], taps: Sequence[str], precision: str
) -> bool:
    """Whether a folder holds this teacher, whole, with all that is asked of it."""
    try:
        export = read_teacher_export(folder)
    except (FileNotFoundError, ExportError):
        return False
    return (
        {OUTPUT, *taps} <= export.taps.keys()
        and {tuple(int(size) for size in shape) for shape in shapes} <= set(export.shapes)
        and precision in export.precisions
        and export.fingerprint == network_fingerprint(network)
    )
