"""A server of MONAI Label, and what it is asked."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

START_SECONDS = 180
REQUEST_SECONDS = 300
UINT8 = json.dumps({"result_dtype": "uint8"})


def new_app(folder):
    """MONAI Label's app for bundles, without bundles."""
    command("monailabel", "apps", "--download", "--name", "monaibundle", "--output", folder)
    (folder / "monaibundle" / "model").mkdir(exist_ok=True)
    return folder / "monaibundle"


def environment():
    """This environment's programs first; on a CPU build of torch, the operators that torchvision asks for."""
    more = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parent / "torchvision_on_cpu"),
        "OMP_NUM_THREADS": "1",
        "MONAI_LABEL_SESSIONS": "false",  # they would be kept in the user's home
    }
    return {**os.environ, **more}


def command(*words):
    done = subprocess.run([*map(str, words)], capture_output=True, encoding="utf-8", env=environment(), check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


class Server:
    """Requests to a running server, and its log."""

    def __init__(self, address, log):
        self.address = address
        self.log = log

    def request(self, method, path, **more):
        import requests

        return requests.request(method, self.address + path, timeout=REQUEST_SECONDS, **more)

    def post(self, path, **more):
        before = len(self.log.read_text(encoding="utf-8"))
        answer = self.request("POST", path, **more)
        said = self.log.read_text(encoding="utf-8")[before:]
        assert answer.status_code == 200, f"{answer.status_code} {answer.text[:500]}\n{said[-4000:]}"
        return answer, said


@contextmanager
def serve(app, studies, models, log, **conf):
    """A server of the app's bundles named ``models`` for a folder of studies; ``conf`` is what it is told beside."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["monailabel", "start_server", "--app", str(app), "--studies", str(studies)]
    for key, value in {"models": ",".join(models), "zoo_source": "local", "sam2": "false", **conf}.items():
        words += ["--conf", key, str(value)]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    running = Server(f"http://127.0.0.1:{port}", log)
    with log.open("w") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, env=environment(), cwd=log.parent, start_new_session=True
        )
        try:
            wait(running, process)
            yield running
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)


def wait(server, process):
    import requests

    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if server.request("GET", "/info/").status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.5)
    pytest.fail(
        f"the server did not start (exit status {process.poll()}):\n{server.log.read_text(encoding='utf-8')[-4000:]}"
    )


def labels_of(path, source):
    """The label map of a file that must lie on the voxels of its image."""
    label, image = nibabel.load(path), nibabel.load(source)
    assert label.shape == image.shape
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-4)
    values = np.asarray(label.dataobj)
    assert set(np.unique(values)) <= {0, 1, 2}
    return values


def own_label(bundle, image, folder, **overrides):
    """What ``python -m monai.bundle run`` with inference.json writes for the image."""
    flow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(bundle),
        **overrides,
        output_dir=str(folder / "own"),
        device="cpu",
    )
    flow.initialize()
    flow.run()
    (path,) = (folder / "own").rglob("*.nii.gz")
    return labels_of(path, image)


def weights(path):
    return torch.load(path, weights_only=True)
