"""What tests of several rooms share."""

import gc
import hashlib
import json
import logging
import shutil
import signal
import sys

import pytest
import torch
import torch.distributed as dist


def _in_group(rank, function, folder, processes):
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=processes)
    function(rank, folder)
    # What a process leaves behind goes before its group, and no process before the others are done: torch aborts now
    # and then otherwise.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


_HOOK, _FACTORY = sys.excepthook, logging.getLogRecordFactory()
_SIGNALS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _put_back():
    sys.excepthook = _HOOK
    logging.setLogRecordFactory(_FACTORY)
    for number, handler in _SIGNALS.items():
        signal.signal(number, handler)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture(autouse=True)
def what_a_bundle_changes_is_put_back():
    """Its ``initialize`` shortens what the program says when it ends, by an error or a signal; its logging file
    silences every logger there is and that it does not name."""
    _put_back()
    yield
    _put_back()


@pytest.fixture
def in_processes(tmp_path):
    """Calls a function of a module, ``function(rank, folder)``, in two processes of one gloo group."""

    def call(function, processes=2):
        torch.multiprocessing.spawn(_in_group, (function, str(tmp_path), processes), nprocs=processes)

    return call


@pytest.fixture(scope="session")
def converted(tmp_path_factory):
    """``converted(network, shape, form)``: a folder with the network's files; equal networks are converted once."""
    made = {}

    def convert(network, shape, form):
        weights = [f"{name}{value.numpy().tobytes()}" for name, value in network.state_dict().items()]
        key = hashlib.sha256(repr((network, type(network).__qualname__, weights, shape, form)).encode()).hexdigest()
        if key in made:
            return made[key]
        folder = tmp_path_factory.mktemp("converted")
        if form == "openvino":
            import openvino

            model = openvino.convert_model(network, example_input=torch.zeros(1, *shape), input=[-1, *shape])
            openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
        else:
            batch = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(network, (torch.zeros(2, *shape),), folder / "model.onnx", dynamic_shapes=batch)
        made[key] = folder
        return folder

    return convert


@pytest.fixture
def export_network(tmp_path, converted):
    """Writes an exported folder by hand: ``export_network(network, shape, **changes of export.json)``."""

    def write(network, shape, form="openvino", folder=None, **changes):
        network.eval()
        folder = folder or tmp_path / "exported"
        shutil.copytree(converted(network, shape, form), folder)
        with torch.no_grad():
            answer = network(torch.zeros(1, *shape))
        content = {
            "format": form,
            "precision": "f32",
            "verified": {"openvino": ["f32", "bf16"]} | ({"onnxruntime": ["f32"]} if form == "onnx" else {}),
            "file": "model.xml" if form == "openvino" else "model.onnx",
            "task": "segmentation" if answer.ndim > 2 else "classification",
            "input": {"channels": shape[0], "spatial_shape": list(shape[1:])},
            "output": {"channels": answer.shape[1], "activation": "softmax", "labels": {}},
            "pipeline": None,
            "pipeline_refused": "not said in this test",
            "checksums": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()},
        } | changes
        (folder / "export.json").write_text(json.dumps(content))
        return folder

    return write
