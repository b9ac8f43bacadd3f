"""MONAI Label's app for bundles serves exported students, as docs/monai_label.md says; needs ``make test-label``."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_kd.export import export_bundle

from .label_server import UINT8, labels_of, new_app, serve

CONFIGS = Path(__file__).parents[2] / "bundles" / "hlfd_kidney_tumor_segmentation" / "configs"
TORCH, TORCHSCRIPT, OPENVINO = NAMES = [f"kidney_segmentation_{form}" for form in ("torch", "torchscript", "openvino")]

pytestmark = [
    pytest.mark.label,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(find_spec("monailabel") is None, reason="monailabel is not installed; run `make test-label`"),
]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Smooth volumes of several windows, in another orientation than the network's."""
    folder = tmp_path_factory.mktemp("studies")
    affine = np.array([[-4.0, 0, 0, 70.0], [0, -3.5, 0, 60.0], [0, 0, 6.0, -400.0], [0, 0, 0, 1.0]])
    for index in range(2):
        coarse = 200 * torch.randn(1, 1, 8, 9, 6, generator=torch.Generator().manual_seed(index))
        values = torch.nn.functional.interpolate(coarse, (50, 60, 30), mode="trilinear")[0, 0].short().numpy()
        nibabel.save(nibabel.Nifti1Image(values, affine), folder / f"ct_{index}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """One student, with the network of the demo and weights by chance, three times: in torch and exported twice."""
    models = new_app(tmp_path_factory.mktemp("apps")) / "model"
    source = tmp_path_factory.mktemp("bundles") / "student"
    shutil.copytree(CONFIGS, source / "configs")
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in ("inference.json", "demo.json")])
    torch.manual_seed(0)
    (source / "models").mkdir()
    torch.save(parser.get_parsed_content("network_def").state_dict(), source / "models" / "model.pt")
    places = {"ckpt_dir": str(source / "models"), "dataset_dir": str(source / "no data")}
    arguments = {"configs": [CONFIGS / "demo.json"], "overrides": places}
    for name in NAMES:
        (models / name / "models").mkdir(parents=True)

    script = tmp_path_factory.mktemp("exported") / "torchscript"
    export_bundle(source, script, to="torchscript", **arguments)
    for name in (TORCH, TORCHSCRIPT):
        write_configs(script, models / name)
    shutil.copy(script / "model.ts", models / TORCHSCRIPT / "models")

    exported = models / OPENVINO / "exported"
    export_bundle(source, exported, to="openvino", **arguments)
    write_configs(exported, models / OPENVINO, CONFIGS / "inference_runtime.json")
    for name in (TORCH, OPENVINO):
        shutil.copy(source / "models" / "model.pt", models / name / "models")
    return models.parent


@pytest.fixture(scope="module")
def server(app, studies, tmp_path_factory):
    with serve(app, studies, NAMES, tmp_path_factory.mktemp("log") / "server.log") as running:
        yield running


def write_configs(exported, bundle, *overrides):
    """``inference.json`` of an export with further files merged into it, and its metadata."""
    (bundle / "configs").mkdir()
    merged = ConfigParser.load_config_files([exported / "inference.json", *overrides])
    ConfigParser.export_config_file(merged, bundle / "configs" / "inference.json", indent=4)
    shutil.copy(exported / "metadata.json", bundle / "configs")


def infer(server, studies, name, image, folder):
    query = {"image": image, "output": "image"}
    answer, log = server.post(f"/infer/{name}", params=query, data={"params": UINT8})
    path = folder / f"{name}_{image}.nii.gz"
    path.write_bytes(answer.content)
    return labels_of(path, studies / f"{image}.nii.gz"), log


def test_info_lists_them(server):
    info = server.request("GET", "/info/").json()
    for name in NAMES:
        model = info["models"][name]
        assert (model["type"], model["dimension"]) == ("segmentation", 3)
        assert model["labels"] == {"kidney": 1, "tumour": 2}
    assert info["trainers"] == {}


@pytest.mark.parametrize(("name", "same"), [(TORCHSCRIPT, 1.0), (OPENVINO, 0.9999)])
def test_labels_are_those_of_torch(server, studies, tmp_path, name, same):
    expected, _ = infer(server, studies, TORCH, "ct_0", tmp_path)
    found, _ = infer(server, studies, name, "ct_0", tmp_path)
    assert len(np.unique(expected)) > 1
    assert np.mean(found == expected) >= same


def test_the_exported_file_computes(app, server, studies, tmp_path):
    """Weights of torch beside it are not used: other ones there change nothing."""
    before, _ = infer(server, studies, OPENVINO, "ct_0", tmp_path)
    path = app / "model" / OPENVINO / "models" / "model.pt"
    torch.save({name: torch.zeros_like(value) for name, value in torch.load(path, weights_only=True).items()}, path)
    after, log = infer(server, studies, OPENVINO, "ct_0", tmp_path)
    assert "Reload model" in log
    assert np.array_equal(before, after)


def test_requests_at_once_have_their_own_answers(server, studies, tmp_path):
    alone = [infer(server, studies, OPENVINO, f"ct_{index}", tmp_path)[0] for index in range(2)]
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(infer, server, studies, OPENVINO, f"ct_{index}", tmp_path) for index in range(2)]
    assert not np.array_equal(*alone)
    for label, answer in zip(alone, asked):
        assert np.array_equal(label, answer.result()[0])
