"""An exported folder answers as its network, and what is wrong with it is said by name."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from monai_kd.runtime import ExportError, load_exported

SHAPE = (2, 12, 10)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))


def images(count=3):
    return np.random.default_rng(0).standard_normal((count, *SHAPE)).astype(np.float32)


def edit(folder, **changes):
    content = json.loads((folder / "export.json").read_text(encoding="utf-8")) | changes
    (folder / "export.json").write_text(json.dumps(content))


@pytest.mark.parametrize(("form", "runtime"), [("openvino", "openvino"), ("onnx", "openvino"), ("onnx", "onnxruntime")])
def test_answers_as_the_network(export_network, form, runtime):
    model = load_exported(export_network(network(), SHAPE, form), runtime, num_threads=1)
    with torch.no_grad():
        expected = network()(torch.from_numpy(images())).numpy()
    np.testing.assert_allclose(model(images()), expected, atol=1e-5)
    assert (model.runtime, model.precision, model.num_threads) == (runtime, "f32", 1)


def test_precision_is_what_was_asked_for(export_network):
    folder = export_network(network(), SHAPE)
    full = load_exported(folder, num_threads=1)(images())
    try:
        half = load_exported(folder, precision="bf16", num_threads=1)(images())
    except ExportError as error:
        pytest.skip(str(error))
    assert 1e-5 < np.abs(half - full).max() < 0.1


def test_threads_are_what_was_asked_for(export_network):
    folder = export_network(network(), SHAPE)
    assert load_exported(folder).num_threads >= 1
    for bad in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="num_threads must be"):
            load_exported(folder, num_threads=bad)


def test_threads_take_turns(export_network):
    model = load_exported(export_network(network(), SHAPE), num_threads=1)
    several = [images() * scale for scale in range(1, 9)]
    expected = [model(batch) for batch in several]
    with ThreadPoolExecutor(4) as pool:
        for got, answer in zip(pool.map(model, several), expected):
            np.testing.assert_array_equal(got, answer)


def test_answers_do_not_change_afterwards(export_network):
    model = load_exported(export_network(network(), SHAPE), num_threads=1)
    first = model(images(1))
    kept = first.copy()
    model(images(1) * 5)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "bad",
    [images()[:, :1], images()[:, :, :6], images().astype(np.float64), images()[0], images()[:0]],
    ids=["channels", "size", "type", "axes", "none"],
)
def test_other_images_are_refused(export_network, bad):
    model = load_exported(export_network(network(), SHAPE), num_threads=1)
    with pytest.raises(ValueError, match=r"takes float32 images of shape \(B, 2, 12, 10\)|no image"):
        model(bad)


def test_answers_that_are_not_finite_are_refused(export_network):
    model = load_exported(export_network(network()[0], SHAPE), num_threads=1)
    bad = images()
    bad[1] = np.inf
    with pytest.raises(FloatingPointError, match="not finite"):
        model(bad)


# What is wrong with a folder.


def test_missing_files(export_network, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_exported(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no export\.json"):
        load_exported(tmp_path)
    folder = export_network(network(), SHAPE)
    (folder / "model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.bin' is missing; copy"):
        load_exported(folder)


@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_a_changed_file(export_network, name):
    folder = export_network(network(), SHAPE)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ExportError, match=rf"{name}' is not the file that was exported"):
        load_exported(folder)


def test_a_file_of_another_export(export_network, tmp_path):
    folder = export_network(network(), SHAPE)
    other = export_network(nn.Conv2d(2, 3, 1), SHAPE, folder=tmp_path / "other")
    (folder / "model.bin").write_bytes((other / "model.bin").read_bytes())
    with pytest.raises(ExportError, match="from another export"):
        load_exported(folder)


def test_a_description_of_another_network(export_network, tmp_path):
    folder = export_network(network(), SHAPE)
    edit(folder, output={"channels": 5, "activation": None})
    with pytest.raises(ExportError, match=r"has 3 output channels, export\.json says 5"):
        load_exported(folder)
    for number, shape in enumerate(([3, 12, 10], [2, 12, 10, 8])):
        other = export_network(network(), SHAPE, folder=tmp_path / str(number))
        edit(other, input={"channels": shape[0], "spatial_shape": shape[1:]})
        with pytest.raises(ExportError, match="not of one export"):
            load_exported(other)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "coreml"}, "format 'coreml'; known are torchscript, onnx, openvino"),
        ({"precision": "f16"}, "precision 'f16'; known are f32, bf16, int8"),
        ({"task": "detection"}, "task 'detection'"),
        ({"verified": ["openvino"]}, "cannot be read"),
        ({"input": {"channels": 2}}, "lacks 'spatial_shape'"),
        ({"input": 3}, "cannot be read"),
        ({"checksums": {}}, r"no checksum of model\.bin, model\.xml"),
        ({"file": "../model.xml"}, "no checksum of"),
        ({"checksums": {"model.xml": "", "model.bin": "", "../a": ""}}, "is not the file|not a file in that folder"),
    ],
)
def test_a_description_that_says_something_else(export_network, changes, said):
    folder = export_network(network(), SHAPE)
    edit(folder, **changes)
    with pytest.raises(ExportError, match=said):
        load_exported(folder)


def test_a_description_that_is_cut(export_network):
    folder = export_network(network(), SHAPE)
    text = (folder / "export.json").read_text(encoding="utf-8")
    (folder / "export.json").write_text(text[: len(text) // 2])
    with pytest.raises(ExportError, match="cannot be read"):
        load_exported(folder)


@pytest.mark.parametrize(
    ("said", "runtime", "precision", "message"),
    [
        (
            {"format": "torchscript"},
            "openvino",
            None,
            "read the format torchscript.*--to openvino or --to onnx",
        ),
        ({}, "onnxruntime", None, "does not read the format openvino.*--to onnx"),
        (
            {},
            "openvino",
            "int8",
            r"\(openvino\) was verified with openvino in f32 or bf16, not with openvino in int8; ",
        ),
        ({"format": "onnx"}, "onnxruntime", "bf16", "onnxruntime is used in f32 alone, not in bf16"),
        ({}, "tensorrt", None, "unknown runtime 'tensorrt'"),
        ({}, "openvino", "f16", "unknown precision 'f16'"),
    ],
)
def test_what_the_file_cannot_give(export_network, said, runtime, precision, message):
    folder = export_network(network(), SHAPE)
    edit(folder, **said)
    with pytest.raises(ValueError, match=message):
        load_exported(folder, runtime, precision)


@pytest.mark.parametrize(
    ("form", "precision", "verified", "runtime", "asked", "use"),
    [
        ("openvino", "bf16", {"openvino": ["bf16"]}, "openvino", "f32", "--to openvino --precision f32"),
        ("openvino", "f32", {"openvino": ["f32"]}, "openvino", "bf16", "--to openvino --precision bf16"),
        ("openvino", "int8", {"openvino": ["int8"]}, "openvino", "f32", "--to openvino --precision f32"),
        ("onnx", "f32", {"onnxruntime": ["f32"]}, "openvino", None, "--to openvino --precision f32"),
        ("onnx", "f32", {"openvino": ["f32"]}, "onnxruntime", None, "--to onnx --precision f32"),
        ("onnx", "f32", {}, "onnxruntime", None, "no runtime, not with onnxruntime in f32"),
    ],
)
def test_only_what_was_verified_is_served(export_network, form, precision, verified, runtime, asked, use):
    """Though the file itself could be read, and the runtime compute it."""
    folder = export_network(network(), SHAPE, form, precision=precision, verified=verified)
    with pytest.raises(ExportError, match=f"was verified with .*{use}"):
        load_exported(folder, runtime, asked)


def test_the_reason_is_quoted_where_it_was_tried(export_network):
    words = {"verified": {"openvino": ["f32"]}, "not_verified": {"openvino bf16": "98 % are the same"}}
    folder = export_network(network(), SHAPE, **words)
    with pytest.raises(ExportError, match=r"not with openvino in bf16 \(98 % are the same\); export"):
        load_exported(folder, precision="bf16")
    with pytest.raises(ExportError, match="not with openvino in int8; export"):
        load_exported(folder, precision="int8")


@pytest.mark.parametrize(
    ("precision", "asked", "given"), [("f32", None, "f32"), ("f32", "f32", "f32"), ("int8", None, "int8")]
)
def test_what_was_verified_is_served_as_exported_if_nothing_else_is_said(export_network, precision, asked, given):
    folder = export_network(network(), SHAPE, precision=precision, verified={"openvino": [precision]})
    assert load_exported(folder, precision=asked, num_threads=1).precision == given


def test_an_export_that_does_not_say_what_was_verified_is_refused(export_network):
    folder = export_network(network(), SHAPE)
    content = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    del content["verified"]
    (folder / "export.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match="lacks 'verified'; export the bundle again"):
        load_exported(folder)


def test_a_runtime_that_is_not_installed(export_network, monkeypatch):
    folder = export_network(network(), SHAPE)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ModuleNotFoundError, match="pip install openvino"):
        load_exported(folder)
