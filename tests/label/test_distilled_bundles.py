"""MONAI Label serves and trains the students of bundles of the model zoo; needs ``make test-label``."""

from __future__ import annotations

import csv
import re
from importlib.util import find_spec

import nibabel
import numpy as np
import pytest
import torch

from monai_kd.zoo import distil_bundle

from .. import zoo_bundles
from .label_server import UINT8, labels_of, new_app, own_label, serve, weights

TEACHERS = [
    "spleen_ct_segmentation",
    "segresnet_ds_segmentation",
    "dynunet_segmentation",
    "swin_unetr_segmentation",
]
STUDENTS = [f"{name}_student" for name in TEACHERS]
SHAPE = (32, 32, 64)
IMAGES = [f"ct_{i}" for i in range(4)]

pytestmark = [
    pytest.mark.label,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(find_spec("monailabel") is None, reason="monailabel is not installed; run `make test-label`"),
]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Volumes with a bright ball, all but the last one labelled."""
    folder = tmp_path_factory.mktemp("studies")
    (folder / "labels" / "final").mkdir(parents=True)
    random = np.random.default_rng(0)
    affine = np.diag([-2.0, 1.5, 3.0, 1.0])
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    for name in IMAGES:
        ball = np.linalg.norm(grid - random.uniform(12, 20, 3), axis=-1) < 9
        image = (ball * 100 + random.normal(0, 10, SHAPE)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(image, affine), folder / f"{name}.nii.gz")
        if name != IMAGES[-1]:
            nibabel.save(nibabel.Nifti1Image(ball.astype(np.uint8), affine), folder / "labels/final" / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The app with the student of each teacher; all weights by chance."""
    folder = new_app(tmp_path_factory.mktemp("apps"))
    torch.manual_seed(0)
    for name in TEACHERS:
        teacher = tmp_path_factory.mktemp("zoo") / name
        zoo_bundles.make(name, teacher)
        zoo_bundles.save_weights(teacher)
        student = distil_bundle(teacher, folder / "model" / f"{name}_student").root
        zoo_bundles.save_weights(student)
    return folder


@pytest.fixture(scope="module")
def server(app, studies, tmp_path_factory):
    with serve(app, studies, STUDENTS, tmp_path_factory.mktemp("log") / "server.log") as running:
        yield running


def test_info_lists_the_students(server):
    info = server.request("GET", "/info/").json()
    for name in STUDENTS:
        model = info["models"][name]
        assert (model["type"], model["dimension"], model["labels"]) == ("segmentation", 3, {"class 1": 1})
        assert model["config"]["model_filename"][0] == "model.pt"
    assert set(info["trainers"]) == set(STUDENTS)


@pytest.mark.parametrize("student", STUDENTS)
def test_infer_answers_as_the_bundle_itself(server, app, studies, tmp_path, student):
    image = studies / f"{IMAGES[-1]}.nii.gz"
    query = {"image": IMAGES[-1], "output": "image"}
    answer, _ = server.post(f"/infer/{student}", params=query, data={"params": UINT8})
    (tmp_path / "label.nii.gz").write_bytes(answer.content)
    label = labels_of(tmp_path / "label.nii.gz", image)
    assert np.array_equal(label, own_label(app / "model" / student, image, tmp_path, datalist=[str(image)]))
    assert len(np.unique(label)) > 1


@pytest.mark.parametrize("student", STUDENTS[:1])
def test_train_distils(server, app, student):
    """One epoch on the studies with a final label; the teacher is models/teacher.pt of the served bundle."""
    bundle = app / "model" / student
    before, teacher = weights(bundle / "models" / "model.pt"), weights(bundle / "models" / "teacher.pt")
    request = {"max_epochs": 1, "val_split": 0.34, "device": "cpu", "multi_gpu": False}
    _, log = server.post(f"/train/{student}", params={"run_sync": "true"}, json=request)
    with (bundle / "eval" / "distilled.history.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    for term in ("task_loss", "soft_target", "teacher_dice", "hint"):
        assert float(row[term]) > 0
        assert term == "task_loss" or re.search(rf"first batch: {term} .* gradient norm at the student", log)
    trained = weights(bundle / "models" / "model.pt")
    assert trained.keys() == before.keys()
    assert any(not torch.equal(trained[name], before[name]) for name in before)
    assert all(torch.equal(value, teacher[name]) for name, value in weights(bundle / "models" / "teacher.pt").items())
