"""A deployed student needs neither torch nor MONAI: here they cannot even be imported."""

from __future__ import annotations

import subprocess
import sys

import nibabel
import numpy as np
import torch
from PIL import Image
from torch import nn

ALONE = """
import sys
absent = ("torch", "monai", "ignite", "sklearn", "skimage", "itk", "SimpleITK")
for name in absent:
    sys.modules[name] = None
from monai_kd.cli.app import run
status = run(sys.argv[1:])
assert not [name for name in absent if sys.modules[name] is not None]
sys.exit(status)
"""


def call(*words):
    words = [sys.executable, "-c", ALONE, *map(str, words)]
    return subprocess.run(words, capture_output=True, encoding="utf-8", check=False, timeout=120)


def picture_student(export_network):
    torch.manual_seed(0)
    words = {"kind": "picture", "channels": "RGB", "size": [16, 16], "resize": "bilinear"}
    words |= {"mean": [128.0] * 3, "std": [64.0] * 3}
    output = {"channels": 1, "activation": "sigmoid"}
    return export_network(nn.Conv2d(3, 1, 3, padding=1), (3, 16, 16), pipeline=words, output=output)


def test_pictures(export_network, tmp_path):
    folder = picture_student(export_network)
    (tmp_path / "in").mkdir()
    Image.new("RGB", (20, 24), "red").save(tmp_path / "in" / "a.jpg")
    done = call("predict", folder, tmp_path / "in", "--output", tmp_path / "out", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "out" / "a.png").size == (20, 24)
    assert "1 done" in done.stdout


def test_a_bad_case_is_named_at_the_end(export_network, tmp_path):
    folder = picture_student(export_network)
    (tmp_path / "in").mkdir()
    Image.new("RGB", (20, 24), "red").save(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "b.jpg").write_bytes(b"no picture")
    done = call("predict", folder, tmp_path / "in", "--output", tmp_path / "out", "--threads", 1)
    assert done.returncode == 1
    assert (tmp_path / "out" / "a.png").is_file()
    assert "b.jpg: cannot identify image file" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_volumes(export_network, tmp_path):
    words = {"kind": "volume", "orientation": "RAS", "spacing": [2.0] * 3, "intensity": [], "pad_value": 0.0}
    words |= {"roi_size": [16, 16, 16], "overlap": 0.25, "mode": "gaussian"}
    folder = export_network(nn.Conv3d(1, 2, 3, padding=1), (1, 16, 16, 16), pipeline=words)
    data = np.random.default_rng(0).integers(-9, 9, (14, 20, 17)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.5, 1.5, 3.0, 1])), tmp_path / "a.nii.gz")
    done = call("predict", folder, tmp_path / "a.nii.gz", "-o", tmp_path / "out", "--exact-borders", "--json")
    assert done.returncode == 0, done.stderr
    assert nibabel.load(tmp_path / "out" / "a_seg.nii.gz").shape == (14, 20, 17)


def test_a_damaged_export_is_one_line(export_network, tmp_path):
    folder = picture_student(export_network)
    (folder / "model.bin").write_bytes(b"")
    done = call("predict", folder, tmp_path, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "model.bin' is not the file that was exported" in done.stderr


def test_help_of_all_commands():
    done = call("--help")
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout
