"""MONAI Label serves the bundles for CT and trains them, as docs/monai_label.md says; needs ``make test-label``."""

from __future__ import annotations

import json
import re
import shutil
import time
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from .label_server import UINT8, labels_of, new_app, own_label, serve, weights

ROOT = Path(__file__).parents[2]
BUNDLES = ["hlfd_kidney_tumor_segmentation", "hlfd_liver_tumor_segmentation"]
ORGANS = dict(zip(BUNDLES, ("kidney", "liver")))
IMAGES = [f"ct_{i}" for i in range(5)]
LABELLED = IMAGES[:4]

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
    folder = new_app(tmp_path_factory.mktemp("apps"))
    torch.manual_seed(0)
    for name in BUNDLES:
        bundle = folder / "model" / name
        shutil.copytree(ROOT / "bundles" / name, bundle, ignore=shutil.ignore_patterns("models", "eval"))
        (bundle / "models").mkdir()
        change(bundle / "configs" / "inference.json", SMALL)
        train = change(bundle / "configs" / "train.json", SMALL_TRAINING)
        for definition, file in (("network_def", "model.pt"), ("teacher_def", "teacher.pt")):
            torch.save(train.get_parsed_content(definition).state_dict(), bundle / "models" / file)
    return folder


@pytest.fixture(scope="module")
def server(app, studies, tmp_path_factory):
    with serve(app, studies, BUNDLES, tmp_path_factory.mktemp("log") / "server.log") as running:
        yield running


def change(path, values):
    parser = ConfigParser()
    parser.read_config(str(path))
    for key, value in values.items():
        assert key in parser, f"{path.name} has no {key}"
        parser[key] = value
    path.write_text(json.dumps(parser.config, indent=4) + "\n")
    return parser


def test_info_lists_both_bundles(server):
    info = server.request("GET", "/info/").json()
    for name in BUNDLES:
        model = info["models"][name]
        assert (model["type"], model["dimension"]) == ("segmentation", 3)
        assert model["labels"] == {ORGANS[name]: 1, "tumour": 2}
        assert model["config"]["model_filename"][0] == "model.pt"
    assert set(info["trainers"]) == set(BUNDLES)


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
    image = studies / "ct_4.nii.gz"
    label = labels_of(tmp_path / "label.nii.gz", image)
    assert np.array_equal(label, own_label(app / "model" / bundle, image, tmp_path, dataset_dir=str(image)))
    assert len(np.unique(label)) > 1


@pytest.mark.parametrize("bundle", BUNDLES)
def test_batch_infer_saves_labels(server, studies, bundle):
    tag = f"by_{ORGANS[bundle]}"
    request = {"save_label": True, "label_tag": tag, "multi_gpu": False, "device": "cpu", "result_dtype": "uint8"}
    server.post(f"/batch/infer/{bundle}", params={"images": "all", "run_sync": "true"}, json=request)
    saved = sorted((studies / "labels" / tag).glob("*.nii.gz"))
    assert [path.name for path in saved] == [f"{name}.nii.gz" for name in IMAGES]
    for path in saved:
        labels_of(path, studies / path.name)


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
    before = len(server.log.read_text(encoding="utf-8"))
    teacher.rename(teacher.with_suffix(".away"))
    try:
        path, request = f"/train/{BUNDLES[0]}", {"max_epochs": 1, "val_split": 0.25, "device": "cpu"}
        assert server.request("POST", path, params={"run_sync": "true"}, json=request).status_code == 500
    finally:
        teacher.with_suffix(".away").rename(teacher)
    deadline = time.monotonic() + 20  # the server answers first and logs then
    while (expected := f"no checkpoint at '{teacher}'") not in server.log.read_text(encoding="utf-8")[before:]:
        assert time.monotonic() < deadline, f"no '{expected}' in\n{server.log.read_text(encoding='utf-8')[before:]}"
        time.sleep(0.2)
