"""The two HLFD bundles from end to end on generated anatomy, with tiny networks."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.networks.nets import DynUNet

import monai_kd
from monai_kd.data import make_ct_cases
from monai_kd.errors import user_message
from monai_kd.report import load_evaluations

BUNDLES = Path(monai_kd.__file__).parents[1] / "bundles"
ORGANS = ["kidney", "liver"]
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


def configs(organ):
    return BUNDLES / f"hlfd_{organ}_tumor_segmentation" / "configs"


@pytest.fixture(autouse=True)
def keep_the_hooks(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


@pytest.fixture(scope="module", params=ORGANS)
def organ(request):
    return request.param


def split_ids(organ):
    splits = Path(monai_kd.__file__).parent / "data" / "splits"
    if organ == "kidney":
        return json.loads((splits / "kits19.json").read_text())
    return json.loads((splits / "lits.json").read_text())["folds"][0]


def some_cases(organ):
    split = split_ids(organ)
    return split["training"][:4] + split["validation"][:2] + split["test"][:2]


@pytest.fixture(scope="module")
def cases(organ, tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / organ
    return make_ct_cases(root, count=8, organ=organ, ids=some_cases(organ), size=(40, 40, 32), spacing=(8.0, 8.0, 8.0))


def settings(organ, cases, folder, **more):
    return {
        "bundle_root": str(configs(organ).parent),
        "dataset_dir": str(cases),
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "eval"),
        "device": "cpu",
        "epochs": 1,
        "epoch_length": 2,
        "num_workers": 0,
        "learning_rate": 0.003,
        **SMALL,
        "teacher_def#filters": TEACHER_FILTERS,
        **more,
    }


def workflow(organ, *names, kind="train", **overrides):
    return ConfigWorkflow(
        config_file=[str(configs(organ) / name) for name in names],
        meta_file=str(configs(organ) / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        **overrides,
    )


def run(organ, *names, kind="train", **overrides):
    flow = workflow(organ, *names, kind=kind, **overrides)
    flow.initialize()
    flow.run()
    flow.finalize()
    return flow


def as_teacher(common):
    common = {**common, **AS_TEACHER}
    return {key: value for key, value in common.items() if key != "network_def#filters"}


@pytest.fixture(scope="module")
def trained(organ, cases, tmp_path_factory):
    """Teacher, baseline and distilled student, trained once."""
    folder = tmp_path_factory.mktemp("trained")
    common = settings(organ, cases, folder)
    hook, factory = sys.excepthook, logging.getLogRecordFactory()
    run(organ, "train.json", "teacher.json", **as_teacher(common))
    run(organ, "train.json", "baseline.json", **common)
    run(organ, "train.json", **common, labelled_fraction=0.25)
    sys.excepthook = hook
    logging.setLogRecordFactory(factory)
    return folder


def weights(path):
    return torch.load(path, weights_only=True)


def plain_student(filters=(4, 8, 8)):
    return DynUNet(3, 1, 3, [3] * 3, STRIDES, STRIDES[1:], filters=filters, deep_supervision=True, deep_supr_num=1)


def test_student_checkpoint_loads_into_a_plain_network(trained):
    network = plain_student()
    network.load_state_dict(weights(trained / "models" / "model.pt"), strict=True)
    assert all(type(value) is torch.Tensor for value in weights(trained / "models" / "model.pt").values())


def test_evaluation_writes_scores_cost_and_a_row_a_case(organ, cases, trained):
    common = settings(organ, cases, trained)
    run(organ, "train.json", "teacher.json", "evaluate.json", **as_teacher(common))
    run(organ, "train.json", "evaluate.json", **common)
    found = load_evaluations(trained / "eval")
    assert set(found) == {"teacher", "distilled"}
    assert found["distilled"].cases == 2
    assert found["distilled"].cost.parameters == sum(p.numel() for p in plain_student().parameters())
    assert {"meanDice", f"Dice_{organ}", "Dice_tumour"} <= set(found["distilled"].scores)
    rows = (trained / "eval" / "distilled.cases.csv").read_text().splitlines()
    assert len(rows[1:]) == 2


class Window(torch.nn.Module):
    """Finds what simulated CT shows by its intensity alone: organ above one HU, bone above another left out."""

    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        inside = ((x > self.low) & (x < self.high)).float() * 20 * self.scale
        return torch.cat([10 * torch.ones_like(x), inside, torch.zeros_like(x)], dim=1)


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
        "bundle_root": str(configs(organ).parent),
        "ckpt_dir": str(tmp_path / "models"),
        "output_dir": str(tmp_path / "out"),
        "dataset_dir": str(tmp_path / "ct"),
        "device": "cpu",
        "network_def": network,
        "spacing": [4.0, 4.0, 4.0],
        "patch_size": [16, 16, 16],
    }
    return run(organ, "inference.json", kind="infer", **{**common, **more})


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
        text = (configs(organ) / name).read_text()
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
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(source)) if source.is_dir() else str(source)
    image, found = sitk.ReadImage(files), sitk.ReadImage(str(path))
    assert found.GetSize() == image.GetSize()
    # The label may be stored with axes the other way round; resampling by physical position undoes that.
    found = sitk.GetArrayFromImage(sitk.Resample(found, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    low, width = (flow.parser.get_parsed_content(key) for key in ("hu_min", "hu_max"))
    window = (sitk.GetArrayFromImage(image) - low) / (width - low) * 2 - 1
    expected = (window > 0) & (window < 0.8)
    assert expected.any()
    assert ((found == 1) == expected).mean() > 0.999  # HU on the edge of the window may fall to either side


def test_inference_without_volumes_or_weights_says_so(organ, tmp_path):
    common = {"bundle_root": str(configs(organ).parent), "ckpt_dir": str(tmp_path), "device": "cpu", **SMALL}
    (tmp_path / "empty").mkdir()
    common["dataset_dir"] = str(tmp_path / "empty")
    message = message_of(organ, "inference.json", kind="infer", **common)
    assert f"no checkpoint at '{tmp_path}/model.pt'" in message
    torch.save(plain_student().state_dict(), tmp_path / "model.pt")
    message = message_of(organ, "inference.json", kind="infer", **common)
    assert str(tmp_path / "empty") in message
    torch.save(plain_student((4, 8, 16)).state_dict(), tmp_path / "model.pt")
    message = message_of(organ, "inference.json", kind="infer", **common)
    assert "does not fit DynUNet" in message


def test_total_weight_zero_is_the_baseline_bit_for_bit(organ, cases, trained, tmp_path):
    common = settings(organ, cases, tmp_path, teacher_checkpoint=str(trained / "models" / "teacher.pt"))
    run(organ, "train.json", "baseline.json", **common)
    run(organ, "train.json", **common, pixel_weight=0.0, feature_weight=0.0)
    baseline, distilled = (weights(tmp_path / "models" / name) for name in ("baseline.pt", "model.pt"))
    assert baseline.keys() == distilled.keys()
    assert all(torch.equal(value, distilled[name]) for name, value in baseline.items())


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_train_a_student_of_their_own(organ, cases, trained, tmp_path, name):
    common = settings(organ, cases, tmp_path, teacher_checkpoint=str(trained / "models" / "teacher.pt"))
    flow = run(organ, "train.json", f"{name}.json", **common)
    baseline, student = (
        weights(trained / "models" / "baseline.pt"),
        weights(tmp_path / "models" / f"distilled_{name}.pt"),
    )
    assert baseline.keys() == student.keys()
    assert not all(torch.equal(value, student[key]) for key, value in baseline.items())
    terms = set(flow.parser.get_parsed_content("distiller").terms)
    assert terms <= set(flow.parser.get_parsed_content("train#trainer").state.output[0])


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
    run(organ, "train.json", "slices.json", "teacher.json", **common)
    run(organ, "train.json", "slices.json", **common, **student)
    run(organ, "train.json", "slices.json", "evaluate.json", **common, **student)
    assert set(load_evaluations(tmp_path / "eval" / "slices")) == {"distilled"}
    assert [path.name for path in models.glob("*.pt")] == ["teacher.pt"]
    assert (models / "teacher.pt").read_bytes() == (trained / "models" / "teacher.pt").read_bytes()
    keys = {"bundle_root": str(tmp_path), "device": "cpu", "patch_size": [32, 32], **student}
    image = str(next(path for path in Path(cases).rglob("*.nii.gz") if "segmentation" not in path.name))
    run(organ, "inference.json", "slices_inference.json", kind="infer", **keys, dataset_dir=image)
    assert list((tmp_path / "eval").glob("*_seg.nii.gz"))


def test_training_patches_hold_tumour_and_unlabelled_cases_none(organ, cases, tmp_path):
    common = settings(organ, cases, tmp_path, labelled_fraction=0.5, class_ratios=[0.001, 0.001, 1])
    flow = workflow(organ, "train.json", **common)
    flow.parser["initialize"] = []
    flow.initialize()
    labelled = flow.parser.get_parsed_content("train#labelled")
    unlabelled = flow.parser.get_parsed_content("unlabelled#dataset")
    assert len(labelled) == len(unlabelled) == 2
    for dataset, flag in ((labelled, True), (unlabelled, False)):
        for index in range(2):
            (patch,) = dataset[index]
            assert patch["image"].shape == patch["label"].shape == (1, 16, 16, 16)
            assert patch["has_label"] is flag
            assert -1.3 <= patch["image"].min() <= patch["image"].max() <= 1.3
            assert bool((patch["label"] == 2).any()) is flag


def test_regions_are_hierarchical(organ, cases, tmp_path):
    flow = workflow(organ, "train.json", **settings(organ, cases, tmp_path))
    flow.parser["initialize"] = []
    flow.initialize()
    item = flow.parser.get_parsed_content("validate#dataset")[0]
    item["pred"] = torch.nn.functional.one_hot(item["label"][0].as_tensor().long(), 3).permute(3, 0, 1, 2).float()
    item = flow.parser.get_parsed_content("validate#postprocessing")(item)
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
    message = message_of(organ, "train.json", "baseline.json", **settings(organ, root, tmp_path))
    assert str(labels[0]) in message
    assert str(labels[1]) in message
    assert not (tmp_path / "models").exists()


def message_of(organ, *names, kind="train", **overrides):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        run(organ, *names, kind=kind, **overrides)
    return user_message(caught.value)


def test_demo_settings_fit_training_and_evaluation(organ, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = {"bundle_root": str(configs(organ).parent), "device": "cpu", "epochs": 1, "epoch_length": 1}
    ids = {"cases": 8, "case_ids": some_cases(organ), "overlap": 0.0, "teacher_def#filters": TEACHER_FILTERS}
    run(organ, "train.json", "demo.json", "teacher.json", **short, **ids)
    run(organ, "train.json", "demo.json", **short, **ids)
    run(organ, "train.json", "demo.json", "evaluate.json", **short, **ids)
    image = next(path for path in Path("demo_output").rglob("*.nii.gz") if "segmentation" not in path.name)
    keys = {"bundle_root": short["bundle_root"], "device": "cpu", "dataset_dir": str(image), "output_dir": "masks"}
    run(organ, "inference.json", "demo.json", kind="infer", **keys)
    assert list(Path("masks").glob("*_seg.nii.gz"))
    (found,) = (tmp_path / "demo_output").rglob("distilled.evaluation.json")
    assert found.is_file()


@pytest.mark.slow
def test_two_processes_train_as_one(organ, cases, tmp_path):
    """Equal global batch, no augmentation: student and adapters agree to 1e-5."""
    override = {
        "teacher#checkpoint": None,
        "train#random_transforms": [
            {"_target_": "CenterSpatialCropd", "keys": ["image", "label"], "roi_size": "@patch_size"},
            {"_target_": "EnsureTyped", "keys": ["image", "label"], "track_meta": False},
            {"_target_": "SelectItemsd", "keys": ["image", "label", "has_label"]},
        ],
        # Soft Dice over the batch is no mean over its items, so it differs between one process and two.
        "loss_function": {
            "_target_": "monai_kd.losses.StackedDeepSupervisionLoss",
            "loss": {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True},
        },
        "optimizer#_target_": "torch.optim.SGD",
        "learning_rate": 0.1,
        "run": [
            "$@train#trainer.run()",
            "$torch.save(@distiller_def.state_dict(), @ckpt_dir + '/distiller.pt') "
            "if os.environ.get('RANK', '0') == '0' else None",
        ],
    }
    (tmp_path / "override.json").write_text(json.dumps(override))
    results = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        common = settings(organ, cases, folder, batch_size=4 // processes, epoch_length=2, epochs=2)
        common.pop("learning_rate")
        files = ["train.json", "multi_gpu_train.json"][:processes]
        paths = [str(configs(organ) / name) for name in files] + [str(tmp_path / "override.json")]
        if processes == 1:
            launcher = [sys.executable, "-W", "ignore"]
        else:
            common.pop("device")
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command(organ, launcher, paths, common)
        results.append([weights(folder / "models" / name) for name in ("model.pt", "distiller.pt")])
    assert results[0][1]
    for one, two in zip(*results):
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-5, msg=name)


def command(organ, launcher, paths, overrides):
    words = [*launcher, "-m", "monai.bundle", "run", "--config_file", str(paths), "--logging_file", "False"]
    words += ["--meta_file", str(configs(organ) / "metadata.json")]
    for key, value in overrides.items():
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_inference_names_monai_only(organ):
    """A stock MONAI loads the student; the one class of ours in the chain works round a fault of MONAI's."""
    parser = ConfigParser()
    parser.read_config(str(configs(organ) / "inference.json"))
    targets = [line for line in json.dumps(parser.config).split('"') if line.startswith("monai_kd.")]
    chain = json.dumps(
        [parser[key] for key in ("network_def", "load_transforms", "intensity_transforms", "inferer", "postprocessing")]
    )
    ours = {"data.SafeSpacingd", "data.volume_datalist", "errors.readable_errors", "checkpoints.load_weights"}
    assert set(targets) == {f"monai_kd.{name}" for name in ours}
    assert [name for name in chain.split('"') if name.startswith("monai_kd.")] == ["monai_kd.data.SafeSpacingd"]
    assert "imports" not in parser.config


def test_deep_supervision_trains_every_head(organ, cases, tmp_path):
    flow = workflow(organ, "train.json", "baseline.json", **settings(organ, cases, tmp_path))
    flow.initialize()
    network = flow.parser.get_parsed_content("network")
    heads = {name: value.clone() for name, value in network.state_dict().items() if "deep_supervision_heads" in name}
    flow.run()
    assert heads
    for name, value in heads.items():
        assert not torch.equal(network.state_dict()[name], value), name


def test_cysts_of_kits23_are_a_class_of_their_own(tmp_path):
    """With the keys that the README gives."""
    ids = json.loads((Path(monai_kd.__file__).parent / "data" / "splits" / "kits23.json").read_text())
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
    run("kidney", "train.json", "baseline.json", **common)
    run("kidney", "train.json", "baseline.json", "evaluate.json", **common)
    more = {"num_classes": 4, "checkpoint": "baseline.pt", "dataset_dir": str(next(Path(root).rglob("imaging*")))}
    keys = ("bundle_root", "ckpt_dir", "output_dir", "device", *SMALL)
    run("kidney", "inference.json", kind="infer", **{**{key: common[key] for key in keys}, **more})
    assert (tmp_path / "eval" / "imaging_seg.nii.gz").is_file()
