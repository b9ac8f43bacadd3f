"""The numbers of a report, computed a second time from the stored tables by other means."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from monai_kd.report.cost import SideBySide, save_costs
from monai_kd.report.page import write_report
from monai_kd.report.study import load_study
from monai_kd.report.summary import summarise


def summary_of(runs, resamples=200):
    found = summarise(load_study(runs.root), resamples=resamples)
    json.dumps(found, allow_nan=False)
    return found


def edit(path, **scores):
    """Change or add scores of an evaluation; ``...`` takes one away."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["scores"] = {name: value for name, value in (raw["scores"] | scores).items() if value is not ...}
    path.write_text(json.dumps(raw))


def stored(root, network, kind="cases"):
    """The stored tables of a network: names, and numbers of shape (seeds, cases, columns), NaN where empty."""
    tables = []
    for path in sorted(root.glob(f"{network}/seed_*/{network}.{kind}.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            tables.append(list(csv.reader(file))[1:])
    first = 1 if kind == "cases" else 3
    numbers = [[[float(cell) if cell else math.nan for cell in row[first:]] for row in rows] for rows in tables]
    return [row[0] for row in tables[0]], np.array(numbers)


def test_scores_over_seeds(segmentation):
    runs, _ = segmentation()
    found = summary_of(runs)
    for network in ("teacher", "baseline", "distilled"):
        _, dice = stored(runs.root, network)
        for name, seeds in (("meanDice", dice.mean(axis=(1, 2))), ("Dice_tumour", dice[..., 1].mean(axis=1))):
            score = found["networks"][network]["scores"][name]
            interval = stats.ttest_1samp(seeds, 0).confidence_interval()
            assert (score["mean"], score["deviation"]) == pytest.approx((seeds.mean(), seeds.std(ddof=1)))
            assert (score["low"], score["high"]) == pytest.approx((interval.low, interval.high))
            assert list(score["values"].values()) == pytest.approx(seeds)
    assert found["per_class"]["kinds"]["Dice"] == {"kidney": "Dice_kidney", "tumour": "Dice_tumour"}


def test_comparison_of_segmentations(segmentation):
    runs, _ = segmentation()
    found = summary_of(runs)
    names, baseline = stored(runs.root, "baseline")
    _, distilled = stored(runs.root, "distilled")
    _, teacher = stored(runs.root, "teacher")
    difference = distilled.mean(axis=(0, 2)) - baseline.mean(axis=(0, 2))
    one = found["comparisons"]["distilled"]
    welch = stats.ttest_ind(distilled.mean((1, 2)), baseline.mean((1, 2)), equal_var=False).confidence_interval()
    assert list(one["seeds"].values()) == pytest.approx([difference.mean(), welch.low, welch.high])
    assert one["cases"]["p"] == pytest.approx(stats.wilcoxon(difference, zero_method="pratt").pvalue)
    assert one["cases"]["mean"] == pytest.approx(difference.mean())
    assert (one["cases"]["better"], one["cases"]["worse"]) == ((difference > 0).sum(), (difference < 0).sum())
    share = (distilled.mean() - baseline.mean()) / (teacher.mean() - baseline.mean())
    assert one["share"]["share"] == pytest.approx(share)
    assert one["share"]["low"] < share < one["share"]["high"]
    order = np.argsort(difference)
    assert one["gained"] == [names[index] for index in order[::-1] if difference[index] > 0][:5]
    assert one["lost"] == [names[index] for index in order if difference[index] < 0][:5]
    assert [row["difference"] for row in one["by_case"]] == pytest.approx(difference)
    assert found["verdicts"][0]["sentence"].startswith("Distillation helped: meanDice is 0.0")


def test_comparison_of_classifications(classification):
    runs, labels, probabilities = classification()
    found = summary_of(runs)

    def right(network):
        return np.mean([probabilities[network, seed].argmax(1) == labels for seed in (0, 1)], axis=0)

    difference = right("distilled") - right("baseline")
    one = found["comparisons"]["distilled"]
    assert one["cases"]["mean"] == pytest.approx(np.mean([difference[labels == k].mean() for k in range(3)]))
    assert (one["cases"]["test"], one["cases"]["direction"]) == ("sign flips", 1)
    share_of_class = difference / np.bincount(labels)[labels]
    flipped = np.abs((np.random.default_rng(1).choice([-1, 1], (20_000, len(labels))) * share_of_class).sum(axis=1))
    assert one["cases"]["p"] == pytest.approx(np.mean(flipped >= abs(share_of_class.sum()) - 1e-12), abs=0.01)
    balanced = {
        network: np.mean([metrics.balanced_accuracy_score(labels, probabilities[network, s].argmax(1)) for s in (0, 1)])
        for network in ("teacher", "baseline", "distilled")
    }
    share = (balanced["distilled"] - balanced["baseline"]) / (balanced["teacher"] - balanced["baseline"])
    assert one["share"]["share"] == pytest.approx(share)
    truth = [
        np.mean([probabilities[network, seed][np.arange(90), labels] for seed in (0, 1)], axis=0)
        for network in ("baseline", "distilled")
    ]
    assert [row["difference"] for row in one["by_case"]] == pytest.approx(truth[1] - truth[0])
    for network in balanced:
        both = [probabilities[network, seed] for seed in (0, 1)]
        confusion = sum(metrics.confusion_matrix(labels, p.argmax(1)) for p in both)
        assert found["classification"]["confusion"][network] == confusion.tolist()
        for index, name in enumerate(found["classification"]["class_names"]):
            roc = found["classification"]["roc"][network][name]
            assert roc["auc"] == pytest.approx(
                np.mean([metrics.roc_auc_score(labels == index, p[:, index]) for p in both])
            )
            area = np.trapezoid(roc["true_positive_rate"], roc["false_positive_rate"])
            assert area == pytest.approx(roc["auc"], abs=0.02)
        assert found["networks"][network]["scores"]["calibration_error"]["mean"] == pytest.approx(
            np.mean([calibration(labels, p) for p in both])
        )
        assert sum(part["images"] for part in found["classification"]["reliability"][network]) == 180


def calibration(labels, probabilities):
    """Naively, image by image and bin by bin."""
    error = 0.0
    for number in range(10):
        inside = [
            (p.max(), p.argmax() == label)
            for label, p in zip(labels, probabilities)
            if number / 10 < p.max() <= (number + 1) / 10
        ]
        if inside:
            confidence, right = np.mean(inside, axis=0)
            error += len(inside) / len(labels) * abs(confidence - right)
    return error


@pytest.mark.parametrize("score", ["accuracy", "macro_auc"])
def test_other_scores_of_a_classification(classification, score):
    runs, labels, probabilities = classification(score=score)
    if score == "macro_auc":
        found = summary_of(runs)
        assert (found["comparisons"]["distilled"]["cases"], found["comparisons"]["distilled"]["share"]) == (None, None)
        assert any("macro_auc is not a score of single cases" in note for note in found["notes"])
        assert "over 2 seeds" in found["verdicts"][0]["sentence"]
    else:
        found = summary_of(runs)["comparisons"]["distilled"]["cases"]["mean"]
        means = {
            n: np.mean([probabilities[n, s].argmax(1) == labels for s in (0, 1)]) for n in ("baseline", "distilled")
        }
        assert found == pytest.approx(means["distilled"] - means["baseline"])


def test_one_seed_has_neither_spread_nor_interval(segmentation):
    runs, _ = segmentation(seeds=(0,))
    found = summary_of(runs)
    score = found["networks"]["baseline"]["scores"]["meanDice"]
    assert (score["deviation"], score["low"], score["high"]) == (None, None, None)
    assert "One seed says nothing of another training" in found["verdicts"][0]["sentence"]


def test_a_baseline_equal_to_the_teacher_leaves_no_gap(segmentation):
    runs, _ = segmentation()
    for seed in (0, 1):
        for kind in ("cases.csv", "evaluation.json"):
            path = runs.root / f"baseline/seed_{seed}/baseline.{kind}"
            (runs.root / f"teacher/seed_{seed}/teacher.{kind}").write_text(
                path.read_text(encoding="utf-8").replace('"baseline"', '"teacher"')
            )
    (runs.root / "baseline/seed_2/run.json").unlink()
    found = summary_of(runs)
    assert found["comparisons"]["distilled"]["share"]["share"] is None
    assert found["comparisons"]["distilled"]["share"]["gap"] == pytest.approx(0)
    assert found["verdicts"][0]["sentence"].endswith("here (+0.000): no gap to close.")
    assert found["notes"][0] == "Not finished and not counted: baseline/seed_2."


@pytest.mark.parametrize(
    ("level", "start", "end"),
    [
        (0.60, "Distillation hurt: meanDice is 0.", "-0.0"),
        (0.70, "No difference was shown: meanDice differs by", ""),
        (0.95, "Distillation helped", "It came out above its teacher"),
    ],
)
def test_worse_equal_and_better_than_the_teacher(segmentation, level, start, end):
    runs, _ = segmentation(levels={"teacher": 0.85, "baseline": 0.70, "distilled": level})
    sentence = summary_of(runs)["verdicts"][0]["sentence"]
    assert sentence.startswith(start)
    assert end in sentence


def test_a_missing_case_is_left_out_of_every_score(segmentation):
    runs, dice = segmentation()
    path = runs.root / "distilled/seed_1/distilled.cases.csv"
    path.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:-1]) + "\n")
    found = summary_of(runs)
    difference = np.mean([dice["distilled", s] - dice["baseline", s] for s in (0, 1, 2)], axis=0)[:23].mean(axis=1)
    test = found["comparisons"]["distilled"]["cases"]
    assert (test["cases"], test["p"]) == (23, pytest.approx(stats.wilcoxon(difference, zero_method="pratt").pvalue))
    assert found["cases"] == 23
    assert found["left_out"] == {"labelsTr/case_023.nii.gz": ["distilled/seed_1"]}
    assert any("case_023.nii.gz (not in distilled/seed_1)" in note for note in found["notes"])
    for network in ("baseline", "distilled"):
        values = [dice[network, seed][:23].mean() for seed in (0, 1, 2)]
        assert list(found["networks"][network]["scores"]["meanDice"]["values"].values()) == pytest.approx(values)


def test_a_missing_picture_is_left_out_of_every_score(classification):
    runs, labels, probabilities = classification()
    path = runs.root / "baseline/seed_0/baseline.predictions.csv"
    path.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:-1]) + "\n")
    found = summary_of(runs)
    wanted = [metrics.balanced_accuracy_score(labels[:89], probabilities["teacher", s][:89].argmax(1)) for s in (0, 1)]
    assert list(found["networks"]["teacher"]["scores"]["balanced_accuracy"]["values"].values()) == pytest.approx(wanted)


def test_an_absent_class_counts_in_no_mean(classification):
    runs, labels, probabilities = classification(absent=("keratosis",))
    found = summary_of(runs)
    assert found["absent"] == ["keratosis"]
    assert any(note.startswith("No test case has: keratosis") for note in found["notes"])
    assert found["networks"]["teacher"]["scores"]["recall_keratosis"]["mean"] is None
    assert "keratosis" not in found["classification"]["roc"]["teacher"]
    difference = np.mean(
        [
            (probabilities["distilled", s].argmax(1) == labels) * 1.0
            - (probabilities["baseline", s].argmax(1) == labels)
            for s in (0, 1)
        ],
        axis=0,
    )
    wanted = np.mean([difference[labels == k].mean() for k in (0, 1)])
    assert found["comparisons"]["distilled"]["cases"]["mean"] == pytest.approx(wanted)


def test_an_absent_region_counts_in_no_mean(segmentation):
    runs, dice = segmentation()
    for name, seed in dice:
        folder = runs.root / name / f"seed_{seed}"
        path = folder / f"{name}.cases.csv"
        head, *rows = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join([head, *(row.rsplit(",", 1)[0] + "," for row in rows)]) + "\n")
        edit(folder / f"{name}.evaluation.json", Dice_tumour=None, meanDice=float(dice[name, seed][:, 0].mean()))
    found = summary_of(runs)
    assert found["absent"] == ["tumour"]
    assert found["networks"]["teacher"]["scores"]["Dice_tumour"]["mean"] is None
    difference = np.mean([dice["distilled", s] - dice["baseline", s] for s in (0, 1, 2)], axis=0)[:, 0]
    test = found["comparisons"]["distilled"]["cases"]
    assert (test["mean"], test["p"]) == pytest.approx(
        (difference.mean(), stats.wilcoxon(difference, zero_method="pratt").pvalue)
    )


def test_an_absent_region_and_a_missing_case_together(segmentation):
    """The mean over regions, computed again, is of those that any case has."""
    runs, dice = segmentation()
    for name, seed in dice:
        folder = runs.root / name / f"seed_{seed}"
        path = folder / f"{name}.cases.csv"
        head, *rows = path.read_text(encoding="utf-8").splitlines()
        rows = [row.rsplit(",", 1)[0] + "," for row in rows][: 23 if (name, seed) == ("distilled", 1) else 24]
        path.write_text("\n".join([head, *rows]) + "\n")
        edit(folder / f"{name}.evaluation.json", Dice_tumour=None, meanDice=float(dice[name, seed][:, 0].mean()))
    found = summary_of(runs)
    assert (found["absent"], found["cases"]) == (["tumour"], 23)
    values = [dice["baseline", seed][:23, 0].mean() for seed in (0, 1, 2)]
    assert list(found["networks"]["baseline"]["scores"]["meanDice"]["values"].values()) == pytest.approx(values)


def test_pictures_without_a_true_class_are_left_out_and_told(classification):
    runs, labels, probabilities = classification()
    for path in runs.root.rglob("*.predictions.csv"):
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        rows[1][2] = rows[2][2] = ""
        path.write_text("".join(",".join(row) + "\n" for row in rows))
    found = summary_of(runs)
    assert found["cases"] == 88
    assert found["comparisons"]["distilled"]["cases"]["cases"] == 88
    assert "2 test pictures are without a true class: left out of the statistics over cases." in found["notes"]
    wanted = sum(
        metrics.confusion_matrix(labels[2:], probabilities["teacher", seed][2:].argmax(1), labels=range(3))
        for seed in (0, 1)
    )
    assert found["classification"]["confusion"]["teacher"] == wanted.tolist()


def test_seeds_with_the_same_scores_count_as_one(segmentation):
    """A bundle that ignores its seed trains the same network again and again."""
    runs, _ = segmentation()
    for name in ("baseline", "distilled"):
        for seed in (1, 2):
            shutil.rmtree(runs.root / name / f"seed_{seed}")
            shutil.copytree(runs.root / name / "seed_0", runs.root / name / f"seed_{seed}")
    found = summary_of(runs)
    sentence = found["verdicts"][0]["sentence"]
    assert "seeds" not in sentence
    assert "One seed says nothing of another training" in sentence
    assert found["networks"]["distilled"]["scores"]["meanDice"]["low"] is None
    note = "have the same meanDice, so they count as one seed; does the bundle use its seed?"
    assert found["notes"] == [f"All 3 seeds of '{name}' {note}" for name in ("baseline", "distilled")]


def test_ties_of_cases_are_counted_and_ranked_as_pratt_does(segmentation):
    runs, dice = segmentation(seeds=(0,))
    path = runs.root / "distilled/seed_0/distilled.cases.csv"
    same = (runs.root / "baseline/seed_0/baseline.cases.csv").read_text(encoding="utf-8").splitlines()[:9]
    path.write_text("\n".join([*same, *path.read_text(encoding="utf-8").splitlines()[9:]]) + "\n")
    difference = (dice["distilled", 0] - dice["baseline", 0]).mean(axis=1)
    difference[:8] = 0
    test = summary_of(runs)["comparisons"]["distilled"]["cases"]
    assert (test["equal"], test["better"]) == (8, (difference > 0).sum())
    assert test["p"] == pytest.approx(stats.wilcoxon(difference, zero_method="pratt").pvalue)
    assert test["p"] != pytest.approx(stats.wilcoxon(difference, zero_method="wilcox").pvalue)


def test_cases_without_a_region_are_told(segmentation):
    """A case's meanDice is then of the region it has, and the mean over cases no longer that over regions."""
    runs, _ = segmentation()
    for path in runs.root.rglob("*.cases.csv"):
        head, first, *rest = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join([head, first.rsplit(",", 1)[0] + ",", *rest]) + "\n")
    found = summary_of(runs)
    assert any("is not its value over the whole test set" in note for note in found["notes"])
    _, dice = stored(runs.root, "baseline")
    row = found["comparisons"]["distilled"]["by_case"][0]
    assert row["scores"]["baseline"] == pytest.approx(np.nanmean(dice[:, 0]))


def test_further_teachers_are_shown_and_not_counted(segmentation, tmp_path):
    levels = {"teacher": 0.85, "baseline": 0.70, "distilled": 0.78}
    alone = summary_of(segmentation(levels=levels)[0])
    runs, dice = segmentation(root=tmp_path / "several", levels=levels | {"second": 0.92}, auxiliary=["second"])
    found = summary_of(runs)
    assert list(found["networks"]) == ["teacher", "second", "baseline", "distilled"]
    assert found["networks"]["second"]["role"] == "auxiliary"
    assert found["networks"]["second"]["scores"]["meanDice"]["mean"] == pytest.approx(
        np.mean([dice["second", seed].mean() for seed in (0, 1, 2)])
    )
    assert found["verdicts"] == alone["verdicts"]
    for part in ("seeds", "cases", "share"):
        assert found["comparisons"]["distilled"][part] == alone["comparisons"]["distilled"][part]


def test_scores_of_other_bundles(segmentation):
    """MONAI's MeanDice under a key of its own: a column of that name a case, and no Dice of regions in all."""
    runs, dice = segmentation()
    for name, seed in dice:
        folder = runs.root / name / f"seed_{seed}"
        mean = dice[name, seed].mean(axis=1)
        edit(
            folder / f"{name}.evaluation.json",
            val_mean_dice=mean.mean(),
            meanDice=...,
            Dice_kidney=...,
            Dice_tumour=...,
        )
        path = folder / f"{name}.cases.csv"
        head, *rows = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join([f"{head},val_mean_dice", *(f"{r},{m}" for r, m in zip(rows, mean))]) + "\n")
        path = folder / f"{name}.history.csv"
        path.write_text(path.read_text(encoding="utf-8").replace("meanDice", "val_mean_dice"))
    runs.edit(lambda study: study.update(score="val_mean_dice"))
    found = summary_of(runs)
    difference = np.mean([dice["distilled", s] - dice["baseline", s] for s in (0, 1, 2)], axis=0).mean(axis=1)
    one = found["comparisons"]["distilled"]
    assert one["cases"]["p"] == pytest.approx(stats.wilcoxon(difference, zero_method="pratt").pvalue)
    assert one["seeds"]["mean"] == pytest.approx(difference.mean())
    assert one["share"]["share"] == pytest.approx(
        difference.mean()
        / (
            np.mean([dice["teacher", s].mean() for s in (0, 1)])
            - np.mean([dice["baseline", s].mean() for s in (0, 1, 2)])
        )
    )
    assert found["verdicts"][0]["sentence"].startswith("Distillation helped: val_mean_dice is 0.0")
    assert found["notes"] == []
    assert found["per_class"]["kinds"]["Dice"] == {"kidney": "Dice_kidney", "tumour": "Dice_tumour"}
    assert found["networks"]["baseline"]["scores"]["Dice_tumour"]["values"]["1"] == pytest.approx(
        dice["baseline", 1][:, 1].mean()
    )
    assert found["curves"] == ["loss", "soft_target", "val_mean_dice"]


@pytest.mark.parametrize("lacking", ["baseline", "distilled", "teacher"])
def test_a_score_that_some_runs_lack_is_shown_of_the_others(segmentation, lacking):
    runs, dice = segmentation()
    for name, seed in dice:
        path = runs.root / name / f"seed_{seed}" / f"{name}.evaluation.json"
        edit(path, meanIoU=... if name == lacking else 0.5 + seed / 10)
    path = runs.root / "distilled/seed_0/distilled.evaluation.json"
    edit(path, wFmeasure=0.7)
    found = summary_of(runs)
    assert {"meanIoU", "wFmeasure"} <= set(found["scores"])
    assert {name for name, one in found["networks"].items() if "meanIoU" not in one["scores"]} == {lacking}
    assert found["networks"]["distilled"]["scores"]["wFmeasure"]["values"] == {"0": 0.7, "1": None, "2": None}
    assert found["networks"]["distilled"]["scores"]["wFmeasure"]["seeds"] == 1
    assert "wFmeasure" in write_report(runs.root).read_text(encoding="utf-8")


def test_weights_are_those_that_the_run_names(segmentation):
    """A mean teacher's lie in the folder of the student that it follows."""
    runs, _ = segmentation(seeds=(0,))
    (runs.root / "baseline/seed_0/models/mean.pt").write_bytes(bytes(77))
    path = runs.root / "distilled/seed_0/run.json"
    done = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(done | {"checkpoint": "baseline/seed_0/models/mean.pt"}))
    assert summary_of(runs)["networks"]["distilled"]["cost"]["file_bytes"] == 77
    del done["checkpoint"]
    path.write_text(json.dumps(done))
    assert summary_of(runs)["networks"]["distilled"]["cost"]["file_bytes"] == 4000


def test_costs_are_those_measured_side_by_side_where_they_are_stored(segmentation):
    runs, _ = segmentation()
    found = summary_of(runs)
    assert found["networks"]["teacher"]["cost"]["milliseconds"] == 8.0
    assert "peak_bytes" not in found["networks"]["teacher"]["cost"]
    assert found["cost_measured"] == "measured after each evaluation, at different times"
    costs = {n: SideBySide(4000 if n == "teacher" else 1000, 2.0, 7.5, 7.0, 9.0, 10**6) for n in found["networks"]}
    save_costs(runs.root, costs, "cpu", rounds=5)
    found = summary_of(runs)
    assert found["networks"]["teacher"]["cost"]["peak_bytes"] == 10**6
    assert found["networks"]["distilled"]["cost"]["file_bytes"] == 4000
    assert "median of 5 passes in turns" in found["cost_measured"]
    assert found["verdicts"][0]["cost"].startswith("The student needs 25 % of the teacher's parameters, 100 %")


def test_curves_are_losses_first_and_no_scores_of_single_classes(segmentation):
    runs, _ = segmentation()
    path = runs.root / "distilled/seed_0/distilled.history.csv"
    path.write_text(
        path.read_text(encoding="utf-8")
        .replace("epoch,loss,", "epoch,loss,", 1)
        .replace("soft_target", "Dice_tumour", 1)
    )
    found = summary_of(runs)
    assert found["curves"] == ["loss", "soft_target", "meanDice"]
    assert found["histories"]["distilled"]["0"]["Dice_tumour"][0] > 0
