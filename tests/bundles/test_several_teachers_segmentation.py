"""The folds of one network as teachers, in the kidney bundle: tiny networks on generated anatomy."""

import csv
import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.networks.nets import DynUNet
from monai.transforms import Invertd

import monai_kd
from monai_kd.data import make_ct_cases
from monai_kd.report import load_evaluations

from .running import Bundle, differing, weights

SPLIT = json.loads((Path(monai_kd.__file__).parent / "data" / "splits" / "kits19.json").read_text(encoding="utf-8"))
LABELLED, TEST = SPLIT["training"][:3] + SPLIT["validation"][:1], SPLIT["test"][:2]
FOLDS = 2
STRIDES = [1, 2, 2]
TEACHER, STUDENT = [4, 8, 8], [4, 4, 8]
TEACHER_FILES, STUDENT_FILES = ("train.json", "teacher.json", "fold_teacher.json"), ("train.json", "five_folds.json")
ENSEMBLE_FILES = ("train.json", "evaluate.json", "ensemble.json")
PARTS = ("train", "validate")


class TwoFolds(Bundle):
    def workflow(self, *names, **overrides):
        """Of two folds; ``fold_teacher.json`` takes the teacher as the network."""
        if "fold_teacher.json" in names:
            overrides.pop("network_def#filters")
        flow = super().workflow(*names, **overrides)
        if "folds" in flow.parser.config:
            flow.parser["folds"] = overrides.get("folds", FOLDS)
        return flow


BUNDLE = TwoFolds("hlfd_kidney_tumor_segmentation")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    size = {"size": (40, 40, 32), "spacing": (8.0, 8.0, 8.0)}
    ids = [*LABELLED, *TEST]
    return make_ct_cases(tmp_path_factory.mktemp("data") / "ct", count=len(ids), organ="kidney", ids=ids, **size)


def settings(cases, folder, **more):
    return {
        **BUNDLE.places(cases, folder),
        "epochs": 1,
        "epoch_length": 3,
        "learning_rate": 0.01,
        "strides": STRIDES,
        "deep_supervision_heads": 1,
        "spacing": [8.0, 8.0, 8.0],
        "patch_size": [16, 16, 16],
        "network_def#filters": STUDENT,
        "teacher_def#filters": TEACHER,
        **more,
    }


def network(filters):
    return DynUNet(3, 1, 3, [3] * 3, STRIDES, STRIDES[1:], filters=filters, deep_supervision=True, deep_supr_num=1)


def checkpoint(folder, fold):
    return folder / "models" / f"teacher_fold{fold}.pt"


def numbers(items):
    return [int(Path(item["image"]).parent.name.removeprefix("case_")) for item in items]


@pytest.fixture(scope="module")
def trained(cases, tmp_path_factory):
    """The teachers of both folds, trained once."""
    folder = tmp_path_factory.mktemp("trained")
    for fold in range(FOLDS):
        BUNDLE.run(*TEACHER_FILES, **settings(cases, folder), fold=fold)
    return folder


@pytest.fixture(scope="module")
def distilled(cases, trained):
    """The run that distilled a student from both, and the teachers' files before it."""
    before = [checkpoint(trained, fold).read_bytes() for fold in range(FOLDS)]
    return BUNDLE.run(*STUDENT_FILES, **settings(cases, trained), labelled_fraction=0.5), before


def test_fold_teachers_validate_on_parts_of_their_own(cases, tmp_path):
    validation = []
    for fold in range(FOLDS):
        flow = BUNDLE.workflow(*TEACHER_FILES, **settings(cases, tmp_path), fold=fold)
        train, validate = (numbers(flow.parser.get_parsed_content(f"{part}#dataset#data")) for part in PARTS)
        assert sorted(train + validate) == sorted(LABELLED)
        validation += validate
    assert sorted(validation) == sorted(LABELLED)


def test_folds_are_of_whatever_data_list_is_given(cases, tmp_path):
    """As in an override for another data set."""
    items = [{"image": f"{name}.nii.gz", "label": f"{name}_seg.nii.gz"} for name in "abcdef"]
    given = {"training": [*items[:3], {"image": "x.nii.gz"}], "validation": items[3:4], "test": items[4:]}
    for names, test in ((TEACHER_FILES, None), ((*TEACHER_FILES, "evaluate.json"), items[4:])):
        flow = BUNDLE.workflow(*names, **settings(cases, tmp_path), datalist=given, fold=1)
        found = {part: flow.parser.get_parsed_content(f"{part}#dataset#data") for part in PARTS}
        assert {"image": "x.nii.gz"} in found["train"]
        assert len(found["train"]) == 3
        assert found["validate"] == test if test else len(found["validate"]) == 2


def test_a_fold_teacher_is_evaluated_on_the_test_part(cases, trained):
    BUNDLE.run(*TEACHER_FILES, "evaluate.json", **settings(cases, trained), fold=1)
    assert load_evaluations(trained / "eval")["teacher_fold1"].cases == len(TEST)
    with (trained / "eval" / "teacher_fold1.cases.csv").open() as file:
        assert {f"case_{number:05}" in str(row) for row, number in zip(csv.DictReader(file), TEST)} == {True}


def test_teachers_stay_as_they_are(trained, distilled):
    flow, before = distilled
    teachers = flow.parser.get_parsed_content("distiller").teachers
    assert list(teachers) == ["fold0", "fold1"]
    for fold, teacher in enumerate(teachers.values()):
        assert checkpoint(trained, fold).read_bytes() == before[fold]
        assert differing(teacher.network.state_dict(), weights(checkpoint(trained, fold))) == []
    assert differing(*(teacher.network.state_dict() for teacher in teachers.values())) != []


def test_the_students_checkpoint_loads_into_a_plain_network(trained, distilled):
    network(STUDENT).load_state_dict(weights(trained / "models" / "distilled_five_folds.pt"), strict=True)


def test_every_teacher_counts(cases, trained, distilled, tmp_path):
    """The same run with the first teacher alone ends elsewhere."""
    flow, _ = distilled
    terms = ["mean_soft_target", "teacher_dice_fold0", "teacher_dice_fold1"]
    assert flow.parser.get_parsed_content("distiller").weights(1) == dict(zip(terms, (1.0, 0.5, 0.5)))
    assert set(terms) <= set(flow.parser.get_parsed_content("train#trainer").state.output[0])
    first = [str(checkpoint(trained, 0))]
    BUNDLE.run(*STUDENT_FILES, **settings(cases, tmp_path), labelled_fraction=0.5, teacher_checkpoints=first)
    students = [weights(folder / "models" / "distilled_five_folds.pt") for folder in (trained, tmp_path)]
    assert students[0].keys() == students[1].keys()
    assert differing(*students) != []


@pytest.mark.parametrize("names", [STUDENT_FILES, ENSEMBLE_FILES])
def test_a_fold_without_checkpoint_is_named(cases, trained, names):
    message = BUNDLE.message_of(*names, **settings(cases, trained), folds=3)
    assert f"no checkpoint at '{trained}/models/teacher_fold2.pt'" in message


def probabilities(names, evaluator, **overrides):
    """What is scored, item by item, and the workflow."""
    flow = BUNDLE.workflow(*names, **overrides)
    flow.initialize()
    found = []
    engine = flow.parser.get_parsed_content(evaluator)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: found.append(e.state.output[0]["pred"].as_tensor()))
    flow.run()
    return found, flow


def test_the_ensemble_is_the_mean_of_the_probabilities(cases, trained):
    found, flow = probabilities(ENSEMBLE_FILES, "ensemble#evaluator", **settings(cases, trained))
    dataset, inferer = (flow.parser.get_parsed_content(f"validate#{name}") for name in ("dataset", "inferer"))
    to_file = Invertd("mean", dataset.transform, orig_keys="image", nearest_interp=False)
    teachers = [network(TEACHER).eval() for _ in range(FOLDS)]
    for fold, teacher in enumerate(teachers):
        teacher.load_state_dict(weights(checkpoint(trained, fold)))
    for item, pred in zip(dataset, found, strict=True):
        with torch.no_grad():
            answers = [inferer(item["image"][None], teacher)[0].softmax(dim=0) for teacher in teachers]
        assert not torch.allclose(*answers, atol=1e-3)
        mean = to_file({"image": item["image"], "mean": sum(answers) / FOLDS})["mean"]
        torch.testing.assert_close(pred, mean.as_tensor(), atol=1e-5, rtol=1e-4)

    stored = load_evaluations(trained / "eval")["ensemble"]
    assert stored.cases == len(TEST)
    assert stored.cost.parameters == FOLDS * sum(p.numel() for p in teachers[0].parameters())
    assert len((trained / "eval" / "ensemble.cases.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(TEST)


def test_an_ensemble_of_equals_is_one_of_them(cases, trained, tmp_path):
    """Also where the network's grid is another than the file's."""
    common = settings(cases, trained, output_dir=str(tmp_path), spacing=[11.0, 9.0, 7.0])
    twice = [str(checkpoint(trained, 0))] * 2
    together, _ = probabilities(ENSEMBLE_FILES, "ensemble#evaluator", **common, teacher_checkpoints=twice)
    alone, _ = probabilities((*TEACHER_FILES, "evaluate.json"), "validate#evaluator", **common, fold=0)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
