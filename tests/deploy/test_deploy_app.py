"""MONAI Deploy runs an exported student, as docs/deployment.md says; needs ``make test-deploy``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

ROOT = Path(__file__).parents[2]
NAME = "hlfd_kidney_tumor_segmentation"
APP = ROOT / "deploy_app" / "app.py"
# Several windows of a volume, of which the last batch is smaller than the others.
CHANGES = {"spacing": [3.0, 3.0, 3.0], "sw_batch_size": 5}

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("holoscan") is None, reason="MONAI Deploy is not installed; run `make test-deploy`"),
]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Two smooth volumes of other shapes and orientations."""
    folder = tmp_path_factory.mktemp("volumes")
    smooth = torch.nn.functional.interpolate(200 * torch.randn(1, 1, 8, 9, 6), (50, 60, 30), mode="trilinear")[0, 0]
    values = smooth.round().short().numpy()
    oblique = np.array([[-3.0, 0, 0, 70.0], [0, -2.5, 0, 60.0], [0, 0.4, 5.0, -400.0], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(values, oblique), folder / "ct_0.nii.gz")
    nibabel.save(nibabel.Nifti1Image(values[::-1, :40].copy(), np.diag([2.0, 3.0, 4.0, 1.0])), folder / "ct_1.nii")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The bundle with the network of its demo, its weights by chance."""
    root = tmp_path_factory.mktemp("bundles") / NAME
    shutil.copytree(ROOT / "bundles" / NAME, root, ignore=shutil.ignore_patterns("models", "eval"))
    (root / "models").mkdir()
    parser = ConfigParser()
    parser.read_config([str(root / "configs" / name) for name in ("inference.json", "demo.json")])
    torch.manual_seed(0)
    torch.save(parser.get_parsed_content("network_def").state_dict(), root / "models" / "model.pt")
    return root


@pytest.fixture(scope="module")
def exported(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "student"
    words = ["-m", "monai_kd", "export", bundle, "-o", folder, "--to", "torchscript"]
    words += ["--config", bundle / "configs" / "demo.json", "--set", f"ckpt_dir={bundle / 'models'}"]
    for key, value in {**CHANGES, "dataset_dir": folder / "no data"}.items():
        words += ["--set", f"{key}={value}"]
    done = python(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def own_masks(bundle, volumes, tmp_path_factory):
    """What the bundle writes."""
    folder = tmp_path_factory.mktemp("own")
    configs = [str(bundle / "configs" / name) for name in ("inference.json", "demo.json")]
    words = ["-m", "monai.bundle", "run", "--config_file", str(configs), "--bundle_root", bundle]
    words += ["--meta_file", bundle / "configs" / "metadata.json", "--logging_file", False]
    words += ["--ckpt_dir", bundle / "models", "--dataset_dir", volumes, "--output_dir", folder]
    for key, value in CHANGES.items():
        words += [f"--{key}", value]
    done = python(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def python(*words):
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=os.environ, cwd=ROOT, check=False)


def same_masks(folder, own, names):
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}_seg.nii.gz" for name in names]
    for path in folder.iterdir():
        found, expected = nibabel.load(path), nibabel.load(own / path.name)
        assert found.get_data_dtype() == np.uint8
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
        values = np.asarray(found.dataobj)
        assert np.array_equal(values, np.asarray(expected.dataobj))
        assert len(np.unique(values)) > 1


def test_masks_are_those_of_the_bundle(exported, volumes, own_masks, tmp_path):
    """Voxel for voxel: the same torch computes both."""
    done = python(APP, "-i", volumes, "-o", tmp_path / "masks", "-m", exported / "model.ts")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    same_masks(tmp_path / "masks", own_masks, ["ct_0", "ct_1"])


def test_a_folder_of_models(exported, volumes, own_masks, tmp_path):
    (tmp_path / "models" / "student").mkdir(parents=True)
    shutil.copy(exported / "model.ts", tmp_path / "models" / "student")
    done = python(APP, "-i", volumes / "ct_1.nii", "-o", tmp_path / "masks", "-m", tmp_path / "models")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    same_masks(tmp_path / "masks", own_masks, ["ct_1"])


def test_refuses_what_it_could_not_run(bundle, exported, volumes, tmp_path):
    for model in (bundle, exported):
        done = python(APP, "-i", volumes, "-o", tmp_path / "masks", "-m", model)
        assert done.returncode == 1
        assert f"no exported student at '{model}'" in done.stderr
        assert "--to torchscript" in done.stderr
    (tmp_path / "empty").mkdir()
    done = python(APP, "-i", tmp_path / "empty", "-o", tmp_path / "masks", "-m", exported / "model.ts")
    assert done.returncode == 1
    assert f"no volume in '{tmp_path / 'empty'}'" in done.stderr


def test_a_volume_that_cannot_be_read_ends_it(exported, volumes, own_masks, tmp_path):
    (tmp_path / "volumes").mkdir()
    shutil.copy(volumes / "ct_0.nii.gz", tmp_path / "volumes")
    (tmp_path / "volumes" / "ct_1.nii.gz").write_bytes(b"nothing")
    done = python(APP, "-i", tmp_path / "volumes", "-o", tmp_path / "masks", "-m", exported / "model.ts")
    assert done.returncode == 1
    assert "ct_1.nii.gz is not a gzip file" in done.stderr
    same_masks(tmp_path / "masks", own_masks, ["ct_0"])
