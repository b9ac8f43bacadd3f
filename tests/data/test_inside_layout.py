"""Whatever an image is called and wherever it lies, its mask is written in the output folder."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import SaveImage

from monai_kd.data import InsideLayout, refuse_links
from monai_kd.errors import user_message

HOSTILE = [
    "/data/../elsewhere/a.png",
    "/elsewhere/a.png",
    "../a.png",
    "../../../a.png",
    "/a.png",
    "/data_other/a.png",
]
NAMES = [
    "..png",
    "...png",
    "....png",
    "a\nb.png",
    "-rf.png",
    "=1+1.png",
    "<b>.png",
    "a;b $(c) `d`.png",
    "x" * 200 + ".png",
]


def saved(folder, name, **layout):
    """Saves a mask of an image of that name as a bundle does."""
    how = {"output_dir": folder, "postfix": "seg", "extension": ".png", "makedirs": True, **layout}
    save = SaveImage(
        output_dir=folder, output_ext=".png", output_dtype=np.uint8, print_log=False, folder_layout=InsideLayout(**how)
    )
    save(MetaTensor(torch.ones(1, 4, 4), meta={"filename_or_obj": str(name)}))


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_mask_does_not_leave_the_folder_by_its_name(tmp_path, name):
    out = tmp_path / "a" / "b" / "out"
    with pytest.raises(Exception, match="does not lie below") as caught:
        saved(out, name, data_root_dir="/data")
    assert "data_root_dir" in user_message(caught.value)
    assert files(tmp_path) == []
    saved(out, name)  # without a root, of the name the file alone counts
    assert files(tmp_path) == ["a/b/out/a_seg.png"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", [{}, {"data_root_dir": "/data"}])
def test_odd_names_are_written_in_the_folder(tmp_path, name, how):
    out = tmp_path / "out"
    saved(out, f"/data/sub/{name}", **how)
    (path,) = files(tmp_path)
    assert Path(path).parent == (Path("out/sub") if how else Path("out"))


def test_below_the_root_folders_stay(tmp_path):
    saved(tmp_path, "/data/x/../y/a.png", data_root_dir="/data/")
    assert files(tmp_path) == ["y/a_seg.png"]


def test_no_link_leads_out(tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    other.mkdir()
    (out / "sub").symlink_to(other)
    with pytest.raises(Exception, match="would lie outside the output folder"):
        saved(out, "/data/sub/a.png", data_root_dir="/data")
    with pytest.raises(Exception, match="would lie outside the output folder"):
        saved(out, "/data/sub/deeper/a.png", data_root_dir="/data")
    (other / "kept.png").write_bytes(b"kept")
    (out / "a_seg.png").symlink_to(other / "kept.png")
    with pytest.raises(Exception, match="is a link"):
        saved(out, "/data/a.png")
    assert files(other) == ["kept.png"]
    assert (other / "kept.png").read_bytes() == b"kept"


def test_the_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    saved(tmp_path / "out", "/data/sub/a.png", data_root_dir="/data")
    assert files(tmp_path / "disk") == ["sub/a_seg.png"]


def test_links_that_wait_are_refused(tmp_path):
    (tmp_path / "a_seg.nii.gz").write_bytes(b"")
    refuse_links(tmp_path, "_seg.nii.gz")
    os.symlink(tmp_path / "a_seg.nii.gz", tmp_path / "b_seg.nii.gz")
    refuse_links(tmp_path, ".png")
    with pytest.raises(ValueError, match=r"has links \(b_seg.nii.gz\)"):
        refuse_links(tmp_path, "_seg.nii.gz")


BUNDLES = Path(__file__).parents[2] / "bundles"


@pytest.mark.parametrize(
    "names",
    [
        ("kdas_polyp_segmentation", "inference"),
        ("kdas_polyp_segmentation", "train", "evaluate"),
        ("hlfd_kidney_tumor_segmentation", "train", "evaluate"),
        ("hlfd_liver_tumor_segmentation", "train", "evaluate"),
    ],
    ids=lambda names: f"{names[0]}-{names[-1]}",
)
def test_what_a_bundle_tells_its_saver_is_done(tmp_path, names):
    """As without the layout beside it."""
    parser = ConfigParser()
    parser.read_config([BUNDLES / names[0] / "configs" / f"{name}.json" for name in names[1:]])
    folder = "postprocessing" if names[-1] == "inference" else "validate#postprocessing"
    steps = parser[f"{folder}#transforms"]
    (number,) = [number for number, step in enumerate(steps) if step["_target_"] == "SaveImaged"]
    given = {"output_dir": str(tmp_path), "output_postfix": "mine", "data_root_dir": "/data", "separate_folder": True}
    for key, value in given.items():
        parser[f"{folder}#transforms#{number}#{key}"] = value
    parser["masks_dir"] = parser["output_dir"] = str(tmp_path / "not_here")
    ending = steps[number]["output_ext"]
    save = parser.get_parsed_content(f"{folder}#transforms#{number}")
    mask = MetaTensor(torch.ones(1, 4, 4, 4)[..., : 1 if ending == ".png" else 4].squeeze(-1))
    mask.meta["filename_or_obj"] = f"/data/sub/a{ending}"
    save({steps[number]["keys"]: mask})
    assert files(tmp_path) == [f"sub/a/a_mine{ending}"]
