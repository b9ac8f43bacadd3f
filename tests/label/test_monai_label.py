"""MONAI Label serves the bundles for CT and trains them, as docs/monai_label.md says; needs ``make test-label``."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

ROOT = Path(__file__).parents[2]
BUNDLES = ["hlfd_kidney_tumor_segmentation", "hlfd_liver_tumor_segmentation"]
ORGANS = dict(zip(BUNDLES, ("kidney", "liver")))
IMAGES = [f"ct_{i}" for i in range(5)]
LABELLED = IMAGES[:4]
START_SECONDS = 180
REQUEST_SECONDS = 300

# What makes the copies small; all else is the bundle as it is.
SMALL = {
    "patch_size": [32, 32, 32],
    "spacing": [4.0, 4.0, 4.0],
    "strides": [1, 2, 2],
    "deep_supervision_heads": 1,
    "network_def#filters": [4, 8, 16],
    "num_workers": 0,
}
SMALL_TRAINING = {**SMALL, "teacher_def#filters": [8, 16, 32]}

pytestmark = [
    pytest.mark.label,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(find_spec("monailabel") is None, reason="monailabel is not installed; run `make test-label`"),
]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Volumes with an organ and a tumour of their own brightness, in another orientation than the network's."""
    folder = tmp_path_factory.mktemp("studies")
    (folder / "labels" / "final").mkdir(parents=True)
    rng = np.random.default_rng(0)
    size = (50, 60, 30)
    affine = np.array([[-3.0, 0, 0, 70.0], [0, -2.5, 0, 60.0], [0, 0, 5.0, -400.0], [0, 0, 0, 1.0]])
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1) * [3.0, 2.5, 5.0]
    for name in IMAGES:
        distance = np.linalg.norm(grid - rng.uniform(67, 83, 3), axis=-1)  # mm
        label = np.digitize(distance, [45, 20]).astype(np.uint8)
        image = np.choose(label, [-80.0, 60.0, 140.0]) + rng.normal(0, 10, size)
        image[distance > 70] = -1000
        nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), affine), folder / f"{name}.nii.gz")
        if name in LABELLED:
            nibabel.save(nibabel.Nifti1Image(label, affine), folder / "labels" / "final" / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """MONAI Label's app for bundles with a small copy of each, its weights by chance."""
    folder = tmp_path_factory.mktemp("apps")
    command("monailabel", "apps", "--download", "--name", "monaibundle", "--output", folder)
    torch.manual_seed(0)
    for name in BUNDLES:
        bundle = folder / "monaibundle" / "model" / name
        shutil.copytree(ROOT / "bundles" / name, bundle, ignore=shutil.ignore_patterns("models", "eval"))
        (bundle / "models").mkdir()
        change(bundle / "configs" / "inference.json", SMALL)
        train = change(bundle / "configs" / "train.json", SMALL_TRAINING)
        for definition, file in (("network_def", "model.pt"), ("teacher_def", "teacher.pt")):
            torch.save(train.get_parsed_content(definition).state_dict(), bundle / "models" / file)
    return folder / "monaibundle"


def change(path, values):
    parser = ConfigParser()
    parser.read_config(str(path))
    for key, value in values.items():
        assert key in parser, f"{path.name} has no {key}"
        parser[key] = value
    path.write_text(json.dumps(parser.config, indent=4) + "\n")
    return parser


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
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, env=environment(), check=False)
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
        before = len(self.log.read_text())
        answer = self.request("POST", path, **more)
        said = self.log.read_text()[before:]
        assert answer.status_code == 200, f"{answer.status_code} {answer.text[:500]}\n{said[-4000:]}"
        return answer, said


@pytest.fixture(scope="module")
def server(app, studies, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "server.log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["monailabel", "start_server", "--app", str(app), "--studies", str(studies)]
    words += ["--conf", "models", ",".join(BUNDLES), "--conf", "zoo_source", "local", "--conf", "sam2", "false"]
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
    pytest.fail(f"the server did not start (exit status {process.poll()}):\n{server.log.read_text()[-4000:]}")


def test_info_lists_both_bundles(server):
    info = server.request("GET", "/info/").json()
    for name in BUNDLES:
        model = info["models"][name]
        assert (model["type"], model["dimension"]) == ("segmentation", 3)
        assert model["labels"] == {ORGANS[name]: 1, "tumour": 2}
        assert model["config"]["model_filename"][0] == "model.pt"
    assert set(info["trainers"]) == set(BUNDLES)


UINT8 = json.dumps({"result_dtype": "uint8"})


def by_id(server, studies, bundle, image):
    return server.post(f"/infer/{bundle}", params={"image": image, "output": "image"}, data={"params": UINT8})


def by_upload(server, studies, bundle, image):
    with (studies / f"{image}.nii.gz").open("rb") as file:
        return server.post(f"/infer/{bundle}", params={"output": "image"}, data={"params": UINT8}, files={"file": file})


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize("ask", [by_id, by_upload])
def test_infer_answers_as_the_bundle_itself(server, app, studies, tmp_path, bundle, ask):
    answer, _ = ask(server, studies, bundle, "ct_4")
    (tmp_path / "label.nii.gz").write_bytes(answer.content)
    label = labels_of(tmp_path / "label.nii.gz", studies / "ct_4.nii.gz")
    assert np.array_equal(label, own_label(app / "model" / bundle, studies / "ct_4.nii.gz", tmp_path))
    assert len(np.unique(label)) > 1


def labels_of(path, source):
    """The label map of a file that must lie on the voxels of its image."""
    label, image = nibabel.load(path), nibabel.load(source)
    assert label.shape == image.shape
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-4)
    values = np.asarray(label.dataobj)
    assert set(np.unique(values)) <= {0, 1, 2}
    return values


def own_label(bundle, image, folder):
    """What ``python -m monai.bundle run`` with inference.json writes for the image."""
    flow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(bundle),
        dataset_dir=str(image),
        output_dir=str(folder / "own"),
        device="cpu",
    )
    flow.initialize()
    flow.run()
    (path,) = (folder / "own").glob("*.nii.gz")
    return labels_of(path, image)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_batch_infer_saves_labels(server, studies, bundle):
    tag = f"by_{ORGANS[bundle]}"
    request = {"save_label": True, "label_tag": tag, "multi_gpu": False, "device": "cpu", "result_dtype": "uint8"}
    server.post(f"/batch/infer/{bundle}", params={"images": "all", "run_sync": "true"}, json=request)
    for name in IMAGES:
        labels_of(studies / "labels" / tag / f"{name}.nii.gz", studies / f"{name}.nii.gz")


@pytest.mark.parametrize("bundle", BUNDLES)
def test_train_distils(server, app, bundle):
    """One epoch on the studies with a final label; the teacher is models/teacher.pt of the served bundle."""
    models = app / "model" / bundle / "models"
    student, teacher = weights(models / "model.pt"), weights(models / "teacher.pt")
    request = {"max_epochs": 1, "val_split": 0.25, "device": "cpu", "multi_gpu": False}
    _, log = server.post(f"/train/{bundle}", params={"run_sync": "true"}, json=request)
    (iteration,) = (line for line in log.splitlines() if "Epoch: 1/1, Iter: 1/1" in line)
    for term in ("task_loss", "importance_unified", "importance_e2", "prediction_unified", "prediction_d2"):
        assert float(re.search(rf"\b{term}: ([\d.]+)", iteration)[1]) > 0
        assert re.search(rf"first batch: {term} .* gradient norm at the student", log)
    trained = weights(models / "model.pt")
    assert trained.keys() == student.keys()
    assert any(not torch.equal(trained[name], student[name]) for name in student)
    assert all(torch.equal(value, teacher[name]) for name, value in weights(models / "teacher.pt").items())


def test_train_without_a_teacher_says_so_in_the_log(server, app):
    teacher = app / "model" / BUNDLES[0] / "models" / "teacher.pt"
    before = len(server.log.read_text())
    teacher.rename(teacher.with_suffix(".away"))
    try:
        path, request = f"/train/{BUNDLES[0]}", {"max_epochs": 1, "val_split": 0.25, "device": "cpu"}
        assert server.request("POST", path, params={"run_sync": "true"}, json=request).status_code == 500
    finally:
        teacher.with_suffix(".away").rename(teacher)
    deadline = time.monotonic() + 20  # the server answers first and logs then
    while (expected := f"no checkpoint at '{teacher}'") not in server.log.read_text()[before:]:
        assert time.monotonic() < deadline, f"no '{expected}' in\n{server.log.read_text()[before:]}"
        time.sleep(0.2)


def weights(path):
    return torch.load(path, weights_only=True)
