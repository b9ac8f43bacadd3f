"""The folder of a comparison: what counts, what is missing, and what is refused."""

import json
import shutil

import numpy as np
import pytest

from monai_kd.report.study import load_study


def rewrite(path, change):
    """Change the lines of a file by a function."""
    path.write_text("\n".join(change(path.read_text(encoding="utf-8").splitlines())) + "\n")


def test_finished_runs_are_read_by_role(segmentation):
    runs, dice = segmentation()
    study = load_study(runs.root)
    assert [(n.name, n.role, [run.seed for run in n.runs]) for n in study.networks] == [
        ("teacher", "teacher", [0, 1]),
        ("baseline", "baseline", [0, 1, 2]),
        ("distilled", "student", [0, 1, 2]),
    ]
    assert (study.missing, study.left_out, study.absent) == ((), {}, ())
    run = study.baseline.runs[2]
    assert run.name == "baseline/seed_2"
    np.testing.assert_array_equal(run.cases.scores["Dice_tumour"], dice["baseline", 2][:, 1])
    np.testing.assert_allclose(run.cases.of_score("meanDice"), dice["baseline", 2].mean(axis=1))
    assert run.evaluation.scores["meanDice"] == pytest.approx(dice["baseline", 2].mean())
    assert run.history["epoch"] == list(range(1, 11))
    assert run.history["meanDice"][0] is None


def test_predictions_are_read_by_class(classification):
    runs, labels, probabilities = classification()
    table = load_study(runs.root).students[0].runs[1].cases
    np.testing.assert_array_equal(table.labels, labels)
    np.testing.assert_array_equal(table.probabilities, probabilities["distilled", 1])
    np.testing.assert_array_equal(table.of_score("accuracy"), probabilities["distilled", 1].argmax(1) == labels)
    assert table.of_score("macro_auc") is None


def test_unfinished_runs_are_named_and_not_read(segmentation):
    runs, _ = segmentation()
    (runs.root / "baseline/seed_1/run.json").unlink()
    shutil.rmtree(runs.root / "distilled/seed_0")
    (runs.root / "teacher/seed_1/run.json").unlink()
    study = load_study(runs.root)
    assert study.missing == ("teacher/seed_1", "baseline/seed_1", "distilled/seed_0")
    assert [len(network.runs) for network in study.networks] == [1, 2, 2]


@pytest.mark.parametrize("order", ["as written", "turned round"])
def test_cases_are_those_in_common_in_one_order(segmentation, order):
    runs, dice = segmentation()
    lines = slice(None) if order == "as written" else slice(None, None, -1)
    rewrite(runs.root / "distilled/seed_0/distilled.cases.csv", lambda text: [text[0], *text[2:][lines]])
    rewrite(runs.root / "teacher/seed_0/teacher.cases.csv", lambda text: [*text[:4], *text[5:]])
    study = load_study(runs.root)
    assert study.left_out == {
        "labelsTr/case_000.nii.gz": ("distilled/seed_0",),
        "labelsTr/case_003.nii.gz": ("teacher/seed_0",),
    }
    assert {run.cases.names for run in study.runs} == {
        tuple(f"labelsTr/case_{index:03}.nii.gz" for index in range(24) if index not in (0, 3))
    }
    kept = np.delete(np.arange(24), [0, 3])
    for run in study.runs:
        np.testing.assert_array_equal(run.cases.scores["Dice_kidney"], dice[run.network, run.seed][kept, 0])


def test_absent_classes_and_regions_are_named(segmentation, classification):
    runs, *_ = classification(absent=("keratosis",))
    assert load_study(runs.root).absent == ("keratosis",)
    shutil.rmtree(runs.root)
    runs, _ = segmentation()
    for path in runs.root.rglob("*.cases.csv"):
        rewrite(path, lambda text: [text[0], *(line.rsplit(",", 1)[0] + "," for line in text[1:])])
    assert load_study(runs.root).absent == ("tumour",)


def test_runs_without_tables_of_cases_are_compared_over_seeds_alone(segmentation):
    runs, _ = segmentation()
    (runs.root / "baseline/seed_0/baseline.cases.csv").unlink()
    assert {run.cases for run in load_study(runs.root).runs} == {None}


def test_a_folder_without_a_comparison_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no '.*study\.json'; give the folder that a comparison"):
        load_study(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        load_study(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no \['score', 'seeds', 'networks'\]"):
        load_study(tmp_path)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("*", "no finished run below .*; unfinished: teacher/seed_0, baseline/seed_0"),
        ("baseline", "no finished run of a baseline"),
        ("distilled", "no finished run of a student"),
    ],
)
def test_without_a_finished_run_there_is_nothing_to_compare(segmentation, gone, message):
    runs, _ = segmentation(seeds=(0,))
    for path in runs.root.glob(f"{gone}/seed_*/run.json"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load_study(runs.root)


def test_a_comparison_without_a_teacher_is_read(segmentation):
    runs, _ = segmentation()
    runs.edit(lambda study: study["networks"].pop("teacher"))
    assert load_study(runs.root).teacher is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda study: study["networks"]["teacher"].update(role="baseline"), "expected one baseline"),
        (
            lambda study: study["networks"]["teacher"].update(role="coach"),
            "roles are teacher, auxiliary, baseline, student",
        ),
        (lambda study: study["networks"]["distilled"].update(role="auxiliary"), "expected one baseline, students and"),
        (lambda study: study["networks"]["teacher"].update(seeds=1), "seeds of 'teacher' are a list of whole numbers"),
        *[
            (lambda study, score=score: study.update(score=score), f"'{score}' is an error, lower is better")
            for score in ("HD95_tumour_mm", "MAE", "val_mean_hausdorff_distance", "val_loss", "calibration_error")
        ],
    ],
)
def test_bad_plans_are_refused(segmentation, change, message):
    runs, _ = segmentation(seeds=(0,))
    runs.edit(change)
    with pytest.raises(ValueError, match=message):
        load_study(runs.root)


def test_a_run_without_the_score_is_named(segmentation):
    runs, _ = segmentation(seeds=(0,))
    runs.edit(lambda study: study.update(score="Dice_liver"))
    with pytest.raises(ValueError, match=r"^'teacher/seed_0' has no score 'Dice_liver'; it has Dice_kidney, Dice_tu"):
        load_study(runs.root)
    path = runs.root / "baseline/seed_0/baseline.evaluation.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["scores"]["meanDice"] = None
    path.write_text(json.dumps(raw))
    runs.edit(lambda study: study.update(score="meanDice"))
    with pytest.raises(ValueError, match="meanDice of 'baseline/seed_0' is not a number"):
        load_study(runs.root)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"baseline.seed_0' is finished, but has no \*\.evaluation\.json"):
        load_study(runs.root)


def test_further_teachers_stand_behind_the_teacher(segmentation):
    runs, _ = segmentation(
        levels={"baseline": 0.7, "second": 0.8, "distilled": 0.75, "teacher": 0.85}, auxiliary=["second"]
    )
    study = load_study(runs.root)
    assert [network.name for network in study.networks] == ["teacher", "second", "baseline", "distilled"]
    assert (study.teacher.name, [one.name for one in study.students]) == ("teacher", ["distilled"])
    runs.edit(lambda study: study["networks"].pop("teacher"))
    assert load_study(runs.root).teacher is None


def test_each_network_has_seeds_of_its_own(segmentation):
    runs, _ = segmentation()
    runs.edit(lambda study: study["networks"]["teacher"].update(seeds=[0, 1, 4]))
    assert load_study(runs.root).missing == ("teacher/seed_4",)
    runs.edit(lambda study: study["networks"]["teacher"].pop("seeds"))
    assert load_study(runs.root).missing == ("teacher/seed_2",)


def test_runs_of_other_regions_are_refused(segmentation):
    """Their meanDice would be of other regions."""
    runs, _ = segmentation(seeds=(0,))
    path = runs.root / "distilled/seed_0/distilled.cases.csv"
    rewrite(path, lambda lines: [line.rsplit(",", 1)[0] for line in lines])
    with pytest.raises(ValueError, match=r"'distilled/seed_0' has the regions \('kidney',\), 'teacher/seed_0' \('kidn"):
        load_study(runs.root)


def test_bad_tables_are_refused_by_name(segmentation, classification, tmp_path):
    runs, _ = segmentation(seeds=(0,))
    path = runs.root / "baseline/seed_0/baseline.cases.csv"
    text = path.read_text(encoding="utf-8")
    rewrite(path, lambda lines: [*lines, lines[-1]])
    with pytest.raises(ValueError, match=r"baseline\.cases\.csv' names the case 'labelsTr/case_023\.nii\.gz' twice"):
        load_study(runs.root)
    path.write_text(text.splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="has no cases"):
        load_study(runs.root)
    path.write_text(text.replace("case_001.nii.gz,", "case_001.nii.gz,high"))
    with pytest.raises(ValueError, match=r"baseline\.cases\.csv' cannot be read: could not convert"):
        load_study(runs.root)
    path.write_text(text.replace("labelsTr", "elsewhere"))
    with pytest.raises(ValueError, match="no test case in common"):
        load_study(runs.root)
    runs, *_ = classification(root=tmp_path / "classes")
    path = runs.root / "distilled/seed_0/distilled.predictions.csv"
    text = path.read_text(encoding="utf-8")
    first = text.splitlines()[1].split(",")
    other = "melanoma" if first[2] == "naevus" else "naevus"
    path.write_text(text.replace(",".join(first), ",".join([*first[:2], other, *first[3:]])))
    with pytest.raises(ValueError, match=r"true class of 'images/img_000\.png' in 'distilled/seed_0' is not that in"):
        load_study(runs.root)
    path.write_text(text.replace("keratosis", "wart"))
    with pytest.raises(ValueError, match="'distilled/seed_0' has the classes"):
        load_study(runs.root)
