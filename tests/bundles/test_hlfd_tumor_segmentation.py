"""The two HLFD bundles from end to end on generated anatomy, with tiny networks."""

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import DynUNet
from monai.transforms import RandCropByLabelClassesd, RandomizableTrait

import monai_kd
from monai_kd.data import make_ct_cases
from monai_kd.report import load_evaluations
from monai_kd.runtime.borders import nearest_labels, sharp_labels
from monai_kd.runtime.grids import make_grid

from .running import Bundle, differing, files, table, weights

ORGANS = ["kidney", "liver"]
BUNDLES = {organ: Bundle(f"hlfd_{organ}_tumor_segmentation") for organ in ORGANS}
STRIDES = [1, 2, 2]
SMALL = {
    "strides": STRIDES,
    "deep_supervision_heads": 1,
    "network_def#filters": [4, 8, 8],
    "spacing": [8.0, 8.0, 8.0],
    "patch_size": [16, 16, 16],
}
TEACHER_FILTERS = [8, 8, 16]
AS_TEACHER = {"network_def": "@teacher_def"}
ABLATIONS = ["attention", "dkd", "hifd", "ifd", "skd", "soft_targets"]


@pytest.fixture(scope="module", params=ORGANS)
def organ(request):
    return request.param


def split_ids(organ):
    splits = Path(monai_kd.__file__).parent / "data" / "splits"
    if organ == "kidney":
        return json.loads((splits / "kits19.json").read_text(encoding="utf-8"))
    return json.loads((splits / "lits.json").read_text(encoding="utf-8"))["folds"][0]


def some_cases(organ):
    split = split_ids(organ)
    return split["training"][:4] + split["validation"][:2] + split["test"][:2]


@pytest.fixture(scope="module")
def cases(organ, tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / organ
    return make_ct_cases(root, count=8, organ=organ, ids=some_cases(organ), size=(40, 40, 32), spacing=(8.0, 8.0, 8.0))


def settings(organ, cases, folder, **more):
    return {
        **BUNDLES[organ].places(cases, folder),
        "epochs": 1,
        "epoch_length": 2,
        "learning_rate": 0.003,
        **SMALL,
        "teacher_def#filters": TEACHER_FILTERS,
        **more,
    }


def as_teacher(common):
    common = {**common, **AS_TEACHER}
    return {key: value for key, value in common.items() if key != "network_def#filters"}


@pytest.fixture(scope="module")
def trained(organ, cases, tmp_path_factory):
    """Teacher, baseline and distilled student, trained once."""
    folder = tmp_path_factory.mktemp("trained")
    common = settings(organ, cases, folder)
    BUNDLES[organ].run("train.json", "teacher.json", **as_teacher(common))
    BUNDLES[organ].run("train.json", "baseline.json", **common)
    BUNDLES[organ].run("train.json", **common, labelled_fraction=0.25)
    return folder


def plain_student(filters=(4, 8, 8)):
    return DynUNet(3, 1, 3, [3] * 3, STRIDES, STRIDES[1:], filters=filters, deep_supervision=True, deep_supr_num=1)


def test_student_checkpoint_loads_into_a_plain_network(trained):
    network = plain_student()
    network.load_state_dict(weights(trained / "models" / "model.pt"), strict=True)
    assert all(type(value) is torch.Tensor for value in weights(trained / "models" / "model.pt").values())
    resume = ["baseline_resume.pt", "distilled_resume.pt", "teacher_resume.pt"]
    assert files(trained / "models") == sorted(["baseline.pt", "model.pt", "teacher.pt", *resume])


def test_evaluation_writes_scores_cost_and_a_row_a_case(organ, cases, trained):
    common = settings(organ, cases, trained)
    BUNDLES[organ].run("train.json", "teacher.json", "evaluate.json", **as_teacher(common))
    BUNDLES[organ].run("train.json", "evaluate.json", **common)
    found = load_evaluations(trained / "eval")
    assert set(found) == {"teacher", "distilled"}
    assert found["distilled"].cases == 2
    assert found["distilled"].cost.parameters == sum(p.numel() for p in plain_student().parameters())
    assert {"meanDice", f"Dice_{organ}", "Dice_tumour"} <= set(found["distilled"].scores)
    histories = {f"{name}.history.csv" for name in ("teacher", "baseline", "distilled")}
    ends = ("evaluation.json", "cases.csv", "cases_summary.csv")
    evaluated = {f"{name}.{end}" for name in ("teacher", "distilled") for end in ends}
    assert {path.name for path in (trained / "eval").glob("*.*")} == histories | evaluated
    assert [row["epoch"] for row in table(trained / "eval" / "distilled.history.csv")] == ["1"]
    assert len(table(trained / "eval" / "distilled.cases.csv")) == 2


class Window(torch.nn.Module):
    """Finds what simulated CT shows by its intensity alone: organ above one HU, bone above another left out."""

    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        inside = ((x > self.low) & (x < self.high)).float() * 20 * self.scale
        return torch.cat([10 * torch.ones_like(x), inside, torch.zeros_like(x)], dim=1)


def test_masks_of_an_evaluation_are_what_it_scores(organ, cases, tmp_path):
    """On the grid of each label, with the Dice of the table."""
    network = Window(0.0, 0.8)
    (tmp_path / "models").mkdir()
    torch.save(network.state_dict(), tmp_path / "models" / "model.pt")
    common = {**settings(organ, cases, tmp_path), "network_def": network, "masks_dir": str(tmp_path / "masks")}
    del common["network_def#filters"]
    BUNDLES[organ].run("train.json", "evaluate.json", **common)
    rows = table(tmp_path / "eval" / "distilled.cases.csv")
    parser = BUNDLES[organ].unstarted("train.json", **settings(organ, cases, tmp_path))
    test = parser.get_parsed_content("datalist")["test"]
    assert len(files(tmp_path / "masks")) == len(rows) == len(test) == 2
    for row, item in zip(rows, sorted(test, key=lambda item: item["label"]), strict=True):
        assert item["label"].endswith(row["case"])
        name = Path(item["image"]).relative_to(cases).as_posix().replace(".nii.gz", "_seg.nii.gz")
        found, label = nibabel.load(tmp_path / "masks" / name), nibabel.load(item["label"])
        np.testing.assert_allclose(found.affine, label.affine, atol=1e-4)
        pred, truth = (np.asarray(image.dataobj) > 0 for image in (found, label))
        assert found.shape == label.shape
        dice = 2 * (pred & truth).sum() / (pred.sum() + truth.sum())
        assert 0 < dice < 1
        assert float(row[f"Dice_{organ}"]) == pytest.approx(dice, abs=1e-6)


def ct(folder, name, shape, affine, block):
    """Air, and a block of 100 HU."""
    volume = np.full(shape, -1000, np.int16)
    volume[block] = 100
    nibabel.save(nibabel.Nifti1Image(volume, affine), folder / name)
    return volume == 100


AFFINES = {
    "isotropic": np.diag([4.0, 4.0, 4.0, 1.0]),
    "anisotropic": np.diag([3.0, 3.0, 6.0, 1.0]),
    "flipped": np.array([[-4.0, 0, 0, 50], [0, -4.0, 0, 30], [0, 0, 4.0, -20], [0, 0, 0, 1]]),
    "axes swapped": np.array([[0, 0, 4.0, 10], [0, -4.0, 0, 0], [-4.0, 0, 0, 7], [0, 0, 0, 1]]),
    "oblique": np.array([[3.9, 0.4, 0, 1], [-0.4, 3.9, 0, 2], [0, 0, 4.0, 3], [0, 0, 0, 1]]),
}


def inference(organ, tmp_path, network, **more):
    (tmp_path / "models").mkdir(exist_ok=True)
    torch.save(network.state_dict(), tmp_path / "models" / "model.pt")
    common = {
        "bundle_root": str(BUNDLES[organ].folder),
        "ckpt_dir": str(tmp_path / "models"),
        "output_dir": str(tmp_path / "out"),
        "dataset_dir": str(tmp_path / "ct"),
        "device": "cpu",
        "network_def": network,
        "spacing": [4.0, 4.0, 4.0],
        "patch_size": [16, 16, 16],
    }
    return BUNDLES[organ].run("inference.json", kind="infer", **{**common, **more})


@pytest.mark.parametrize("name", AFFINES)
def test_inference_lies_on_the_grid_of_its_image(organ, tmp_path, name):
    """A network that answers with the intensity gives back the block, wherever the axes point."""
    (tmp_path / "ct").mkdir()
    truth = ct(tmp_path / "ct", "case.nii.gz", (22, 26, 20), AFFINES[name], np.s_[4:15, 6:20, 3:12])
    inference(organ, tmp_path, Window(0.0, 0.8))
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == "case_seg.nii.gz"
    found = nibabel.load(path)
    np.testing.assert_allclose(found.affine, AFFINES[name], atol=1e-4)
    assert found.get_data_dtype() == np.uint8
    values = np.asarray(found.dataobj)
    assert values.shape == truth.shape
    dice = 2 * ((values == 1) & truth).sum() / ((values == 1).sum() + truth.sum())
    assert dice > (0.999 if name not in ("anisotropic", "oblique") else 0.8)


def test_borders_are_exact_or_nearest(organ, tmp_path):
    """With smaller voxels than the network's: the mean of its answers there, or the label of the nearest."""
    (tmp_path / "ct").mkdir()
    affine = np.diag([1.7, 1.7, 2.9, 1.0])
    ct(tmp_path / "ct", "case.nii.gz", (40, 44, 26), affine, np.s_[7:30, 11:35, 5:20])
    grid = make_grid((40, 44, 26), affine, "RAS", [4.0] * 3)
    stored = np.asarray(nibabel.load(tmp_path / "ct" / "case.nii.gz").dataobj)
    seen = torch.from_numpy(np.ascontiguousarray(grid.from_stored(stored)))
    low, high = {"kidney": (-200, 300), "liver": (-40, 160)}[organ]
    answer = Window(0.0, 0.8)(((seen - low) / (high - low) * 2 - 1).clamp(-1, 1)[None, None])[0].detach().numpy()
    masks = {}
    for exact in (True, False):
        inference(
            organ, tmp_path, Window(0.0, 0.8), exact_borders=exact, overlap=0.0, output_dir=str(tmp_path / str(exact))
        )
        masks[exact] = np.asarray(nibabel.load(tmp_path / str(exact) / "case_seg.nii.gz").dataobj)
    expected = {exact: np.zeros(stored.shape, np.uint8) for exact in masks}
    box, labels = [slice(0, size) for size in grid.shape], answer.argmax(axis=0).astype(np.uint8)
    sharp_labels(answer, labels, grid, box, lambda values: values.argmax(axis=0).astype(np.uint8), expected[True])
    nearest_labels(labels, grid, box, expected[False])
    for exact, mask in masks.items():
        assert (mask == expected[exact]).mean() >= 0.999
    assert (masks[True] != masks[False]).mean() > 0.001


def test_inference_of_a_volume_smaller_than_the_patch(organ, tmp_path):
    (tmp_path / "ct").mkdir()
    truth = ct(tmp_path / "ct", "small.nii.gz", (9, 10, 6), AFFINES["isotropic"], np.s_[2:7, 3:8, 1:5])
    inference(organ, tmp_path, Window(0.0, 0.8), patch_size=[32, 32, 32])
    values = np.asarray(nibabel.load(tmp_path / "out" / "small_seg.nii.gz").dataobj)
    assert np.array_equal(values == 1, truth)


class AllAir(torch.nn.Module):
    """Answers 1 everywhere if it sees nothing but air."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        air = (x == -1).all().float().expand_as(x) * self.scale
        return torch.cat([0.5 * torch.ones_like(x), air, torch.zeros_like(x)], dim=1)


def test_volumes_smaller_than_the_patch_are_padded_with_air(organ, tmp_path):
    """0 would be tissue of 50 or 60 HU, which training never shows around a volume."""
    (tmp_path / "ct").mkdir()
    ct(tmp_path / "ct", "air.nii.gz", (9, 10, 6), AFFINES["isotropic"], np.s_[:0])
    inference(organ, tmp_path, AllAir(), patch_size=[32, 32, 32])
    assert (np.asarray(nibabel.load(tmp_path / "out" / "air_seg.nii.gz").dataobj) == 1).all()
    for name in ("train.json", "slices.json", "inference.json", "slices_inference.json"):
        text = (BUNDLES[organ].configs / name).read_text(encoding="utf-8")
        assert text.count('"cval": "@pad_value"') == text.count("Inferer") - text.count("SimpleInferer"), name


@pytest.mark.parametrize("name", ["example_ct_sm.nii.gz", "dicom"])
def test_inference_on_real_ct_lies_on_the_voxels_of_its_file(organ, tmp_path, name):
    """What a network answers by intensity alone is the threshold of the file, as another library reads it."""
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("set MONAI_KD_DATA to the folder that holds ct_small")
    source = Path(os.environ["MONAI_KD_DATA"]) / "ct_small" / name
    flow = inference(
        organ, tmp_path, Window(0.0, 0.8), dataset_dir=str(source), spacing=[-1.0, -1.0, -1.0], patch_size=[64, 64, 32]
    )
    (path,) = (tmp_path / "out").iterdir()
    read = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(source)) if source.is_dir() else str(source)
    image, found = sitk.ReadImage(read), sitk.ReadImage(str(path))
    assert found.GetSize() == image.GetSize()
    # The label may be stored with axes the other way round; resampling by physical position undoes that.
    found = sitk.GetArrayFromImage(sitk.Resample(found, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    low, width = (flow.parser.get_parsed_content(key) for key in ("hu_min", "hu_max"))
    window = (sitk.GetArrayFromImage(image) - low) / (width - low) * 2 - 1
    expected = (window > 0) & (window < 0.8)
    assert expected.any()
    assert ((found == 1) == expected).mean() > 0.999  # HU on the edge of the window may fall to either side


def test_inference_without_volumes_or_weights_says_so(organ, tmp_path):
    common = {"bundle_root": str(BUNDLES[organ].folder), "ckpt_dir": str(tmp_path), "device": "cpu", **SMALL}
    (tmp_path / "empty").mkdir()
    common["dataset_dir"] = str(tmp_path / "empty")
    message = BUNDLES[organ].message_of("inference.json", kind="infer", **common)
    assert f"no checkpoint at '{tmp_path}/model.pt'" in message
    torch.save(plain_student().state_dict(), tmp_path / "model.pt")
    message = BUNDLES[organ].message_of("inference.json", kind="infer", **common)
    assert str(tmp_path / "empty") in message
    torch.save(plain_student((4, 8, 16)).state_dict(), tmp_path / "model.pt")
    message = BUNDLES[organ].message_of("inference.json", kind="infer", **common)
    assert "does not fit DynUNet" in message


def test_total_weight_zero_is_the_baseline_bit_for_bit(organ, cases, trained, tmp_path):
    common = settings(organ, cases, tmp_path, teacher_checkpoint=str(trained / "models" / "teacher.pt"))
    BUNDLES[organ].run("train.json", "baseline.json", **common)
    BUNDLES[organ].run("train.json", **common, pixel_weight=0.0, feature_weight=0.0)
    baseline, distilled = (weights(tmp_path / "models" / name) for name in ("baseline.pt", "model.pt"))
    assert differing(baseline, distilled) == []


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_train_a_student_of_their_own(organ, cases, trained, tmp_path, name):
    common = settings(organ, cases, tmp_path, teacher_checkpoint=str(trained / "models" / "teacher.pt"))
    flow = BUNDLES[organ].run("train.json", f"{name}.json", **common)
    baseline, student = (
        weights(trained / "models" / "baseline.pt"),
        weights(tmp_path / "models" / f"distilled_{name}.pt"),
    )
    assert baseline.keys() == student.keys()
    assert not all(torch.equal(value, student[key]) for key, value in baseline.items())
    terms = set(flow.parser.get_parsed_content("distiller").terms)
    assert terms <= set(flow.parser.get_parsed_content("train#trainer").state.output[0])


@pytest.mark.parametrize("name", [None, *(name for name in ABLATIONS if name != "soft_targets")])
def test_native_resolution_is_of_every_term(organ, cases, trained, tmp_path, name):
    common = settings(organ, cases, tmp_path, teacher_checkpoint=str(trained / "models" / "teacher.pt"))
    files = ["train.json"] if name is None else ["train.json", f"{name}.json"]
    for native in (False, True):
        parser = BUNDLES[organ].unstarted(*files, **common, native_resolution=native)
        terms = parser.get_parsed_content("terms")
        assert {term.loss.native_resolution for term in terms} == {native}
    default = BUNDLES[organ].unstarted(*files, **common).get_parsed_content("terms")
    assert not any(term.loss.native_resolution for term in default)


def test_slices_in_2d(organ, cases, trained, tmp_path):
    """The paper's networks, narrow, on axial slices of the same volumes; the 3D weights stay as they are."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "teacher.pt").write_bytes((trained / "models" / "teacher.pt").read_bytes())
    common = settings(organ, cases, tmp_path, batch_size=2)
    left = ("bundle_root", "ckpt_dir", "output_dir", "network_def#filters", "teacher_def#filters", "strides")
    common = {key: value for key, value in common.items() if key not in left}
    common |= {"bundle_root": str(tmp_path), "patch_size": [32, 32], "spacing": [-1.0, -1.0, -1.0]}
    common["teacher_def#channels"] = [4, 8, 8]
    student = {"network_def#channels": [4, 8, 8, 8]}
    BUNDLES[organ].run("train.json", "slices.json", "teacher.json", **common)
    BUNDLES[organ].run("train.json", "slices.json", **common, **student)
    BUNDLES[organ].run("train.json", "slices.json", "evaluate.json", **common, **student)
    assert set(load_evaluations(tmp_path / "eval" / "slices")) == {"distilled"}
    assert [path.name for path in models.glob("*.pt")] == ["teacher.pt"]
    assert (models / "teacher.pt").read_bytes() == (trained / "models" / "teacher.pt").read_bytes()
    keys = {"bundle_root": str(tmp_path), "device": "cpu", "patch_size": [32, 32], **student}
    image = str(next(path for path in Path(cases).rglob("*.nii.gz") if "segmentation" not in path.name))
    BUNDLES[organ].run("inference.json", "slices_inference.json", kind="infer", **keys, dataset_dir=image)
    assert list((tmp_path / "eval").glob("*_seg.nii.gz"))


def test_training_patches_hold_tumour_and_unlabelled_cases_none(organ, cases, tmp_path):
    common = settings(organ, cases, tmp_path, labelled_fraction=0.5, class_ratios=[0.001, 0.001, 1])
    parser = BUNDLES[organ].unstarted("train.json", **common)
    labelled, unlabelled = (parser.get_parsed_content(key) for key in ("train#labelled", "unlabelled#dataset"))
    assert len(labelled) == len(unlabelled) == 2
    for dataset, flag in ((labelled, True), (unlabelled, False)):
        for index in range(2):
            (patch,) = dataset[index]
            assert patch["image"].shape == patch["label"].shape == (1, 16, 16, 16)
            assert patch["has_label"] is flag
            assert -1.3 <= patch["image"].min() <= patch["image"].max() <= 1.3
            assert bool((patch["label"] == 2).any()) is flag


@pytest.mark.parametrize("size", [[16, 24, 16], [64, 64, 64]])
def test_patches_have_one_size(organ, cases, tmp_path, size):
    """Not turned where that would change it; padded where the volume is smaller."""
    parser = BUNDLES[organ].unstarted("train.json", **settings(organ, cases, tmp_path, patch_size=size, rotate_prob=1))
    dataset = parser.get_parsed_content("train#labelled")
    assert {patch["image"].shape for _ in range(3) for item in dataset for patch in item} == {(1, *size)}


def test_nothing_between_cache_and_crop_looks_at_whole_volumes(organ, cases, tmp_path):
    parser = BUNDLES[organ].unstarted("train.json", **settings(organ, cases, tmp_path))
    dataset = parser.get_parsed_content("train#dataset")
    first = next(one for one in dataset.transform.transforms if isinstance(one, RandomizableTrait))
    assert isinstance(first, RandCropByLabelClassesd)
    assert first.indices_key in dataset._cachecheck(dataset.data[0])


def test_regions_are_hierarchical(organ, cases, tmp_path):
    parser = BUNDLES[organ].unstarted("train.json", **settings(organ, cases, tmp_path))
    item = parser.get_parsed_content("validate#dataset")[0]
    item["pred"] = torch.nn.functional.one_hot(item["label"][0].as_tensor().long(), 3).permute(3, 0, 1, 2).float()
    item = parser.get_parsed_content("validate#postprocessing")(item)
    assert torch.equal(item["pred"].as_tensor().bool(), item["label"].as_tensor().bool())
    assert item["label"].shape[0] == 2
    assert (item["label"][0] >= item["label"][1]).all()


def test_bad_cases_are_named_together(organ, tmp_path):
    root = make_ct_cases(
        tmp_path / "data", count=8, organ=organ, ids=some_cases(organ), size=(24, 24, 20), spacing=(10.0, 10.0, 10.0)
    )
    numbers = some_cases(organ)[:2]  # of the training part
    names = "case_{:05}/segmentation.nii.gz" if organ == "kidney" else "segmentation-{}.nii.gz"
    labels = [Path(root) / names.format(number) for number in numbers]
    other = nibabel.load(labels[0])
    nibabel.save(nibabel.Nifti1Image(np.asarray(other.dataobj)[:-2], other.affine), labels[0])
    wrong = nibabel.load(labels[1])
    nibabel.save(nibabel.Nifti1Image(np.asarray(wrong.dataobj) + 7, wrong.affine), labels[1])
    message = BUNDLES[organ].message_of("train.json", "baseline.json", **settings(organ, root, tmp_path))
    assert str(labels[0]) in message
    assert str(labels[1]) in message
    assert not (tmp_path / "models").exists()


def test_demo_settings_fit_training_and_evaluation(organ, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = {"bundle_root": str(BUNDLES[organ].folder), "device": "cpu", "epochs": 1, "epoch_length": 1}
    ids = {"cases": 8, "case_ids": some_cases(organ), "overlap": 0.0, "teacher_def#filters": TEACHER_FILTERS}
    BUNDLES[organ].run("train.json", "demo.json", "teacher.json", **short, **ids)
    BUNDLES[organ].run("train.json", "demo.json", **short, **ids)
    BUNDLES[organ].run("train.json", "demo.json", "evaluate.json", **short, **ids)
    image = next(path for path in Path("demo_output").rglob("*.nii.gz") if "segmentation" not in path.name)
    keys = {"bundle_root": short["bundle_root"], "device": "cpu", "dataset_dir": str(image), "output_dir": "masks"}
    BUNDLES[organ].run("inference.json", "demo.json", kind="infer", **keys)
    assert list(Path("masks").glob("*_seg.nii.gz"))
    (found,) = (tmp_path / "demo_output").rglob("distilled.evaluation.json")
    assert found.is_file()


def test_inference_names_monai_only(organ):
    """A stock MONAI loads the student; the one class of ours in the chain works round a fault of MONAI's."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLES[organ].configs / "inference.json"))
    targets = [line for line in json.dumps(parser.config).split('"') if line.startswith("monai_kd.")]
    chain = json.dumps(
        [
            parser[key]
            for key in parser.config
            if key.endswith(("_def", "_transform", "_transforms", "inferer", "processing"))
        ]
    )
    first = {"errors.readable_errors", "overrides.check_overrides", "data.refuse_links"}
    ours = {"data.SafeSpacingd", "data.volume_datalist", "checkpoints.load_weights"} | first
    assert set(targets) == {f"monai_kd.{name}" for name in ours}
    assert [name for name in chain.split('"') if name.startswith("monai_kd.")] == ["monai_kd.data.SafeSpacingd"]
    assert "imports" not in parser.config


def test_deep_supervision_trains_every_head(organ, cases, tmp_path):
    flow = BUNDLES[organ].workflow("train.json", "baseline.json", **settings(organ, cases, tmp_path))
    flow.initialize()
    network = flow.parser.get_parsed_content("network")
    heads = {name: value.clone() for name, value in network.state_dict().items() if "deep_supervision_heads" in name}
    flow.run()
    assert heads
    for name, value in heads.items():
        assert not torch.equal(network.state_dict()[name], value), name


def test_cysts_of_kits23_are_a_class_of_their_own(tmp_path):
    """With the keys that the README gives."""
    ids = json.loads((Path(monai_kd.__file__).parent / "data" / "splits" / "kits23.json").read_text(encoding="utf-8"))
    ids = ids["training"][:2] + ids["validation"][:1] + ids["test"][:1]
    size = {"size": (40, 40, 32), "spacing": (8.0, 8.0, 8.0)}
    root = make_ct_cases(tmp_path / "data", count=4, organ="kidney", ids=ids, **size)
    for path in Path(root).rglob("segmentation*"):
        label = nibabel.load(path)
        values = np.asarray(label.dataobj).astype(np.uint8)
        values[tuple(np.argwhere(values == 1)[0])] = 3
        nibabel.save(nibabel.Nifti1Image(values, label.affine), path)
    regions = {"kidney": [1, 2, 3], "tumour": [2]}
    common = settings("kidney", root, tmp_path, edition="kits23", label_values=[0, 1, 2, 3], regions=regions)
    BUNDLES["kidney"].run("train.json", "baseline.json", **common)
    BUNDLES["kidney"].run("train.json", "baseline.json", "evaluate.json", **common)
    more = {"num_classes": 4, "checkpoint": "baseline.pt", "dataset_dir": str(next(Path(root).rglob("imaging*")))}
    keys = ("bundle_root", "ckpt_dir", "output_dir", "device", *SMALL)
    BUNDLES["kidney"].run("inference.json", kind="infer", **{**{key: common[key] for key in keys}, **more})
    assert (tmp_path / "eval" / "imaging_seg.nii.gz").is_file()
