"""Exported folders that are broken, and such whose export.json says what cannot be."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import students
from .inputs import Input, cut, flipped

LOAD, PREDICT = "load_exported", "monai-kd predict"
EVERY = (LOAD, PREDICT)
DEEP = 100_000

Change = Callable[[Path], object]


def _export(change: Change, kind: str = "picture") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        root = students.export(folder / f"some_export_of_{kind}s", kind)
        change(root)
        return root

    return write


def _json(edit: Callable[[dict[str, Any]], Any]) -> Change:
    """``export.json`` changed, or replaced by what the function gives."""

    def change(root: Path) -> None:
        content = json.loads((root / "export.json").read_text(encoding="utf-8"))
        made = edit(content)
        (root / "export.json").write_text(json.dumps(content if made is None else made), encoding="utf-8")

    return change


def _raw(content: bytes) -> Change:
    return lambda root: (root / "export.json").write_bytes(content)


def _file(name: str, make: Callable[[bytes], bytes], known: bool) -> Change:
    """A file with other content, of which export.json knows, or not."""

    def change(root: Path) -> None:
        path = root / name
        path.write_bytes(make(path.read_bytes()))
        if known:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            _json(lambda content: content["checksums"].update({name: digest}))(root)

    return change


def _at(where: str, value: Any) -> Change:
    """One value of ``export.json``, by its path; without it where the value is ``...``."""
    *before, last = where.split(".")

    def edit(content: dict[str, Any]) -> None:
        for step in before:
            content = content[step]
        if value is ...:
            del content[last]
        else:
            content[last] = value

    return _json(edit)


def inputs() -> Iterator[Input]:
    """All of them."""
    yield Input("export", "nothing odd about it", _export(lambda root: None), handled=EVERY)
    yield Input("export", "a file more", _export(lambda root: (root / "notes.txt").write_text("x")), handled=EVERY)
    yield Input("export", "no folder", lambda folder: folder / "some_export")
    for what, change in {**_documents(), **_values(), **_networks()}.items():
        yield Input("export", what, _export(change))
    for what, change in _pipelines(_OF_PICTURES).items():
        yield Input("export", what, _export(change), only=(PREDICT,))
    for what, change in _pipelines(_OF_VOLUMES).items():
        yield Input("export", f"of volumes, {what}", _export(change, "volume"), only=(PREDICT,))


def _documents() -> dict[str, Change]:
    whole = json.dumps({"format": "openvino", "file": "model.xml"}).encode()
    found: dict[str, Change] = {f"export.json {name}": _raw(one) for name, one in cut(whole, (0, 1, 20, -1)).items()}
    for what, content in {
        "null": b"null", "a list": b"[]", "a number": b"1", "a word": b'"x"', "an empty object": b"{}",
        "zeros": bytes(300), "UTF-16": whole.decode().encode("utf-16"), "a text": b"exported",
        "brackets in brackets": b"[" * DEEP + b"]" * DEEP,
    }.items():  # fmt: skip
        found[f"export.json: {what}"] = _raw(content)

    def replaced(make: Change) -> Change:
        def change(root: Path) -> None:
            (root / "export.json").unlink()
            make(root / "export.json")

        return change

    return found | {
        "no export.json": replaced(lambda path: None),
        "export.json: a folder": replaced(lambda path: path.mkdir()),
        "export.json: a dangling link": replaced(lambda path: path.symlink_to("nowhere")),
        "export.json: a pipe that nobody writes to": replaced(os.mkfifo),
        "export.json: an endless device": replaced(lambda path: path.symlink_to("/dev/zero")),
    }


def _values() -> dict[str, Change]:
    found: dict[str, Change] = {}
    wrong: Mapping[str, tuple[Any, ...]] = {
        "format": (..., None, "pickle", 5, ["openvino"]),
        "precision": (..., None, "f16", 32),
        "file": (..., None, "../model.xml", "/etc/passwd", "nowhere.xml", "", ".", 5, "model.bin"),
        "task": (..., None, "regression"),
        "input": (..., None, 5, []),
        "input.channels": (..., None, "three", 0, -3, 7, 2**40, 2.5),
        "input.spatial_shape": (..., None, 16, [], [16], [0, 16], [-16, 16], [2**40, 2**40], ["a", "b"], [8, 8]),
        "output": (..., None, 5),
        "output.channels": (..., None, "one", 0, -1, 9, 2**40),
        "output.activation": ("relu", 5, ["sigmoid"]),
        "output.labels": (5, "a"),
        "verified": (
            ..., None, 5, {}, {"openvino": []}, {"openvino": ["bf16"]}, {"onnxruntime": ["f32"]}, {"openvino": None},
        ),
        "checksums": (..., None, 5, {}, {"model.xml": "0" * 64}, {"model.xml": None, "model.bin": None}),
    }  # fmt: skip
    for where, values in wrong.items():
        for value in values:
            shown = "nothing" if value is ... else json.dumps(value)
            found[f"export.json: {shown} as {where}"] = _at(where, value)
    outside = {"../export.json": "0" * 64}
    found["export.json: a checksum of a file outside"] = _json(lambda content: content["checksums"].update(outside))
    return found


def _networks() -> dict[str, Change]:
    found: dict[str, Change] = {}
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a0 "aaaaaaaaaa">{entities}]><net>&a11;</net>'.encode()
    for known in (False, True):
        says = "that its checksum knows" if known else "that its checksum does not know"
        for name in ("model.xml", "model.bin"):
            found |= {
                f"{name} of zero bytes, {says}": _file(name, lambda raw: b"", known),
                f"half of {name}, {says}": _file(name, lambda raw: raw[: len(raw) // 2], known),
            }
        found |= {
            f"a picture in place of model.xml, {says}": _file("model.xml", lambda raw: b"\x89PNG" + bytes(99), known),
            f"model.xml with an unknown layer, {says}": _file(
                "model.xml", lambda raw: raw.replace(b"Convolution", b"Konvolution"), known
            ),
            f"model.xml with weights of another shape, {says}": _file(
                "model.xml", lambda raw: raw.replace(b'shape="1, 3, 1, 1"', b'shape="1, 5, 1, 1"'), known
            ),
            f"model.xml that expands to 100 GB, {says}": _file("model.xml", lambda raw: bomb, known),
        }
    found["a flipped bit in model.bin"] = _file("model.bin", lambda raw: flipped(raw, 0, 6), False)
    found["a flipped bit in model.xml"] = _file("model.xml", lambda raw: flipped(raw, len(raw) // 2), False)
    for name in ("model.xml", "model.bin"):

        def gone(root: Path, name: str = name) -> None:
            (root / name).unlink()

        def pipe(root: Path, name: str = name) -> None:
            (root / name).unlink()
            os.mkfifo(root / name)

        def endless(root: Path, name: str = name) -> None:
            (root / name).unlink()
            (root / name).symlink_to("/dev/zero")

        found |= {f"no {name}": gone, f"a pipe as {name}": pipe, f"an endless device as {name}": endless}
    return found


_OF_PICTURES: Mapping[str, tuple[Any, ...]] = {
    "pipeline": (None, 5, [], "picture", {}),
    "pipeline.kind": (..., None, "volume", "video", 5, ["picture"]),
    "pipeline.channels": (..., None, "CMYK", "L", 3),
    "pipeline.size": (..., None, 16, [16], [16, 16, 16], [8, 8], [0, 0], [-16, 16], ["a", "b"], [16.5, 16]),
    "pipeline.resize": (..., None, "nearest", 5),
    "pipeline.mean": (..., None, 128, [128], [128] * 4, ["a"] * 3, [math.nan] * 3, [math.inf] * 3),
    "pipeline.std": (..., None, [0, 64, 64], [-64] * 3, [64] * 2, [math.nan] * 3, [math.inf] * 3),
    "pipeline.cast": ("int16", 5),
    "pipeline.threshold": (0, 1, 2, -0.5, "half", [0.5], math.nan, math.inf),
    "pipeline.foreground": (7, "white"),
    "pipeline.convert": ("yes",),
    "pipeline.unknown": (1,),
}
_OF_VOLUMES: Mapping[str, tuple[Any, ...]] = {
    "pipeline": (5, [], {}),
    "pipeline.kind": (..., None, "picture", 5),
    "pipeline.orientation": (..., "ABC", "RRR", "RA", "RASS", "", 5, ["R", "A", "S"]),
    "pipeline.spacing": (..., 2.0, [], [2.0, 2.0], [2.0] * 4, ["a"] * 3, [math.nan] * 3, [math.inf] * 3, [1e-9] * 3),
    "pipeline.intensity": (..., None, 5, ["clip"], [{}], [{"op": "root"}], [{"op": "clip", "min": 0}]),
    "pipeline.pad_value": (..., None, "a", math.nan, math.inf),
    "pipeline.roi_size": (..., None, 16, [16], [8, 8, 8], [0, 0, 0], [-16] * 3, [16.5, 16, 16], [2**40] * 3),
    "pipeline.overlap": (..., None, 1, 1.5, -0.1, "half", math.nan),
    "pipeline.mode": (..., None, "mean", 5),
    "pipeline.threshold": (0.5,),
    "pipeline.unknown": (1,),
}  # fmt: skip
_MORE_INTENSITIES = (
    [{"op": "clip", "min": 1, "max": 0}],
    [{"op": "scale", "offset": math.nan, "factor": 1}],
    [{"op": "scale", "offset": 0, "factor": math.inf}],
)


def _pipelines(wrong: Mapping[str, tuple[Any, ...]]) -> dict[str, Change]:
    found: dict[str, Change] = {}
    more = {"pipeline.intensity": _MORE_INTENSITIES} if "pipeline.intensity" in wrong else {}
    for where, values in wrong.items():
        for value in (*values, *more.get(where, ())):
            shown = "nothing" if value is ... else json.dumps(value)
            found[f"export.json: {shown} as {where}"] = _at(where, value)
    return found
