"""The student for CPUs of the two HLFD bundles: trained, scored, exported and served in the place of their own."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.networks.nets import DynUNet

import monai_kd
from monai_kd.data import make_ct_cases
from monai_kd.distiller import Distiller
from monai_kd.networks import SpaceToDepthDynUNet
from monai_kd.report import load_evaluations

from .running import Bundle, table, weights

ORGANS = ["kidney", "liver"]
BUNDLES = {organ: Bundle(f"hlfd_{organ}_tumor_segmentation") for organ in ORGANS}
SPLITS = Path(monai_kd.__file__).parent / "data" / "splits"
FILTERS, TEACHER_FILTERS = [4, 6, 8], [4, 8, 8]
STUDENT = ("train.json", "demo.json", "fast_student.json")
SERVED = ("inference.json", "demo.json", "fast_student.json")
GRID = {"spacing": [8.0, 8.0, 8.0], "patch_size": [16, 16, 16]}
RUNTIMES = {"openvino": "openvino", "onnx": "onnxruntime", "torchscript": None}
METHODS = ["attention", "baseline", "dkd", "hifd", "ifd", "skd", "soft_targets"]


def split_ids(organ):
    if organ == "kidney":
        return json.loads((SPLITS / "kits19.json").read_text(encoding="utf-8"))
    return json.loads((SPLITS / "lits.json").read_text(encoding="utf-8"))["folds"][0]


def plain_student():
    return SpaceToDepthDynUNet(
        3, 1, 3, [3] * 3, [1, 2, 2], [2, 2], FILTERS, deep_supervision=True, deep_supr_num=1
    ).eval()


@pytest.fixture(scope="module", params=ORGANS)
def organ(request):
    return request.param


@pytest.fixture(scope="module")
def cases(organ, tmp_path_factory):
    split, root = split_ids(organ), tmp_path_factory.mktemp("data") / organ
    ids = split["training"][:2] + split["validation"][:1] + split["test"][:1]
    return make_ct_cases(root, count=4, organ=organ, ids=ids, size=(40, 40, 32), spacing=(8.0, 8.0, 8.0))


def settings(organ, cases, folder, filters="network_def#filters"):
    short = {"epochs": 1, "epoch_length": 1, "labelled_fraction": 1.0, filters: FILTERS}
    return {**BUNDLES[organ].places(cases, folder), **short, "teacher_def#filters": TEACHER_FILTERS, **GRID}


@pytest.fixture(scope="module")
def trained(organ, cases, tmp_path_factory):
    """A teacher, and the student distilled from it, in files of their own."""
    folder = tmp_path_factory.mktemp("trained")
    BUNDLES[organ].run(*STUDENT, "teacher.json", **settings(organ, cases, folder, "teacher_def#filters"))
    flow = BUNDLES[organ].run(*STUDENT, **settings(organ, cases, folder))
    terms = set(flow.parser.get_parsed_content("distiller").terms)
    assert terms
    assert terms <= set(flow.parser.get_parsed_content("train#trainer").state.output[0])
    return folder


def served(organ, trained, **more):
    return {
        "bundle_root": str(BUNDLES[organ].folder),
        "ckpt_dir": str(trained / "models"),
        "device": "cpu",
        "network_def#filters": FILTERS,
        **GRID,
        **more,
    }


def test_teacher_and_student_are_what_they_are_called(trained):
    assert sorted(path.name for path in (trained / "models").glob("*.pt")) == [
        "fast_student.pt",
        "fast_student_resume.pt",
        "teacher.pt",
        "teacher_resume.pt",
    ]
    plain_student().load_state_dict(weights(trained / "models" / "fast_student.pt"), strict=True)
    teacher = DynUNet(3, 1, 3, [3] * 3, [1, 2, 2], [2, 2], TEACHER_FILTERS, deep_supervision=True, deep_supr_num=1)
    teacher.load_state_dict(weights(trained / "models" / "teacher.pt"), strict=True)


def test_is_scored_beside_the_bundles_own_student(organ, cases, trained):
    BUNDLES[organ].run(*STUDENT, "evaluate.json", **settings(organ, cases, trained))
    (found,) = load_evaluations(trained / "eval").items()
    assert found[0] == "fast_student"
    assert found[1].cases == len(table(trained / "eval" / "fast_student.cases.csv")) == 1
    assert found[1].cost.parameters == sum(p.numel() for p in plain_student().parameters())


def test_exported_student_gives_the_masks_of_the_bundle(organ, cases, trained, tmp_path):
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    from monai_kd.export import export_bundle
    from monai_kd.runtime import load_exported, predict

    image = next(path for path in Path(cases).rglob("*.nii.gz") if "segmentation" not in path.name)
    BUNDLES[organ].run(
        *SERVED, kind="infer", **served(organ, trained, dataset_dir=str(image), output_dir=str(tmp_path / "masks"))
    )
    (expected,) = (np.asarray(nibabel.load(path).dataobj) for path in (tmp_path / "masks").glob("*_seg.nii.gz"))
    windows = np.random.default_rng(0).normal(size=(3, 1, 16, 16, 16)).astype(np.float32)
    network = plain_student()
    network.load_state_dict(weights(trained / "models" / "fast_student.pt"))
    with torch.no_grad():
        answer = network(torch.from_numpy(windows)).numpy()

    overrides = {**served(organ, trained), "dataset_dir": str(tmp_path / "no data")}
    configs = [BUNDLES[organ].configs / name for name in SERVED[1:]]
    for to, runtime in list(RUNTIMES.items())[: 3 if organ == "kidney" else 1]:
        done = export_bundle(BUNDLES[organ].folder, tmp_path / to, to, overrides=overrides, configs=configs)
        assert done.description["input"]["batch"] is None
        assert done.description["pipeline_refused"] is None
        if runtime is None:
            continue
        model = load_exported(tmp_path / to, runtime, num_threads=1)
        np.testing.assert_allclose(model(windows), answer, atol=1e-4 * np.abs(answer).max())
        assert predict(model, image, tmp_path / runtime).failed == {}
        (found,) = (np.asarray(nibabel.load(path).dataobj) for path in (tmp_path / runtime).glob("*_seg.nii.gz"))
        assert (found == expected).mean() > 0.999


def test_every_set_of_terms_finds_its_layers(organ, cases, tmp_path):
    without_teacher = {"teacher#checkpoint": None}
    for name in METHODS:
        parser = BUNDLES[organ].unstarted(
            *STUDENT, f"{name}.json", **settings(organ, cases, tmp_path), **without_teacher
        )
        assert isinstance(parser.get_parsed_content("network"), SpaceToDepthDynUNet)
        distiller = parser.get_parsed_content("distiller")
        assert distiller is None if name == "baseline" else isinstance(distiller, Distiller)


def test_takes_the_bundles_own_patches(organ, tmp_path):
    """At full size, trained and served as one network."""
    states = []
    for name in ("train.json", "inference.json"):
        parser = BUNDLES[organ].unstarted(name, "fast_student.json", **BUNDLES[organ].places(tmp_path, tmp_path))
        network, patch = (parser.get_parsed_content(key) for key in ("network_def", "patch_size"))
        assert sum(p.numel() for p in network.parameters()) == 2_460_232
        assert [size % by for size, by in zip(patch, network.divisor, strict=True)] == [0, 0, 0]
        states.append({key: value.shape for key, value in network.state_dict().items()})
    assert states[0] == states[1]
