"""A volume gets the labels that MONAI's chain of the CT bundles gives it."""

from __future__ import annotations

import tracemalloc

import nibabel
import numpy as np
import pytest
import torch
from monai.data import decollate_batch
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
)
from scipy.ndimage import binary_erosion, gaussian_filter
from torch import nn

from monai_kd.data import SafeSpacingd
from monai_kd.runtime import ExportError, VolumeStudent, load_exported, volumes

ROI = (24, 24, 24)
PIPELINE = {
    "kind": "volume",
    "orientation": "RAS",
    "spacing": [1.6, 1.6, 1.6],
    "intensity": [{"op": "clip", "min": -200, "max": 300}, {"op": "scale", "factor": 0.004, "offset": -0.2}],
    "pad_value": -1.0,
    "roi_size": list(ROI),
    "overlap": 0.5,
    "mode": "gaussian",
    "exact_borders": False,
}
AFFINE = np.array([[0, 0, -0.73, 90], [0, -0.73, 0, 70], [-2.57, 0, 0, 30], [0, 0, 0, 1]])


def network(classes=3):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv3d(1, 6, 5, padding=2), nn.ReLU(), nn.Conv3d(6, classes, 3, padding=1))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def write_volume(path, shape=(26, 70, 61), affine=AFFINE):
    noise = np.random.default_rng(0).standard_normal(shape)
    image = gaussian_filter(noise, [2 / step for step in np.linalg.norm(affine[:3, :3], axis=0)])
    image = np.round(image / image.std() * 150 + 50).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(image, affine), path)
    return path


def by_monai(path, before_argmax, net=None, activation=None, decide=None):
    """What inference.json of the CT bundles does; ``before_argmax``: to the answer before labels are decided.

    With an activation, probabilities are brought back.
    """
    there = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            SafeSpacingd("image", pixdim=(1.6, 1.6, 1.6), mode="bilinear", dtype=np.float32),
            ScaleIntensityRanged("image", -200.0, 300.0, -1.0, 1.0, clip=True),
        ]
    )
    item = there({"image": str(path)})
    inferer = SlidingWindowInferer(ROI, overlap=0.5, mode="gaussian", cval=-1.0)
    with torch.no_grad():
        item["pred"] = inferer(item["image"][None], net or network())
    item["pred"] = decollate_batch(item["pred"])[0]
    back = Invertd("pred", there, orig_keys="image", nearest_interp=not before_argmax, to_tensor=True)
    decide = decide or AsDiscreted("pred", argmax=True)
    behind = [back, decide] if before_argmax else [decide, back]
    if activation is not None:
        behind.insert(0, Activationsd("pred", **{activation: True}))
    return Compose(behind)(item)["pred"][0].numpy()


def student(folder, **options):
    return VolumeStudent(load_exported(folder, num_threads=1), **options)


@pytest.fixture
def folder(export_network):
    return export_network(network(), (1, *ROI), pipeline=PIPELINE)


@pytest.mark.parametrize("exact", [False, True])
def test_labels_are_monais(folder, tmp_path, exact):
    path = write_volume(tmp_path / "a.nii.gz")
    one = student(folder, exact_borders=exact)
    labels = one.infer(one.load(path))
    expected = by_monai(path, before_argmax=exact)
    assert labels.dtype == np.uint8
    assert {0, 1, 2} == set(np.unique(labels))
    assert (labels == expected).mean() >= 0.9999


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("shape", [(26, 70, 61), (40, 24, 90), (9, 30, 28)])
def test_a_large_volume_part_by_part_gets_the_same(folder, tmp_path, monkeypatch, shape, exact):
    path = write_volume(tmp_path / "a.nii.gz", shape)
    one = student(folder, exact_borders=exact)
    expected = one.infer(one.load(path))
    monkeypatch.setattr(volumes, "_AT_ONCE", 0)
    loaded = one.load(path)
    assert loaded.image is None
    np.testing.assert_array_equal(one.infer(loaded), expected)
    assert expected.any()


def test_memory_does_not_grow_with_the_length(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "_AT_ONCE", 0)
    one, peaks = student(folder, exact_borders=True), []
    for length in (60, 240):
        loaded = one.load(write_volume(tmp_path / "a.nii.gz", (length, 70, 61)))
        tracemalloc.start()
        labels = one.infer(loaded)
        peaks.append(tracemalloc.get_traced_memory()[1] - labels.nbytes)
        tracemalloc.stop()
    assert peaks[1] <= 1.1 * peaks[0]


def test_intensities_of_the_whole_volume_are_not_those_of_its_parts(export_network, tmp_path, monkeypatch):
    pipeline = PIPELINE | {"intensity": [{"op": "normalize", "nonzero": True}]}
    one = student(export_network(network(), (1, *ROI), pipeline=pipeline))
    path = write_volume(tmp_path / "a.nii.gz")
    expected = one.infer(one.load(path))
    monkeypatch.setattr(volumes, "_AT_ONCE", 0)
    np.testing.assert_array_equal(one.infer(one.load(path)), expected)


def test_a_volume_smaller_than_a_window(folder, tmp_path):
    path = write_volume(tmp_path / "a.nii.gz", shape=(9, 30, 28))
    one = student(folder, exact_borders=True)
    assert (one.infer(one.load(path)) == by_monai(path, before_argmax=True)).mean() >= 0.9999


def test_labels_are_saved_where_the_volume_lies(folder, tmp_path):
    path = write_volume(tmp_path / "a.nii.gz")
    one = student(folder)
    loaded = one.load(path)
    labels = one.infer(loaded)
    one.save(labels, loaded, tmp_path / "b.nii.gz")
    made = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(made.affine, AFFINE, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(made.dataobj), labels)


def test_one_class_with_a_threshold(export_network, tmp_path):
    folder = export_network(
        network(1), (1, *ROI), pipeline=PIPELINE | {"threshold": 0.9}, output={"channels": 1, "activation": "sigmoid"}
    )
    path = write_volume(tmp_path / "a.nii.gz")
    one, lower = student(folder), student(folder)
    lower._decide = lambda answer: (answer[0] >= 0).astype(np.uint8)
    high, low = one.infer(one.load(path)), lower.infer(lower.load(path))
    assert set(np.unique(high)) == {0, 1}
    assert 0 < high.sum() < low.sum()
    assert not (high > low).any()


def sure(classes):
    """A network whose answers are so far apart that probabilities are near 0 and 1."""
    net = network(classes)
    with torch.no_grad():
        for parameter in net[2].parameters():
            parameter *= 8
    return net


def test_probabilities_of_classes_are_interpolated_where_the_bundle_does(export_network, tmp_path):
    """``Activationsd`` before ``Invertd``: other labels than of interpolated answers, and MONAI's to the voxel."""
    path = write_volume(tmp_path / "a.nii.gz")
    expected = by_monai(path, True, sure(3), "softmax")
    labels = {}
    for activated in (True, False):
        words = PIPELINE | {"exact_borders": True, "activated": activated}
        one = student(export_network(sure(3), (1, *ROI), folder=tmp_path / str(activated), pipeline=words))
        labels[activated] = one.infer(one.load(path))
    np.testing.assert_array_equal(labels[True], expected)
    assert (labels[False] != expected).sum() > 100


def test_probabilities_of_one_class_are_interpolated_where_the_bundle_does(export_network, tmp_path):
    path = write_volume(tmp_path / "a.nii.gz")
    expected = by_monai(path, True, sure(1), "sigmoid", AsDiscreted("pred", threshold=0.3))
    labels, output = {}, {"channels": 1, "activation": "sigmoid"}
    for activated in (True, False):
        words = PIPELINE | {"exact_borders": True, "activated": activated, "threshold": 0.3}
        folder = export_network(sure(1), (1, *ROI), folder=tmp_path / str(activated), pipeline=words, output=output)
        one = student(folder)
        labels[activated] = one.infer(one.load(path))
    np.testing.assert_array_equal(labels[True], expected)
    assert (labels[False] != expected).sum() > 100


# The coarse look first.


class Bright(nn.Module):
    """Class 1 where it is bright: an answer that does not depend on the neighbours."""

    def forward(self, x):
        return torch.cat([-x, x], dim=1)


@pytest.fixture
def bright(export_network):
    output = {"channels": 2, "activation": "softmax"}
    return export_network(Bright(), (1, *ROI), pipeline=PIPELINE | {"overlap": 0.25}, output=output)


def with_organs(path, places, shape=(60, 90, 90)):
    image = np.full(shape, -200, dtype=np.int16)
    for place in places:
        image[tuple(slice(max(at - 5, 0), at + 5) for at in place)] = 300
    nibabel.save(nibabel.Nifti1Image(image, np.diag([-2.0, -2.0, 2.0, 1.0])), path)
    return path


def count_windows(one, loaded):
    seen = []
    labels = one.infer(loaded, lambda boxes: seen.extend(boxes) or boxes)
    return labels, len(seen)


@pytest.mark.parametrize(
    "places", [[(30, 45, 45)], [(3, 3, 3), (57, 86, 86)], [(30, 3, 86), (30, 86, 3), (10, 45, 45)]]
)
def test_a_coarse_look_loses_nothing_it_has_found(bright, tmp_path, places):
    path = with_organs(tmp_path / "a.nii.gz", places)
    whole, part = student(bright), student(bright, coarse_spacing=6.0, margin=8.0)
    labels, all_windows = count_windows(whole, whole.load(path))
    again, windows = count_windows(part, part.load(path))
    np.testing.assert_array_equal(again, labels)
    assert labels.sum() > 0
    assert 0 < windows < all_windows


def test_a_coarse_look_cuts_probabilities_where_the_fine_one_does(export_network, tmp_path):

    class Shifted(nn.Module):
        def forward(self, x):
            return 4 * x - 1.9  # -0.1 where x is 0.45: a probability of 0.475, above the threshold as the answer is not

    words = PIPELINE | {"overlap": 0.25, "threshold": 0.45, "activated": True}
    output = {"channels": 1, "activation": "sigmoid"}
    folder = export_network(Shifted(), (1, *ROI), pipeline=words, output=output)
    path = with_organs(tmp_path / "a.nii.gz", [(30, 45, 45)])
    faint = nibabel.load(path)
    image = np.asarray(faint.dataobj).copy()
    image[image > 0] = 163  # 0.452 on the network's scale
    nibabel.save(nibabel.Nifti1Image(image, faint.affine), path)
    whole, part = student(folder), student(folder, coarse_spacing=6.0, margin=8.0)
    labels, all_windows = count_windows(whole, whole.load(path))
    again, windows = count_windows(part, part.load(path))
    assert labels.any()
    np.testing.assert_array_equal(again, labels)
    assert windows < all_windows


def test_where_nothing_is_found_the_whole_volume_is_seen(bright, tmp_path):
    path = with_organs(tmp_path / "a.nii.gz", [])
    whole, part = student(bright), student(bright, coarse_spacing=6.0)
    expected, got = (count_windows(one, one.load(path)) for one in (whole, part))
    assert expected[1] == got[1]
    assert not got[0].any()


@pytest.mark.parametrize("exact", [True, False])
def test_what_was_not_looked_at_is_background(export_network, tmp_path, exact):
    class Always(nn.Module):
        def forward(self, x):
            return x + 1.5  # 0.5 where it is darkest: above the threshold of 0

    output = {"channels": 1, "activation": "sigmoid"}
    folder = export_network(Always(), (1, *ROI), pipeline=PIPELINE, output=output)
    one = student(folder, coarse_spacing=6.0, margin=0.0, exact_borders=exact)
    loaded = one.load(with_organs(tmp_path / "a.nii.gz", [(30, 45, 45)]))
    grid, coarse = loaded.coarse
    coarse[...] = -3
    coarse[0, grid.shape[0] // 2, grid.shape[1] // 2, grid.shape[2] // 2] = 1
    labels = one.infer(loaded)
    assert labels[30, 45, 45] == 1
    assert not labels[0].any()
    assert not labels[:, :, -1].any()


ONE, TWO = {"channels": 1, "activation": "sigmoid"}, {"channels": 2, "activation": "softmax"}


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (ONE, {"threshold": 0.3}),
        (ONE, {"threshold": 0.3, "activated": True}),
        (TWO, {"activated": True}),
    ],
)
def test_between_windows_is_background(export_network, tmp_path, output, words):
    """What no window has seen, and what is near to that; all else is foreground here."""
    net = nn.Conv3d(1, output["channels"], 1)
    with torch.no_grad():
        for parameter, value in ((net.weight, 20.0), (net.bias, 40.0)):  # the last class: 20 where it is darkest
            parameter.zero_()[-1] = value
    folder = export_network(net, (1, *ROI), pipeline=PIPELINE | {"exact_borders": True} | words, output=output)
    one = student(folder, coarse_spacing=6.0, margin=0.0)
    image = nibabel.Nifti1Image(np.full((240, 60, 30), -200, np.int16), np.diag([0.4, 1.6, 1.6, 1]))
    nibabel.save(image, tmp_path / "a.nii")
    loaded = one.load(tmp_path / "a.nii")
    _, coarse = loaded.coarse
    coarse[...] = -3
    for place in [(2, 2, 2), (-2, -2, -2)]:  # windows in opposite corners, and between them what none sees
        coarse[(0, *place)] = 1
    seen = np.zeros(loaded.grid.shape, dtype=bool)
    for window in one._windows(loaded):
        seen[window] = True
    assert seen.any(axis=(1, 2)).sum() > 40
    assert not seen.all(axis=(1, 2)).any()
    labels = one.infer(loaded)
    for near in (-1, 0, 1):  # voxels of the network's grid, and those a quarter of the way to the next
        beside = labels[4 + near : 237 : 4]
        assert not beside[~seen[1 : 1 + len(beside)]].any()
        assert beside[binary_erosion(seen)[1 : 1 + len(beside)]].all()


# What cannot be done.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"orientation": ...}, "lacks 'orientation'"),
        ({"denoise": 3}, "unknown: denoise; update monai_kd"),
        ({"intensity": [{"op": "gamma"}]}, "unknown intensity operation 'gamma'"),
        ({"roi_size": [24, 24]}, "three numbers"),
        ({"roi_size": [24, 24, 32]}, "was exported for"),
        ({"kind": "picture"}, "expected the kind 'volume'"),
    ],
)
def test_pipelines_that_are_not_known_are_refused(export_network, changes, said):
    pipeline = {key: value for key, value in (PIPELINE | changes).items() if value is not ...}
    folder = export_network(network(), (1, *ROI), pipeline=pipeline)
    with pytest.raises(ExportError, match=said):
        student(folder)


@pytest.mark.parametrize(("activation", "words"), [("sigmoid", {}), ("softmax", {"threshold": 0.5})])
def test_classes_that_overlap_are_refused(export_network, activation, words):
    output = {"channels": 3, "activation": activation}
    folder = export_network(network(), (1, *ROI), pipeline=PIPELINE | words, output=output)
    with pytest.raises(ExportError, match="may overlap"):
        student(folder)


@pytest.mark.parametrize(("activation", "words"), [("softmax", {}), ("sigmoid", {"threshold": 1.0})])
def test_a_decision_that_is_none_is_refused(export_network, activation, words):
    output = {"channels": 1, "activation": activation}
    folder = export_network(network(1), (1, *ROI), pipeline=PIPELINE | words, output=output)
    with pytest.raises(ExportError, match=r"constant|between 0 and 1"):
        student(folder)


@pytest.mark.parametrize("spacing", [1.0, 1.6])
def test_a_coarse_look_that_is_not_coarse_is_refused(folder, tmp_path, spacing):
    one = student(folder, coarse_spacing=spacing)
    with pytest.raises(ValueError, match=rf"at {spacing:g} mm is no coarser than the network's grid at 1\.6 x 1\.6"):
        one.load(write_volume(tmp_path / "a.nii.gz"))
    assert student(folder, coarse_spacing=1.7).load(tmp_path / "a.nii.gz").coarse is not None


def test_what_waits_to_be_saved_holds_no_voxels(folder, tmp_path):
    one = student(folder, coarse_spacing=6.0)
    loaded = one.load(write_volume(tmp_path / "a.nii.gz"))
    labels = np.ones(loaded.grid.stored_shape, dtype=np.uint8)
    kept = loaded.without_voxels()
    assert loaded.stored.channels
    assert (kept.stored.channels, kept.image, kept.coarse) == ((), None, None)
    for name, what in (("whole", loaded), ("kept", kept)):
        one.save(labels, what, tmp_path / f"{name}.nii")
    assert (tmp_path / "kept.nii").read_bytes() == (tmp_path / "whole.nii").read_bytes()


def test_bad_volumes_are_refused(folder, tmp_path):
    one = student(folder)
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8, 2), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match="takes 1 channels, the volume has 2"):
        one.load(tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.full((8, 8, 8), np.nan, np.float32), np.eye(4)), tmp_path / "b.nii.gz")
    with pytest.raises(ValueError, match="not finite"):
        one.load(tmp_path / "b.nii.gz")


@pytest.mark.parametrize("options", [{"coarse_spacing": 0}, {"coarse_spacing": -6.0}, {"margin": -1.0}])
def test_bad_lengths_are_refused(folder, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        student(folder, **options)
