import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from monai_kd.data import abdomen_labels, kits_datalist, simulate_ct
from monai_kd.data import ct_simulator as module
from monai_kd.data.ct_simulator import main, simulate_kits

SIZE, SPACING = (56, 48, 32), (6.0, 6.0, 6.0)


def best_threshold_dice(inside, outside):
    """Of all thresholds, chosen with the truth at hand, keeping what is above or what is below."""
    counts = [np.bincount(np.asarray(values, np.int64) + 1024, minlength=4096) for values in (inside, outside)]
    best = 0.0
    for order in (1, -1):
        hits, false = (np.cumsum(count[::order]) for count in counts)
        best = max(best, (2 * hits / (hits + false + inside.size)).max())
    return best


@pytest.fixture(scope="module")
def label():
    return abdomen_labels(3, SIZE, SPACING)


@pytest.fixture(scope="module", params=["kidney", "liver"])
def cases(request):
    labels = [abdomen_labels(seed, SIZE, SPACING, request.param) for seed in range(25)]
    labels = [label for label in labels if (label == 2).any()]
    return request.param, [
        (simulate_ct(label, SPACING, [7, i], request.param), label) for i, label in enumerate(labels)
    ]


def test_same_seed_same_image(label):
    first, second, other = (simulate_ct(label, SPACING, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).mean() > 0.5


def test_global_random_state_does_not_matter(ignores_the_global_state, label):
    assert ignores_the_global_state(lambda: simulate_ct(label, SPACING, 1))


@pytest.mark.parametrize("organ", ["kidney", "liver"])
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32])
def test_type_shape_and_range(label, organ, kind):
    before = label.copy()
    image = simulate_ct(label.astype(kind), SPACING, 5, organ)
    assert image.dtype == np.int16
    assert image.shape == label.shape
    assert image.min() >= -1024
    assert image.max() < 1500
    np.testing.assert_array_equal(label, before)


def test_values_of_organ_and_tumour_are_plausible(cases):
    organ, pairs = cases
    means = np.array([[image[label == value].mean() for value in (1, 2)] for image, label in pairs])
    low, high = (120, 200) if organ == "kidney" else (75, 125)
    assert (means[:, 0] > low).all()
    assert (means[:, 0] < high).all()
    assert means[:, 0].std() > 4
    # Most tumours are darker than the organ, some hardly.
    assert np.median(means[:, 1] - means[:, 0]) < -15
    assert (means[:, 0] - means[:, 1]).min() < 10


def test_no_threshold_finds_tumour_or_organ(cases):
    organ, pairs = cases
    in_organ, in_all, organ_in_all = [], [], []
    for image, label in pairs:
        background, rest, tumour = (image[label == value] for value in (0, 1, 2))
        in_organ.append(best_threshold_dice(tumour, rest))
        in_all.append(best_threshold_dice(tumour, np.concatenate([rest, background])))
        organ_in_all.append(best_threshold_dice(image[label > 0], background))
    assert 0.3 < np.mean(in_organ) < 0.8
    assert min(in_organ) < 0.3
    assert np.mean(in_all) < 0.15
    # The liver is the largest organ, and soft tissue for the most part.
    assert np.mean(organ_in_all) < {"kidney": 0.5, "liver": 0.8}[organ]


def test_the_neighbourhood_has_values_of_the_organ(cases):
    _, pairs = cases
    shares = []
    for image, label in pairs:
        near = binary_dilation(label > 0, iterations=8) & ~binary_dilation(label > 0, iterations=2)
        low, high = np.percentile(image[label > 0], (5, 95))
        shares.append(((image[near] > low) & (image[near] < high)).mean())
    assert np.mean(shares) > 0.05


def test_abdomen_has_air_fat_soft_tissue_bone(label):
    image = simulate_ct(label, SPACING, 4)
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners < -850).all()
    body = image > -300
    for low, high, least in ((-140, -60, 0.1), (20, 90, 0.1), (250, 900, 0.005)):
        assert ((image > low) & (image < high))[body].mean() > least
    assert not (label > 0)[~body].any()


@pytest.mark.parametrize("seed", range(4))
def test_outline_holds_organs_anywhere(seed):
    label = np.zeros((40, 40, 24), dtype=np.uint8)
    start = np.random.default_rng(seed).integers(0, (30, 30, 16))
    label[tuple(slice(a, a + 9) for a in start)] = 1
    image = simulate_ct(label, (8, 8, 8), seed)
    inner = label.astype(bool)
    assert image[inner].min() > -400  # not in air


@pytest.mark.parametrize("axcodes", ["IPL", "LPS", "PIR", "RSA"])
def test_axis_order_and_direction_are_respected(axcodes):
    label = abdomen_labels(3, (40, 36, 30), (6.0, 5.0, 7.0))
    image = simulate_ct(label, (6.0, 5.0, 7.0), 9)
    pairs = ("LR", "PA", "IS")
    order = [next(i for i, pair in enumerate(pairs) if code in pair) for code in axcodes]
    flips = [axis for axis, code in enumerate(axcodes) if code not in "RAS"]

    def turned(array):
        return np.flip(array.transpose(order), flips)

    spacing = [(6.0, 5.0, 7.0)[axis] for axis in order]
    np.testing.assert_array_equal(simulate_ct(turned(label), spacing, 9, axcodes=axcodes), turned(image))


def test_anatomy_has_directions():
    label = abdomen_labels(0, SIZE, SPACING)
    images = [simulate_ct(label, SPACING, seed).astype(float) for seed in range(6)]
    bone = np.mean([image > 250 for image in images], axis=0)
    front, back = bone[20:36, 24:].mean(), bone[20:36, :24].mean()
    assert back > 5 * front  # y leads to the front; the spine lies behind
    # Gas in the bowel lies in front of fluid, and the large liver on the right, which x leads to.
    above = np.mean([image[:, :, 20:] for image in images], axis=0)
    tissue = (above > 40).mean(axis=(1, 2))
    assert tissue[30:44].mean() > tissue[12:26].mean()


def roughness(image, axis):
    """Mean absolute second difference along an axis, in the body."""
    return np.abs(np.diff(image.astype(float), 2, axis=axis)).mean()


def test_thick_slices_blur_across_slices_only(label):
    thin, thick = (simulate_ct(label, SPACING, 4, slice_thickness=mm) for mm in (2.0, 15.0))
    assert roughness(thick, 2) < 0.7 * roughness(thin, 2)
    for axis in (0, 1):
        assert roughness(thick, axis) > 0.7 * roughness(thin, axis)


def test_slice_axis_follows_axcodes(label):
    turned = label.transpose(2, 1, 0)
    thin, thick = (simulate_ct(turned, SPACING, 4, axcodes="SAR", slice_thickness=mm) for mm in (2.0, 15.0))
    assert roughness(thick, 0) < 0.7 * roughness(thin, 0)
    assert roughness(thick, 2) > 0.7 * roughness(thin, 2)


def test_borders_are_partial_volumes():
    """Voxels at the border of the label lie between the values on its two sides."""
    label = abdomen_labels(3, SIZE, SPACING, "liver")
    edges, inner, outer = [], [], []
    for seed in range(6):
        image = simulate_ct(label, SPACING, seed, "liver")
        organ = label > 0
        edges.append(image[organ & binary_dilation(~organ)].mean())
        inner.append(image[organ & ~binary_dilation(~organ)].mean())
        outer.append(image[~organ & binary_dilation(organ)].mean())
    assert np.mean(outer) < np.mean(edges) < np.mean(inner) - 5


def test_thin_slices_are_noisier():
    label = abdomen_labels(3, SIZE, SPACING)

    def noise(mm):
        air = simulate_ct(label, SPACING, 4, slice_thickness=mm)[:4, :4].astype(float)
        return air[air > -1024].std()

    assert noise(1.0) > 1.5 * noise(6.0)


def test_label_without_organ_and_with_tumour_only():
    empty = np.zeros((24, 24, 16), dtype=np.uint8)
    assert (simulate_ct(empty, (12, 12, 12), 0) > 0).any()
    empty[10:14, 10:14, 6:10] = 2
    for organ in ("kidney", "liver"):
        assert np.isfinite(simulate_ct(empty, (12, 12, 12), 0, organ)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": np.zeros((16, 16), np.uint8)}, "3 axes"),
        ({"label": np.zeros((16, 16, 4), np.uint8)}, "at least 8 voxels"),
        ({"label": np.full((16, 16, 16), 3)}, "got 3"),
        ({"label": np.full((16, 16, 16), -1)}, "got -1"),
        ({"label": np.full((16, 16, 16), 0.5)}, r"got 0\.5"),
        ({"label": np.full((16, 16, 16), np.nan)}, "got nan"),
        ({"spacing": (1, 1)}, "spacing"),
        ({"spacing": (1, 0, 1)}, "spacing"),
        ({"spacing": (1, float("nan"), 1)}, "spacing"),
        ({"organ": "lung"}, "kidney, liver"),
        ({"axcodes": "RAR"}, "axcodes"),
        ({"axcodes": "RA"}, "axcodes"),
        ({"slice_thickness": 0.0}, "slice_thickness"),
        ({"slice_thickness": float("inf")}, "slice_thickness"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = {"label": np.zeros((16, 16, 16), np.uint8), "spacing": (9, 9, 9), "seed": 0}
    with pytest.raises(ValueError, match=message):
        simulate_ct(**{**arguments, **change})


AFFINE = np.array([[0, 0, -6.0, 0], [0, -6.0, 0, 0], [-6.0, 0, 0, 0], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def labels_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    for number in (0, 1, 4):
        label = abdomen_labels(number, (24, 36, 40), SPACING, axcodes="IPL")
        nib.save(nib.Nifti1Image(label, AFFINE), folder / f"case_{number:05d}.nii.gz")
    return folder


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_folder_has_the_published_layout(labels_dir, tmp_path):
    root = simulate_kits(labels_dir, tmp_path / "kits", progress=False)
    assert sorted(os.listdir(root)) == ["SEMI_SYNTHETIC.txt", "case_00000", "case_00001", "case_00004"]
    assert sum(map(len, kits_datalist(root).values())) == 3
    for number in (0, 1, 4):
        case = Path(root, f"case_{number:05d}")
        assert sorted(os.listdir(case)) == ["imaging.nii.gz", "segmentation.nii.gz"]
        assert (case / "segmentation.nii.gz").read_bytes() == (labels_dir / f"{case.name}.nii.gz").read_bytes()
        image = nib.load(case / "imaging.nii.gz")
        np.testing.assert_array_equal(image.affine, AFFINE)
        label = np.asarray(nib.load(case / "segmentation.nii.gz").dataobj)
        np.testing.assert_array_equal(
            np.asarray(image.dataobj), simulate_ct(label, SPACING, [0, number], "kidney", axcodes="IPL")
        )


def test_notice_says_what_it_is(labels_dir, tmp_path):
    root = simulate_kits(labels_dir, tmp_path / "kits", seed=12, ids=[1], progress=False)
    notice = Path(root, "SEMI_SYNTHETIC.txt").read_text(encoding="utf-8")
    for words in ("SEMI-SYNTHETIC", "seed 12", "CC BY-NC-SA 4.0", "KiTS19", "clinical CT"):
        assert words in notice


def test_a_case_does_not_depend_on_the_others(labels_dir, tmp_path):
    everything = contents(simulate_kits(labels_dir, tmp_path / "all", progress=False))
    one = contents(simulate_kits(labels_dir, tmp_path / "one", ids=[4], progress=False))
    assert one == {name: data for name, data in everything.items() if "case" not in name or "00004" in name}
    other = contents(simulate_kits(labels_dir, tmp_path / "other", seed=1, ids=[4], progress=False))
    assert one["case_00004/imaging.nii.gz"] != other["case_00004/imaging.nii.gz"]


def test_published_layout_of_label_maps_gives_the_same(labels_dir, tmp_path):
    published = tmp_path / "published"
    (published / "case_00001").mkdir(parents=True)
    (published / "case_00002").mkdir()  # no label
    shutil.copyfile(labels_dir / "case_00001.nii.gz", published / "case_00001" / "segmentation.nii.gz")
    first = contents(simulate_kits(published, tmp_path / "first", progress=False))
    assert first == contents(simulate_kits(labels_dir, tmp_path / "second", ids=[1], progress=False))


def test_continues_where_it_was_interrupted(labels_dir, tmp_path, monkeypatch):
    whole = contents(simulate_kits(labels_dir, tmp_path / "whole", progress=False))
    simulate, made = module.simulate_ct, []

    def interrupted(label, spacing, seed, *rest):
        if seed[1] == 1 and not made:
            made.append(seed)
            raise KeyboardInterrupt
        return simulate(label, spacing, seed, *rest)

    monkeypatch.setattr(module, "simulate_ct", interrupted)
    target = tmp_path / "kits"
    with pytest.raises(KeyboardInterrupt):
        simulate_kits(labels_dir, target, progress=False)
    assert sorted(os.listdir(target)) == ["SEMI_SYNTHETIC.txt", "case_00000"]
    before = (target / "case_00000" / "imaging.nii.gz").stat().st_mtime_ns
    simulate_kits(labels_dir, target, progress=False)
    assert contents(target) == whole
    assert (target / "case_00000" / "imaging.nii.gz").stat().st_mtime_ns == before
    (target / "case_00004" / "imaging.nii.gz").unlink()
    simulate_kits(labels_dir, target, progress=False)
    assert contents(target) == whole


def test_no_half_file_is_left(labels_dir, tmp_path, monkeypatch):
    save = nib.save

    def fail(image, path):
        save(image, path)
        raise OSError("disk full")

    monkeypatch.setattr(module.nib, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        simulate_kits(labels_dir, tmp_path / "kits", ids=[0], progress=False)
    assert os.listdir(tmp_path / "kits" / "case_00000") == ["segmentation.nii.gz"]


def test_anything_else_is_never_overwritten(labels_dir, tmp_path):
    root = simulate_kits(labels_dir, tmp_path / "kits", ids=[0], progress=False)
    with pytest.raises(FileExistsError, match="another seed"):
        simulate_kits(labels_dir, root, seed=1, progress=False)
    with pytest.raises(FileExistsError, match="not simulated here"):
        simulate_kits(labels_dir, labels_dir, progress=False)
    with pytest.raises(FileExistsError, match="not simulated here"):
        simulate_kits(labels_dir, Path(root, "SEMI_SYNTHETIC.txt"), progress=False)


def test_wrong_folders_and_files(labels_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        simulate_kits(tmp_path / "nowhere", tmp_path / "kits")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="neither"):
        simulate_kits(tmp_path / "empty", tmp_path / "kits")
    with pytest.raises(FileNotFoundError, match="not case_00002, case_00003"):
        simulate_kits(labels_dir, tmp_path / "kits", ids=[0, 2, 3])
    assert not (tmp_path / "kits").exists()
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "case_00000.nii.gz").write_bytes((labels_dir / "case_00000.nii.gz").read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"case_00000\.nii\.gz"):
        simulate_kits(bad, tmp_path / "kits", progress=False)
    nib.save(nib.Nifti1Image(np.full((16, 16, 16), 7, np.uint8), AFFINE), bad / "case_00000.nii.gz")
    with pytest.raises(ValueError, match=r"case_00000\.nii\.gz: label must hold"):
        simulate_kits(bad, tmp_path / "kits", progress=False)
    assert os.listdir(tmp_path / "kits") == ["SEMI_SYNTHETIC.txt"]


def test_command(labels_dir, tmp_path, capsys):
    assert main([str(labels_dir), str(tmp_path / "kits"), "--seed", "3", "--ids", "0", "4", "--quiet"]) == 0
    assert sorted(os.listdir(tmp_path / "kits")) == ["SEMI_SYNTHETIC.txt", "case_00000", "case_00004"]
    assert main([str(labels_dir), str(tmp_path / "kits"), "--quiet"]) == 1
    assert "error: " in capsys.readouterr().err


def test_command_line_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("labels_dir", "semi-synthetic", "CC BY-NC-SA 4.0", "--seed", "--ids"):
        assert words in shown


@pytest.mark.slow
def test_runs_as_a_module_without_warnings():
    command = [sys.executable, "-W", "error::RuntimeWarning:runpy", "-m", "monai_kd.data.ct_simulator", "--help"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "RuntimeWarning" not in done.stderr


@pytest.mark.skipif("MONAI_KD_DATA" not in os.environ, reason="needs the KiTS19 label maps: set MONAI_KD_DATA")
def test_published_label_maps():
    folder = Path(os.environ["MONAI_KD_DATA"], "kits19_labels", "labels_3mm")
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    volume = nib.load(folder / "case_00010.nii.gz")
    label = np.asarray(volume.dataobj)
    image = simulate_ct(label, volume.header.get_zooms(), [0, 10], "kidney", "IPL")
    assert 120 < image[label == 1].mean() < 200
    assert image[label > 0].min() > -300
