"""Bundles whose configuration files are broken, or ask for what cannot be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from . import pictures
from .inputs import Input, cut

TAPS, CHECK, COMPARE, DISTIL = "monai-kd taps", "monai-kd check", "monai-kd compare", "monai-kd distill"
EVERY = (TAPS, CHECK, COMPARE, DISTIL)
NAMES = ("train.json", "metadata.json", "compare.json", "evaluate.json", "baseline.json", "model.pt", "network_def",
         "no_such_file.json", "nowhere.png")  # fmt: skip
DEEP = 100_000

TRAIN: dict[str, Any] = {
    "imports": ["$from monai_kd.data import check_datalist"],
    "bundle_root": ".",
    "ckpt_dir": "$@bundle_root + '/models'",
    "dataset_dir": "$@bundle_root + '/data'",
    "epochs": 2,
    "items": "$[{'image': @dataset_dir + '/a.png'}]",
    "network_def": {
        "_target_": "UNet", "spatial_dims": 2, "in_channels": 3, "out_channels": 2, "channels": [4, 8], "strides": [2],
    },
    "network": "@network_def",
    "loss": {"_target_": "DiceCELoss", "softmax": True, "to_onehot_y": True},
    "optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": 0.01},
    "train": {
        "dataset": {"_target_": "Dataset", "data": "@items"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 1},
        "trainer": {
            "_target_": "SupervisedTrainer", "max_epochs": "@epochs", "device": "cpu",
            "train_data_loader": "@train#dataloader", "network": "@network", "loss_function": "@loss",
            "optimizer": "@optimizer",
        },
    },
    "initialize": ["$check_datalist(@items).raise_if_bad()"],
    "run": ["$@train#trainer.run()"],
}  # fmt: skip
_IMAGE = {"type": "image", "format": "RGB", "num_channels": 3, "spatial_shape": [32, 32], "dtype": "float32",
          "value_range": [0, 1], "is_patch_data": False, "channel_def": {"0": "R", "1": "G", "2": "B"}}  # fmt: skip
METADATA: dict[str, Any] = {
    "version": "0.1.0", "monai_version": "1.6.1", "pytorch_version": "2.13.0", "numpy_version": "2.0.0",
    "task": "test", "description": "test", "authors": "test", "copyright": "test",
    "network_data_format": {"inputs": {"image": _IMAGE}, "outputs": {"pred": {**_IMAGE, "num_channels": 2}}},
}  # fmt: skip
COMPARED: dict[str, Any] = {
    "score": "meanDice",
    "networks": {
        "baseline": {"role": "baseline", "files": ["baseline.json"]},
        "distilled": {"role": "student"},
    },
}
FILES: dict[str, Any] = {
    "train.json": TRAIN, "metadata.json": METADATA, "compare.json": COMPARED, "evaluate.json": {}, "baseline.json": {},
}  # fmt: skip

Write = Callable[[Path], Path]


def bundle(root: Path, **changed: Any) -> Path:
    """A bundle that all commands take, with these files changed: by content, bytes, or by what makes them."""
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    (root / "data").mkdir()
    Image.fromarray(pictures.pixels()).save(root / "data" / "a.png")
    for name, content in {**FILES, **{key.replace("_json", ".json"): one for key, one in changed.items()}}.items():
        path = root / "configs" / name
        if callable(content):
            content(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(json.dumps(content), encoding="utf-8")
    from monai.networks.nets import UNet

    arguments = {key: value for key, value in TRAIN["network_def"].items() if key != "_target_"}
    torch.save(UNet(**arguments).state_dict(), root / "models" / "model.pt")
    return root


def _with(**changed: Any) -> Write:
    return lambda folder: bundle(folder / "some_bundle", **changed)


def inputs() -> Iterator[Input]:
    """All of them."""
    yield Input("bundle", "nothing odd about it", _with(), handled=EVERY)
    yield Input("bundle", "no folder", lambda folder: folder / "some_bundle")
    yield Input("bundle", "an empty folder", lambda folder: _made(folder / "some_bundle"))
    yield Input(
        "bundle", "a folder with an empty configs/", lambda folder: _made(folder / "some_bundle" / "configs").parent
    )
    yield from _files()
    yield from _networks()
    yield from _checks()
    yield from _metadata()
    yield from _comparisons()
    yield from _weights()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _broken_files(content: Mapping[str, Any]) -> dict[str, Any]:
    whole = json.dumps(content).encode()
    found: dict[str, Any] = dict(cut(whole, (0, 1, len(whole) // 2, -1)))
    found |= {
        "a text": b"not a configuration", "a list": b"[1, 2]", "a number": b"3", "null": b"null", "a word": b'"x"',
        "zeros": bytes(500), "Latin-1": whole[:-1] + ', "a": "\u00e4"}'.encode("latin-1"),
        "UTF-16": whole.decode().encode("utf-16"), "a comma too many": whole[:-1] + b",}",
        "a comment": b"// hello\n" + whole, "brackets in brackets": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        "a picture in its place": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "a folder in its place": lambda path: path.mkdir(),
        "a dangling link": lambda path: path.symlink_to("nowhere"),
        "a pipe that nobody writes to": os.mkfifo,
        "an endless device": lambda path: path.symlink_to("/dev/zero"),
    }  # fmt: skip
    return found


def _files() -> Iterator[Input]:
    for what, content in _broken_files(TRAIN).items():
        yield Input("bundle", f"train.json: {what}", _with(train_json=content))
    for what, content in _broken_files(METADATA).items():
        yield Input("bundle", f"metadata.json: {what}", _with(metadata_json=content), only=(TAPS, DISTIL))
    for what, content in _broken_files(COMPARED).items():
        yield Input("bundle", f"compare.json: {what}", _with(compare_json=content), only=(COMPARE,))
    for what, content in _broken_files({"epochs": 1}).items():
        yield Input("bundle", f"evaluate.json: {what}", _with(evaluate_json=content), only=(CHECK, COMPARE))


def _networks() -> Iterator[Input]:
    net = TRAIN["network_def"]
    less = {key: value for key, value in net.items() if key != "channels"}
    for what, one in {
        "null": None,
        "a number": 5,
        "a text": "UNet",
        "an empty object": {},
        "a list": [net],
        "an unknown class": {**net, "_target_": "UNett"},
        "an unknown module": {**net, "_target_": "no_such_package.UNet"},
        "an unknown class of a module": {**net, "_target_": "monai.networks.nets.UNett"},
        "a module in place of a class": {**net, "_target_": "monai.networks.nets"},
        "a number as its class": {**net, "_target_": 5},
        "null as its class": {**net, "_target_": None},
        "an empty class": {**net, "_target_": ""},
        "an unknown argument": {**net, "chanels": [4, 8]},
        "an argument less": less,
        "a text as its channels": {**net, "channels": "many"},
        "negative channels": {**net, "channels": [-4, 8]},
        "no channels": {**net, "channels": []},
        "four axes": {**net, "spatial_dims": 4},
        "another number of input channels": {**net, "in_channels": 1},
        "a missing reference": {**net, "in_channels": "@no_such_key"},
        "a missing reference to a part": {**net, "in_channels": "@train#no_such_key"},
        "a reference to itself": {**net, "in_channels": "@network_def"},
        "an expression that does not end": {**net, "in_channels": "$(1 + "},
        "an expression that divides by 0": {**net, "in_channels": "$1 / 0"},
        "an expression of an unknown name": {**net, "in_channels": "$no_such_name"},
        "an expression of no value": {**net, "in_channels": "$None"},
        "a loss in its place": {"_target_": "DiceLoss"},
        "a function in its place": {"_target_": "builtins.len", "_mode_": "callable"},
        "an unknown mode": {**net, "_mode_": "no_such_mode"},
        "disabled": {**net, "_disabled_": True},
        "a missing requirement": {**net, "_requires_": "@no_such_key"},
    }.items():
        changed = {**TRAIN, "network_def": one}
        yield Input("bundle", f"network: {what}", _with(train_json=changed), only=(TAPS, DISTIL))
    circle = {**TRAIN, "network_def": {**net, "in_channels": "@one"}, "one": "@two", "two": "@one"}
    yield Input("bundle", "network: references in a circle", _with(train_json=circle), only=(TAPS, DISTIL))
    macro = {**TRAIN, "network_def": {**net, "in_channels": "%no_such_file.json::a"}}
    yield Input("bundle", "network: a macro of a missing file", _with(train_json=macro), only=(TAPS, DISTIL))
    imports = {**TRAIN, "imports": ["$import no_such_package"]}
    yield Input("bundle", "a missing package among its imports", _with(train_json=imports), only=(TAPS, CHECK, DISTIL),
                handled=(TAPS, DISTIL))  # nothing of it is asked for  # fmt: skip
    for what, train in {
        "no trainer": {key: value for key, value in TRAIN.items() if key != "train"},
        "a trainer of nothing": {**TRAIN, "train": {"trainer": {"_target_": "SupervisedTrainer"}}},
        "a trainer as a list": {**TRAIN, "train": []},
        "no optimizer": {key: value for key, value in TRAIN.items() if key != "optimizer"},
        "a teacher already": {**TRAIN, "teacher": 1},
    }.items():
        yield Input("bundle", what, _with(train_json=train), only=(DISTIL,))


def _checks() -> Iterator[Input]:
    for what, changed in {
        "no checks": {"initialize": []},
        "null as its steps": {"initialize": None},
        "a text as its steps": {"initialize": "$check_datalist(@items).raise_if_bad()"},
        "a check of a missing reference": {"initialize": ["$check_datalist(@no_such_key).raise_if_bad()"]},
        "a check that does not exist": {"initialize": ["$check_nothing(@items).raise_if_bad()"]},
        "a check of wrong arguments": {"initialize": ["$check_datalist(@items, colour=1).raise_if_bad()"]},
        "items that cannot be made": {"items": "$1 / 0"},
        "items that are a number": {"items": 5},
        "items that are numbers": {"items": [1, 2]},
        "items of a missing file": {"items": [{"image": "nowhere.png"}]},
        "items that refer to themselves": {"items": "@items"},
        "a folder that is a number": {"dataset_dir": 5},
    }.items():
        yield Input("bundle", f"data: {what}", _with(train_json={**TRAIN, **changed}), only=(CHECK,))


def _metadata() -> Iterator[Input]:
    def image(**changed: Any) -> dict[str, Any]:
        form = {"inputs": {"image": {**_IMAGE, **changed}}, "outputs": {}}
        return {**METADATA, "network_data_format": form}

    for what, content in {
        "no format": {key: value for key, value in METADATA.items() if key != "network_data_format"},
        "a format of null": {**METADATA, "network_data_format": None},
        "a format that is a list": {**METADATA, "network_data_format": [1]},
        "no inputs": {**METADATA, "network_data_format": {"inputs": {}}},
        "inputs that are a list": {**METADATA, "network_data_format": {"inputs": [1]}},
        "an input that is a text": {**METADATA, "network_data_format": {"inputs": {"image": "x"}}},
        "a size that is a text": image(spatial_shape="big"),
        "a size of null": image(spatial_shape=None),
        "no size": image(spatial_shape=[]),
        "a size of 0": image(spatial_shape=[0, 32]),
        "a negative size": image(spatial_shape=[-32, 32]),
        "a size of halves": image(spatial_shape=[31.5, 32]),
        "a size of a billion": image(spatial_shape=[10**9, 10**9]),
        "a size of code": image(spatial_shape=["__import__('os').mkdir('executed')", 32]),
        "a size of a power of a power": image(spatial_shape=["9**9**9**9", 32]),
        "a size of an axis less": image(spatial_shape=[32]),
        "channels that are a text": image(num_channels="three"),
        "channels of null": image(num_channels=None),
        "-3 channels": image(num_channels=-3),
        "other channels than the network's": image(num_channels=7),
    }.items():
        yield Input("bundle", f"metadata.json: {what}", _with(metadata_json=content), only=(TAPS, DISTIL))


def _comparisons() -> Iterator[Input]:
    networks = COMPARED["networks"]

    def student(**changed: Any) -> dict[str, Any]:
        return {**COMPARED, "networks": {**networks, "distilled": {"role": "student", **changed}}}

    for what, content in {
        "no score": {"networks": networks},
        "no networks": {"score": "meanDice"},
        "networks as a list": {**COMPARED, "networks": [networks]},
        "networks as null": {**COMPARED, "networks": None},
        "no student": {**COMPARED, "networks": {"baseline": networks["baseline"]}},
        "no baseline": {**COMPARED, "networks": {"distilled": networks["distilled"]}},
        "two baselines": {**COMPARED, "networks": {**networks, "other": {"role": "baseline"}}},
        "a network that is a number": {**COMPARED, "networks": {**networks, "distilled": 5}},
        "a name that leads out of the folder": {**COMPARED, "networks": {**networks, "../other": {"role": "student"}}},
        "an absolute name": {**COMPARED, "networks": {**networks, "/tmp/other": {"role": "student"}}},  # noqa: S108
        "an empty name": {**COMPARED, "networks": {**networks, "": {"role": "student"}}},
        "an unknown role": student(role="pupil"),
        "a role of null": student(role=None),
        "a role that is a list": student(role=["student"]),
        "an unknown word": student(colour="blue"),
        "a missing file": student(files=["nowhere.json"]),
        "files that are a number": student(files=5),
        "files that are numbers": student(files=[1, 2]),
        "files that are a text": student(files="baseline.json"),
        "a need that is not there": student(needs={"teacher_checkpoint": "teacher"}),
        "a need of itself": student(needs={"teacher_checkpoint": "distilled"}),
        "needs that are a text": student(needs="teacher"),
        "seeds that are a text": student(seeds="three"),
        "-1 seeds": student(seeds=-1),
        "0 seeds": student(seeds=0),
        "half a seed": student(seeds=0.5),
        "overrides of an unknown key": student(overrides={"no_such_key": 1}),
        "overrides that are a list": student(overrides=[1]),
        "a checkpoint that is not there": student(checkpoint="nowhere.pt"),
        "a checkpoint that is a number": student(checkpoint=5),
        "the scores of a network that is not trained": student(evaluates="teacher"),
    }.items():
        yield Input("bundle", f"compare.json: {what}", _with(compare_json=content), only=(COMPARE,))
    yield Input(
        "bundle",
        "compare.json: a score that is a number",
        _with(compare_json={**COMPARED, "score": 5}),
        only=(COMPARE,),
    )


def _weights() -> Iterator[Input]:
    def weights(change: Callable[[Path], object]) -> Write:
        def write(folder: Path) -> Path:
            root = bundle(folder / "some_bundle")
            path = root / "models" / "model.pt"
            path.unlink()
            change(path)
            return root

        return write

    for what, change in {
        "missing": lambda path: None,
        "zero bytes": lambda path: path.write_bytes(b""),
        "a pointer of Git LFS": lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        "of another network": lambda path: torch.save({"a": torch.zeros(3)}, path),
        "a folder": lambda path: path.mkdir(),
        "a pipe that nobody writes to": os.mkfifo,
    }.items():
        yield Input("bundle", f"model.pt: {what}", weights(change), only=(DISTIL,))
