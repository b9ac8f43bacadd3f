"""Pictures: the networks of the polyp bundle in the runtimes, and whole folders from file to file.

Weights are random: good for time alone. Frames are generated, JPEG files of the size of an endoscope's. "decode" opens
each file as RGB and does nothing else; "runtime" is ``monai_kd.runtime.predict`` with a folder, which loads, computes
and saves in three threads: CPU seconds are those of one core.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.comparing import Bar, Case, Found, ratio
from benchmarks.students import bundle_network, picture_student, precisions, scratch
from monai_kd.data import make_polyp_frames

POLYP, TINY = "kdas_polyp_segmentation", "mhakd_gi_endoscopy_classification"
TEACHER, STUDENT = "eager teacher", "eager student"


def cases(quick: bool) -> list[Case]:
    size, rounds = (96, 3) if quick else (352, 9)
    frames = 4 if quick else 40
    networks = {name: _eager(POLYP, name, size) for name in (TEACHER, STUDENT)}
    networks |= {f"OpenVINO {p}": _network(POLYP, p, size) for p in precisions()}
    side = None if quick else 224
    tiny = {STUDENT: _eager(TINY, STUDENT, side or 96)}
    tiny |= {f"OpenVINO {p}": _network(TINY, p, side or 96) for p in ("f32", "int8")}
    masks = {"decode": _decode(frames)} | {f"runtime {p}": _folder(POLYP, p, size, frames) for p in precisions()}
    classes = {"decode": _decode(frames), "runtime f32": _folder(TINY, "f32", side or 96, frames)}
    return [
        Case(f"polyp network, {size}^2", networks, rounds),
        Case(f"52k classifier, {side or 96}^2", tiny, rounds, memory=False),
        Case(f"{frames} frames to masks", masks, rounds, memory=False),
        Case(f"{frames} frames to classes", classes, rounds, memory=False),
    ]


def bars(found: Found) -> list[Bar]:
    polyp, _, masks, classes = found.values()
    fast = "bf16" if "OpenVINO bf16" in polyp else "f32"
    frames = int(list(found)[2].split()[0])
    seconds = statistics.median(masks[f"runtime {fast}"].seconds)
    result = [
        Bar("P11", f"polyp student, eager / {fast}", ratio(polyp, STUDENT, f"OpenVINO {fast}"), 4, note=NETWORK),
        Bar(
            "P11", f"eager polyp teacher / student {fast}", ratio(polyp, TEACHER, f"OpenVINO {fast}"), 18, note=NETWORK
        ),
        Bar("P11", f"images a second, file to mask, {fast}", frames / seconds, 30, note=IMAGES),
        Bar(
            "P11",
            "classifier, file to class / decoding",
            ratio(classes, "runtime f32", "decode"),
            1.4,
            True,
            note=CLASSES,
        ),
    ]
    return result


NETWORK = "Of this transformer with depthwise convolutions bf16 and int8 take about two thirds of the time of f32."
IMAGES = "Decoding, resizing, and writing the mask as PNG are in it."
CLASSES = (
    "Generated frames are smooth and decode in two milliseconds. Behind that the picture is resized by area means as "
    "in training, which takes longer than the network."
)


def _eager(bundle: str, name: str, size: int) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        network = bundle_network(bundle, "network_def")
        if name == TEACHER:
            from monai_kd.networks import PolypPVT

            torch.manual_seed(0)
            network = PolypPVT("b2").eval()
        images = torch.randn(1, 3, size, size)

        def step() -> None:
            with torch.inference_mode():
                network(images)

        return step

    return prepare


def _network(bundle: str, precision: str, size: int) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        from monai_kd.runtime import load_exported

        student = load_exported(picture_student(bundle, precision, size), precision=precision, num_threads=1)
        images = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)

        def step() -> None:
            student(images)

        return step

    return prepare


def _folder(bundle: str, precision: str, size: int, count: int) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        from monai_kd.runtime import load_exported, predict

        student = load_exported(picture_student(bundle, precision, size), precision=precision, num_threads=1)
        frames = _frames(count)

        def step() -> None:
            with tempfile.TemporaryDirectory(dir=scratch()) as output:
                done = predict(student, frames, output)
            if done.failed or len(done.written) != count:
                raise RuntimeError(f"not all frames were done: {done.failed}")

        return step

    return prepare


def _decode(count: int) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        files = sorted(_frames(count).iterdir())

        def step() -> None:
            for path in files:
                with Image.open(path) as file:
                    np.asarray(file.convert("RGB"))

        return step

    return prepare


def _frames(count: int) -> Path:
    return Path(make_polyp_frames(scratch() / f"frames_{count}", count, size=(530, 620)), "images")
