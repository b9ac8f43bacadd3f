"""A program among the pictures that a bundle reads: the check refuses it before a transform would start it."""

import os
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from monai_kd.data import make_endoscopy_images, make_polyp_frames

from .running import Bundle
from .test_crckd_skin_lesion_classification import settings as crckd_settings
from .test_hdkd_skin_lesion_classification import settings as hdkd_settings
from .test_hdkd_skin_lesion_classification import write_lesions
from .test_kdas_polyp_segmentation import settings as kdas_settings
from .test_mhakd_gi_endoscopy_classification import settings as mhakd_settings

pytestmark = pytest.mark.filterwarnings("ignore")

EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 20\n%%EndComments\nshowpage\n%%EOF\n"
KDAS = "kdas_polyp_segmentation"


def made(name, data, folder):
    method = name.split("_")[0]
    if method == "kdas":
        return kdas_settings(make_polyp_frames(data, count=20, size=(64, 80)), folder)
    if method == "mhakd":
        return mhakd_settings(make_endoscopy_images(data, count=40, size=32), folder)
    return (crckd_settings if method == "crckd" else hdkd_settings)(write_lesions(data), folder)


@pytest.fixture
def started(tmp_path, monkeypatch):
    """What Ghostscript leaves behind when Pillow starts it."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\ntouch '{folder}/started'\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # to be looked for
    yield folder / "started"
    EpsImagePlugin.gs_binary = None


def put_a_program(bundle, common):
    """In the place of the first picture of the training."""
    item = bundle.unstarted("train.json", **common).get_parsed_content("datalist")["training"][0]
    Path(item["image"]).write_text(EPS, encoding="utf-8")
    return Path(item["image"])


@pytest.mark.parametrize(
    "name",
    [KDAS, "crckd_skin_lesion_classification", "hdkd_skin_lesion_classification", "mhakd_gi_endoscopy_classification"],
)
def test_a_training_refuses_it(name, started, tmp_path):
    bundle, common = Bundle(name), made(name, tmp_path / "data", tmp_path)
    picture = put_a_program(bundle, common)
    message = bundle.message_of("train.json", **common)
    assert picture.name in message
    assert "cannot identify image file; expected one of BMP, GIF, JPEG" in message
    assert not started.exists()
    with pytest.raises(OSError, match=r"\S"):
        Image.open(picture).load()
    assert started.exists()


def test_a_training_that_skips_leaves_it_out(started, tmp_path):
    bundle, common = Bundle(KDAS), made(KDAS, tmp_path / "data", tmp_path)
    put_a_program(bundle, common)
    flow = bundle.workflow("train.json", "teacher.json", **common, on_unreadable="skip")
    flow.initialize()
    data = flow.parser.get_parsed_content("train#dataset")
    assert len([data[index] for index in range(len(data))]) == len(data)
    assert not started.exists()
