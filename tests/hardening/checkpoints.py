"""Checkpoints that are broken, hold more than weights, or the weights of something else; and such that are only odd."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .inputs import Input, cut, file_of, flipped, no_file

DOORS = ("load_weights", "FrozenTeacher", "ResumeCheckpoint")
WEIGHTS = DOORS[:2]
SENTINEL = "executed"


class Harm:
    """Makes a file where it is unpickled."""

    def __init__(self, name: str = SENTINEL) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.name,)


def network() -> nn.Module:
    """What the checkpoints are of."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def saved(content: Any, **options: Any) -> bytes:
    """As ``torch.save`` writes it."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def state() -> dict[str, torch.Tensor]:
    """The network's weights."""
    return dict(network().state_dict())


def inputs() -> Iterator[Input]:
    """All of them."""
    yield from _files()
    yield from _code()
    yield from _contents()
    yield from _odd()
    yield from _resume_files()
    for name, write in no_file("model.pt").items():
        yield Input("checkpoint", name, write)


def _files() -> Iterator[Input]:
    content = saved(state())
    places = [0, 1, 2, 4, 30, 100, 500, *(len(content) * tenth // 10 for tenth in range(1, 10)), -100, -22, -1]
    broken: dict[str, Any] = dict(cut(content, places))
    old = saved(state(), _use_new_zipfile_serialization=False)
    # Named without its size, which depends on where its tensors lie in memory.
    broken |= {f"of the old format, cut after {place} bytes": old[:place] for place in (1, 10, 30, 200, 700)}
    broken["of the old format, without its last 20 bytes"] = old[:-20]
    broken |= _flips(content)
    broken |= {
        "text": b"weights\n" * 100,
        "zeros": bytes(10_000),
        "noise": np.random.default_rng(0).bytes(10_000),
        "a web page": b"<!DOCTYPE html><html><body>Not Found</body></html>",
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\nsize 1234\n",
        "weights without checksums": _without_checksums(content),
        "a ZIP archive of a text": _zipped({"readme.txt": b"hello"}),
        "an empty ZIP archive": _zipped({}),
        "a ZIP archive of the right names and nonsense": _zipped(
            {"archive/data.pkl": b"nonsense", "archive/version": b"3", "archive/data/0": bytes(100)}
        ),
        "a ZIP archive of 320 MB when unpacked": partial(_bomb, "archive/data/0"),
        "a ZIP archive of a pickle of 320 MB when unpacked": partial(_bomb, "archive/data.pkl"),
        "a HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(500),
        "safetensors": (64).to_bytes(8, "little")
        + json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(64)
        + bytes(4),
        "an array of NumPy": _numpy(np.zeros(4)),
        "an array of NumPy with objects": _numpy(np.array([Harm()], dtype=object)),
        "TorchScript": _script(),
    }  # fmt: skip
    for what, one in broken.items():
        yield Input("checkpoint", what, file_of(one, "model.pt"))


def _flips(content: bytes) -> dict[str, bytes]:
    """A flipped bit in the name, the data and the checksum of every part, and in the directory."""
    found = {"a flipped bit: its first byte": flipped(content, 0, 4)}
    found["a flipped bit: the end of its directory"] = flipped(content, len(content) - 20, 4)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for part in archive.infolist():
            name = part.filename.encode()
            data = content.index(archive.read(part), part.header_offset + 30 + len(name)) if part.file_size else 0
            directory = content.rindex(name)
            places = {"name": part.header_offset + 30, "name in the directory": directory}
            places |= {"checksum": directory - 30, "length": directory - 22} | (
                {"data": data} if part.file_size else {}
            )
            inner = part.filename.partition("/")[2]
            found |= {f"a flipped bit: the {what} of {inner}": flipped(content, at, 3) for what, at in places.items()}
    return found


def _without_checksums(content: bytes) -> bytes:
    """As it is saved after ``torch.serialization.set_crc32_options(False)``."""
    torch.serialization.set_crc32_options(False)
    try:
        return saved(torch.load(io.BytesIO(content), weights_only=True))
    finally:
        torch.serialization.set_crc32_options(True)


def _zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, one in files.items():
            archive.writestr(name, one)
    return content.getvalue()


@cache
def _bomb(name: str) -> bytes:
    """A checkpoint of which one part is 320 MB of zeros, packed."""
    weights, made = zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(2)}))), io.BytesIO()
    prefix = weights.namelist()[0].partition("/")[0]
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for one in weights.namelist():
            inner = f"archive/{one.removeprefix(prefix + '/')}"
            if inner != name:
                archive.writestr(inner, weights.read(one))
        with archive.open(name, "w", force_zip64=True) as file:
            for _ in range(320):
                file.write(bytes(1 << 20))
    return made.getvalue()


def _numpy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


def _script() -> bytes:
    content = io.BytesIO()
    torch.jit.save(torch.jit.trace(network().eval(), torch.zeros(1, 1, 8, 8)), content)
    return content.getvalue()


def _code() -> Iterator[Input]:
    """What would run if it were unpickled."""
    harm = Harm()
    for what, content in {
        "code in its place": saved(harm),
        "code among its weights": saved({**state(), "harm": harm}),
        "code as its keys": saved({"model": state(), "epoch": {1: harm}}),
        "code in a tuple": saved((state(), harm)),
        "code in the old format": saved({**state(), "harm": harm}, _use_new_zipfile_serialization=False),
        "code as a pickle alone": pickle.dumps(harm),
        "code as a pickle of the first protocol": pickle.dumps({"model": harm}, protocol=0),
        "a whole network": saved(network()),
        "a whole network in the old format": saved(network(), _use_new_zipfile_serialization=False),
        "a function": saved({"model": state(), "loss": nn.functional.relu}),
        "a call of eval": b'cbuiltins\neval\n(S\'__import__("os").mkdir("executed")\'\ntR.',
        "a call of a system command": b"cposix\nsystem\n(S'mkdir executed'\ntR.",
        "a path of this machine": saved({"model": state(), "where": Path("/etc")}),
        "arrays of NumPy": saved({"model": {"a": np.zeros(3)}}),
    }.items():
        yield Input("checkpoint", what, file_of(content, "model.pt"))


def _contents() -> Iterator[Input]:
    whole = state()
    first = "0.weight"

    def with_first(value: Any) -> dict[str, Any]:
        return {**whole, first: value}

    rest = {key: value for key, value in whole.items() if key != first}
    big = torch.zeros(1).expand(2**40)
    for what, content in {
        "null": None,
        "a number": 3.0,
        "a text": "weights",
        "a list of its weights": list(whole.values()),
        "one tensor": whole[first],
        "no weights": {},
        "an empty model": {"model": {}},
        "a model of null": {"model": None},
        "its weights under another key": {"student_weights": whole, "epoch": 3},
        "its weights too deep": {"model": {"model": whole}},
        "names without weights": dict.fromkeys(whole, None),
        "numbers in place of weights": dict.fromkeys(whole, 1.0),
        "lists in place of weights": {key: value.tolist() for key, value in whole.items()},
        "numbers as names": dict(enumerate(whole.values())),
        "one weight less": rest,
        "one weight more": {**whole, "4.weight": torch.zeros(1)},
        "another prefix": {f"net.{key}": value for key, value in whole.items()},
        "another prefix of one weight": {**rest, "module.module.0.weight": whole[first]},
        "a wider layer": with_first(torch.zeros(8, 1, 3, 3)),
        "a layer in 3D": with_first(torch.zeros(4, 1, 3, 3, 3)),
        "a scalar in place of a layer": with_first(torch.zeros(())),
        "an empty layer": with_first(torch.zeros(0)),
        "a transposed layer": with_first(torch.zeros(1, 4, 3, 3)),
        "a layer that claims a terabyte": with_first(big),
        "a NaN in its weights": with_first(torch.full((4, 1, 3, 3), float("nan"))),
        "an infinity in its weights": with_first(torch.full((4, 1, 3, 3), float("inf"))),
        "complex weights": with_first(torch.zeros(4, 1, 3, 3, dtype=torch.complex64)),
        "weights of true and false": with_first(torch.zeros(4, 1, 3, 3, dtype=torch.bool)),
        "weights of whole numbers": with_first(torch.zeros(4, 1, 3, 3, dtype=torch.int32)),
        "quantised weights": with_first(torch.quantize_per_tensor(torch.zeros(4, 1, 3, 3), 0.1, 0, torch.qint8)),
        "sparse weights": with_first(torch.zeros(4, 1, 3, 3).to_sparse()),
        "weights of a meta device": with_first(torch.zeros(4, 1, 3, 3, device="meta")),
        "weights beyond its own type": with_first(torch.full((4, 1, 3, 3), 1e300, dtype=torch.float64)),
        "an optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
    }.items():
        yield Input("checkpoint", what, file_of(saved(content), "model.pt"))


def _odd() -> Iterator[Input]:
    """Valid ones; whatever is odd about them, they are of the same weights."""
    whole = state()
    strided = {key: value.clone().transpose(0, -1).contiguous().transpose(0, -1) if value.ndim > 1 else value
               for key, value in whole.items()}  # fmt: skip
    buffer = torch.cat([value.float().flatten() for value in whole.values()])
    shared, place = {}, 0
    for key, value in whole.items():
        shared[key] = buffer[place : place + value.numel()].view(value.shape)
        place += value.numel()
    for what, content in {
        "the old format": saved(whole, _use_new_zipfile_serialization=False),
        "a model beside its optimizer": saved({"model": whole, "optimizer": {"lr": 0.1}, "epoch": 3}),
        "the key state_dict": saved({"state_dict": whole}),
        "the prefix module.": saved({f"module.{key}": value for key, value in whole.items()}),
        "doubles": saved({key: value.double() if value.is_floating_point() else value for key, value in whole.items()}),
        "parameters": saved(OrderedDict((key, nn.Parameter(value, False)) for key, value in whole.items())),
        "its weights in another order": saved(dict(reversed(list(whole.items())))),
        "its weights in another order of memory": saved(strided),
        "its weights in one piece of memory": saved(
            {key: value.long() if key.endswith("tracked") else value for key, value in shared.items()}
        ),
        "an old pickle protocol": saved(whole, pickle_protocol=2),
    }.items():
        yield Input("checkpoint", what, file_of(content, "model.pt"), handled=WEIGHTS)
    half = {key: value.half() if value.is_floating_point() else value for key, value in whole.items()}
    yield Input(
        "checkpoint", "half precision", file_of(saved(half), "model.pt"), handled=WEIGHTS,
        truth=lambda path: {key: value.to(whole[key].dtype) for key, value in half.items()},
    )  # fmt: skip


# Files that a stopped run goes on from.


def trainer_with(path: Path) -> Any:
    """A small training that has not begun, and what resumes it."""
    from monai.engines import SupervisedTrainer

    from monai_kd.handlers import ResumeCheckpoint

    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    batch = {"image": torch.zeros(2, 1, 8, 8), "label": torch.zeros(2, 2, 6, 6)}
    trainer = SupervisedTrainer("cpu", 2, [batch], net, optimizer, nn.MSELoss())
    return trainer, ResumeCheckpoint(path, {"network": net, "optimizer": optimizer})


@cache
def _resume() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resume.pt"
        trainer, resume = trainer_with(path)
        resume.attach(trainer)
        trainer.run()
        return path.read_bytes()


def _resume_files() -> Iterator[Input]:
    content = _resume()
    places = [0, 1, 100, *(len(content) * tenth // 10 for tenth in range(1, 10)), -22, -1]
    broken = cut(content, places)
    broken |= _flips(content) | {"a whole one without checksums": _without_checksums(content)}
    whole = torch.load(io.BytesIO(content), weights_only=True)
    for key in whole:
        broken[f"no {key}"] = saved({name: value for name, value in whole.items() if name != key})
        for what, value in (("null", None), ("a number", 7.5), ("a text", "x"), ("a list", [1]), ("a dict", {"x": 1})):
            harmless = {("job", "a text"), ("scaler", "a dict"), ("job", "null"), ("within", "null")}
            if (key, what) not in harmless:
                broken[f"{what} as {key}"] = saved({**whole, key: value})
    for name in ("network", "optimizer"):
        other = {key: value for key, value in whole["objects"].items() if key != name}
        broken[f"no {name}"] = saved({**whole, "objects": other})
        for what, value in (("null", None), ("a list", [1]), ("a dict", {"x": 1})):
            broken[f"{what} as the {name}"] = saved({**whole, "objects": {**other, name: value}})
            kind = whole["objects"][name]["type"]
            broken[f"{what} as the state of the {name}"] = saved(
                {**whole, "objects": {**other, name: {"type": kind, "state": value}}}
            )
    for key in whole["trainer"]:
        for what, value in (("null", None), ("a text", "x"), ("-1", -1), ("half", 0.5), ("NaN", float("nan"))):
            if key != "max_epochs" or what != "null":
                broken[f"{what} as the trainer's {key}"] = saved({**whole, "trainer": {**whole["trainer"], key: value}})
    for what, one in broken.items():
        yield Input("resume file", what, file_of(one, "resume.pt"))
    yield Input("resume file", "a whole one", file_of(content, "resume.pt"), handled=("ResumeCheckpoint",))
