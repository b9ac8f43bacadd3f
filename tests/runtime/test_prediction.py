"""Every case that can be done is done, the others are named, and nothing else is touched."""

from __future__ import annotations

import csv
import os
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from monai_kd.runtime import ExportError, VolumeStudent, load_exported, predict
from monai_kd.runtime.pictures import PictureStudent

SIZE = (16, 16)
PICTURE = {
    "kind": "picture",
    "channels": "RGB",
    "size": list(SIZE),
    "resize": "bilinear",
    "mean": [128.0] * 3,
    "std": [64.0] * 3,
}
VOLUME = {
    "kind": "volume",
    "orientation": "RAS",
    "spacing": [2.0, 2.0, 2.0],
    "intensity": [],
    "pad_value": 0.0,
    "roi_size": [16, 16, 16],
    "overlap": 0.25,
    "mode": "gaussian",
}


def conv(channels, classes, dims):
    torch.manual_seed(0)
    return (nn.Conv2d if dims == 2 else nn.Conv3d)(channels, classes, 3, padding=1)


def pictures(root, *names):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return root


@pytest.fixture
def segmenter(export_network):
    output = {"channels": 1, "activation": "sigmoid"}
    return load_exported(export_network(conv(3, 1, 2), (3, *SIZE), pipeline=PICTURE, output=output), num_threads=1)


@pytest.fixture
def classifier(export_network):
    net = nn.Sequential(conv(3, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    words = PICTURE | {"class_names": ["benign", "malignant", "other"]}
    return load_exported(export_network(net, (3, *SIZE), pipeline=words), num_threads=1)


@pytest.fixture
def labeller(export_network):
    return load_exported(export_network(conv(1, 2, 3), (1, 16, 16, 16), pipeline=VOLUME), num_threads=1)


def tree(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_folder_with_its_subfolders(segmenter, tmp_path):
    source = pictures(tmp_path / "in", "a.png", "sub/b.JPG", "sub/deep/c.bmp", ".hidden.png", ".git/d.png")
    (source / "notes.txt").write_text("not a picture")
    done = predict(segmenter, source, tmp_path / "out")
    assert tree(tmp_path / "out") == ["a.png", "sub/b.png", "sub/deep/c.png"]
    assert not done.failed
    assert {path.name for path in done.written} == {"a.png", "b.JPG", "c.bmp"}
    assert np.asarray(Image.open(tmp_path / "out" / "a.png")).shape == (20, 24)


def test_one_file(segmenter, tmp_path):
    source = pictures(tmp_path / "in", "a.jpg", "b.jpg")
    predict(segmenter, source / "b.jpg", tmp_path / "out")
    assert tree(tmp_path / "out") == ["b.png"]


def test_each_case_is_its_own(segmenter, tmp_path):
    source = pictures(tmp_path / "in", *(f"{i}.png" for i in range(7)))
    predict(segmenter, source, tmp_path / "out")
    one = PictureStudent(segmenter)
    for path in source.iterdir():
        expected = one.infer(one.load(path))
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / path.name)), expected)


def test_volumes(labeller, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a.nii", "b.nii.gz"):
        data = np.random.default_rng(0).integers(-9, 9, (14, 20, 17)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.5, 1.5, 3.0, 1])), source / name)
    done = predict(labeller, source, tmp_path / "out", exact_borders=True, coarse_spacing=6.0, margin=5.0)
    assert tree(tmp_path / "out") == ["a_seg.nii.gz", "b_seg.nii.gz"]
    assert nibabel.load(done.written[source / "a.nii"]).shape == (14, 20, 17)


def test_classes_go_into_one_table(classifier, tmp_path):
    source = pictures(tmp_path / "in", "b.png", "=cmd.png", "sub/a.png")
    (source / "c.png").write_bytes(b"no picture")
    done = predict(classifier, source, tmp_path / "out")
    assert tree(tmp_path / "out") == ["classes.csv"]
    rows = list(csv.DictReader((tmp_path / "out" / "classes.csv").open()))
    assert [row["image"] for row in rows] == ["'=cmd.png", "b.png", "sub/a.png"]
    for row in rows:
        values = {name: float(row[name]) for name in ("benign", "malignant", "other")}
        assert sum(values.values()) == pytest.approx(1, abs=1e-5)
        assert row["class"] == max(values, key=values.get)
    assert list(done.failed) == [source / "c.png"]


def test_a_bad_case_does_not_stop_the_others(segmenter, tmp_path):
    source = pictures(tmp_path / "in", *(f"{i}.png" for i in range(6)))
    (source / "0.png").write_bytes(b"")
    (source / "3.png").write_text("no picture")
    (source / "gone.png").symlink_to(source / "nowhere.png")
    done = predict(segmenter, source, tmp_path / "out")
    assert tree(tmp_path / "out") == ["1.png", "2.png", "4.png", "5.png"]
    assert sorted(path.name for path in done.failed) == ["0.png", "3.png", "gone.png"]
    assert all(reason for reason in done.failed.values())


def test_a_case_that_cannot_be_saved_is_named(segmenter, tmp_path):
    source = pictures(tmp_path / "in", "a.png", "b.png")
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    done = predict(segmenter, source, tmp_path / "out")
    assert list(done.failed) == [source / "a.png"]
    assert tree(tmp_path / "out") == ["b.png"]


# What is never written.


def test_inputs_stay_as_they_are(segmenter, tmp_path):
    source = pictures(tmp_path / "in", "a.png", "a.jpg", "sub/b.png", "out/c.png")
    before = contents(source)
    with pytest.raises(ValueError, match="output folder is the input folder"):
        predict(segmenter, source, source)
    done = predict(segmenter, source / "a.png", source)
    assert "is not overwritten" in done.failed[source / "a.png"]
    done = predict(segmenter, source / "a.jpg", source / "sub")
    assert not done.failed
    (source / "sub" / "a.png").unlink()
    assert contents(source) == before


def test_masks_of_an_earlier_run_are_no_input(segmenter, tmp_path):
    source = pictures(tmp_path / "in", "a.png")
    for _ in range(2):
        predict(segmenter, source, source / "masks")
    assert tree(source) == ["a.png", "masks/a.png"]


def test_two_cases_do_not_share_a_mask(segmenter, tmp_path):
    source = pictures(tmp_path / "in", "a.png", "a.jpg", "b.png")
    done = predict(segmenter, source, tmp_path / "out")
    assert tree(tmp_path / "out") == ["b.png"]
    assert {path.name for path in done.failed} == {"a.png", "a.jpg"}
    assert "would share the mask" in done.failed[source / "a.png"]


def test_a_link_does_not_lead_out_of_the_output_folder(segmenter, tmp_path):
    source = pictures(tmp_path / "in", "sub/a.png", "b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    done = predict(segmenter, source, tmp_path / "out")
    assert tree(tmp_path / "elsewhere") == []
    assert "outside the output folder" in done.failed[source / "sub" / "a.png"]


def test_no_folder_is_made_behind_a_link(segmenter, tmp_path):
    source = pictures(tmp_path / "in", "sub/deep/a.png")
    for name in ("out", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    done = predict(segmenter, source, tmp_path / "out")
    assert "outside the output folder" in done.failed[source / "sub" / "deep" / "a.png"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_mask_that_is_a_link_to_its_picture_is_not_written(segmenter, tmp_path):
    source = pictures(tmp_path / "in", "a.png")
    before = contents(source)
    (tmp_path / "out").mkdir()
    os.link(source / "a.png", tmp_path / "out" / "a.png")
    assert predict(segmenter, source, tmp_path / "out").failed
    assert contents(source) == before


def test_a_link_in_the_place_of_a_mask_is_left_alone(segmenter, tmp_path):
    source = pictures(tmp_path / "in", "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "kept.png").write_bytes(b"kept")
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "kept.png")
    assert "is a link" in predict(segmenter, source, tmp_path / "out").failed[source / "a.png"]
    assert (tmp_path / "kept.png").read_bytes() == b"kept"


@pytest.mark.parametrize(
    "name", ["a....png", "a\nb.png", "-rf.png", "=1+1.png", "<b>&.png", "a;$(c)`d`.png", "\u202egpj.png"]
)
def test_odd_names_are_written_in_the_folder(segmenter, tmp_path, name):
    source = pictures(tmp_path / "in", "sub/b.png")
    os.rename(source / "sub" / "b.png", source / "sub" / name)
    done = predict(segmenter, source, tmp_path / "out")
    assert not done.failed
    assert [path.relative_to(tmp_path / "out").parts[0] for path in (tmp_path / "out").rglob("*.png")] == ["sub"]


def test_no_half_file_is_left(segmenter, tmp_path, monkeypatch):
    source = pictures(tmp_path / "in", "a.png")
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError("disk full")))
    done = predict(segmenter, source, tmp_path / "out")
    assert done.failed == {source / "a.png": "disk full"}
    assert tree(tmp_path / "out") == []


# How it runs.


def test_loading_inference_and_saving_overlap_and_wait_for_each_other(segmenter, tmp_path, monkeypatch):
    source = pictures(tmp_path / "in", *(f"{i}.png" for i in range(8)))
    threads, loaded, inferred, most = {}, [], [], []
    load, infer, save = PictureStudent.load, PictureStudent.infer, PictureStudent.save

    def watched_load(self, path):
        threads["load"] = threading.get_ident()
        loaded.append(path)
        return load(self, path)

    def watched_infer(self, one):
        threads["infer"] = threading.get_ident()
        most.append(len(loaded) - len(inferred))
        inferred.append(one)
        return infer(self, one)

    def watched_save(self, *args):
        threads["save"] = threading.get_ident()
        return save(self, *args)

    for name, function in (("load", watched_load), ("infer", watched_infer), ("save", watched_save)):
        monkeypatch.setattr(PictureStudent, name, function)
    predict(segmenter, source, tmp_path / "out")
    assert len(set(threads.values())) == 3
    assert max(most) <= 3  # the one in the network and two ahead


def test_masks_that_wait_to_be_saved_hold_no_images(labeller, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    data = np.zeros((14, 20, 17), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "in" / "a.nii")
    held = []
    monkeypatch.setattr(
        VolumeStudent,
        "save",
        lambda self, labels, one, target: held.append((one.stored.channels, one.image, one.coarse)),
    )
    predict(labeller, tmp_path / "in", tmp_path / "out", coarse_spacing=6.0)
    assert held == [((), None, None)]


def test_an_interruption_ends_it(segmenter, tmp_path, monkeypatch):
    source = pictures(tmp_path / "in", *(f"{i}.png" for i in range(9)))
    infer, seen = PictureStudent.infer, []

    def stopped(self, loaded):
        seen.append(loaded)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return infer(self, loaded)

    monkeypatch.setattr(PictureStudent, "infer", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict(segmenter, source, tmp_path / "out")
    assert len(tree(tmp_path / "out")) <= 2
    assert all(not name.startswith(".") for name in tree(tmp_path / "out"))


# What cannot be asked for.


def test_nothing_to_predict(segmenter, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        predict(segmenter, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "in").mkdir()
    with pytest.raises(FileNotFoundError, match=r"ends in \.bmp"):
        predict(segmenter, tmp_path / "in", tmp_path / "out")
    (tmp_path / "a.nii.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="not a file of this student's kind"):
        predict(segmenter, tmp_path / "a.nii.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_without_a_pipeline(export_network, tmp_path):
    model = load_exported(export_network(conv(3, 1, 2), (3, *SIZE), pipeline_refused="Rotated is not known"))
    with pytest.raises(ExportError, match=r"\(Rotated is not known\); run the bundle's inference\.json"):
        predict(model, tmp_path, tmp_path / "out")


def test_options_of_volumes_are_not_for_pictures(segmenter, tmp_path):
    for options in ({"exact_borders": True}, {"coarse_spacing": 6.0}):
        with pytest.raises(ValueError, match="for volumes"):
            predict(segmenter, Path(tmp_path), tmp_path / "out", **options)
