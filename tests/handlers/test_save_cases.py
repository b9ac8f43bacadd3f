"""The table of cases against an own loop over cases and classes."""

import csv
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import ConfusionMatrix, MeanDice, SurfaceDistance, from_engine
from torch import nn

from monai_kd.handlers import SaveCases
from monai_kd.report.case_tables import read_cases

NAMES = ("background", "liver", "tumour")
SIZES = {2: (12, 12), 3: (8, 8, 8)}


def one_hot(classes):
    return nn.functional.one_hot(classes, 3).movedim(-1, 0).float()


def items(dims, count=5):
    """Label maps and predictions of a few cases; the first has no tumour, neither in truth nor in the prediction."""
    generator = torch.Generator().manual_seed(dims)
    found = []
    for case in range(count):
        truth, guess = (torch.randint(0, 3 if case else 2, SIZES[dims], generator=generator) for _ in range(2))
        meta = {"filename_or_obj": f"/set/labels/{'dbeca'[case % 5]}.nii.gz"}
        found.append({"image": one_hot(guess), "label": MetaTensor(one_hot(truth), meta=meta)})
    return found


def dice(background=True, **more):
    return MeanDice(include_background=background, output_transform=from_engine(["pred", "label"]), **more)


def evaluate(data, save, metrics, batch_size=2, **more):
    engine = SupervisedEvaluator(
        torch.device("cpu"),
        DataLoader(Dataset(data), batch_size=batch_size),
        nn.Identity(),
        key_val_metric=dict(list(metrics.items())[:1]),
        additional_metrics=dict(list(metrics.items())[1:]),
        val_handlers=[save],
        **more,
    )
    engine.run()
    return engine


def own(data):
    """Dice by case and class; NaN where the truth has none of the class."""
    table = {}
    for item in data:
        name = Path(item["label"].meta["filename_or_obj"]).name
        truth, guess = item["label"].numpy() > 0.5, item["image"].numpy() > 0.5
        table[f"labels/{name}"] = [
            2 * float((t & g).sum()) / float(t.sum() + g.sum()) if t.any() else math.nan for t, g in zip(truth, guess)
        ]
    return table


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    return head, {row[0]: [float(cell) if cell else math.nan for cell in row[1:]] for row in rows}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("background", [True, False])
def test_every_case_and_class_as_the_own_loop_has_it(tmp_path, dims, background):
    data, path = items(dims), tmp_path / "new" / "distilled.cases.csv"
    save = SaveCases(path, NAMES)
    for _ in range(2):  # the second run starts anew
        engine = evaluate(data, save, {"val_mean_dice": dice(background)})
    head, rows = read(path)
    names = NAMES if background else NAMES[1:]
    assert head == ["case", "val_mean_dice", *(f"Dice_{name}" for name in names)]
    expected = {name: values[-len(names) :] for name, values in sorted(own(data).items())}
    assert list(rows) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(rows[name], [np.nanmean(values), *values], rtol=1e-6)
    assert math.isnan(expected["labels/d.nii.gz"][-1])
    for index, name in enumerate(names):
        known = [values[index] for values in expected.values() if not math.isnan(values[index])]
        assert engine.state.metrics[f"Dice_{name}"] == pytest.approx(sum(known) / len(known), rel=1e-6)
    assert engine.state.metrics["val_mean_dice"] == pytest.approx(np.mean([v[0] for v in rows.values()]), rel=1e-6)


def test_the_report_reads_it(tmp_path):
    data = items(2)
    evaluate(data, SaveCases(tmp_path / "student.cases.csv", NAMES), {"val_mean_dice": dice(False)})
    table = read_cases(tmp_path, "student")
    assert table.regions == NAMES[1:]
    np.testing.assert_allclose(table.of_score("val_mean_dice"), table.of_score("meanDice"), rtol=1e-6)


def test_further_metrics_have_a_column_and_infinity_an_empty_cell(tmp_path):
    data = items(3)
    data[1]["image"] = one_hot(torch.zeros(SIZES[3], dtype=torch.int64))  # an infinite distance to what is not found
    distance = SurfaceDistance(output_transform=from_engine(["pred", "label"]), reduction="none")
    # A matrix a case and class is no number, and two of the same name are no two classes.
    matrix = ConfusionMatrix(metric_name="recall", output_transform=from_engine(["pred", "label"]))
    metrics = {"val_distance": distance, "val_recall": matrix, "other": dice(False), "my_dice": dice(False)}
    evaluate(data, SaveCases(tmp_path / "cases.csv", NAMES, dice="other"), metrics)
    head, rows = read(tmp_path / "cases.csv")
    assert head == ["case", "val_distance", "other", "my_dice", "Dice_liver", "Dice_tumour"]
    assert math.isnan(rows["labels/b.nii.gz"][0])
    assert sum(math.isfinite(row[0]) for row in rows.values()) >= 3


def test_without_decollation_and_without_names(tmp_path):
    batch = {key: torch.stack([item[key].as_subclass(torch.Tensor) for item in items(2, 3)]) for key in items(2)[0]}
    save = SaveCases(tmp_path / "cases.csv", NAMES)
    SupervisedEvaluator(
        torch.device("cpu"), [batch], nn.Identity(), key_val_metric={"dice": dice()}, val_handlers=[save],
        decollate=False,
    ).run()  # fmt: skip
    assert list(read(tmp_path / "cases.csv")[1]) == [f"unnamed_0_0000{i}" for i in range(3)]


def test_a_case_that_comes_twice_is_numbered(tmp_path):
    data = items(2, 10)
    evaluate(data, SaveCases(tmp_path / "s.cases.csv", NAMES), {"dice": dice()}, batch_size=3)
    names = read_cases(tmp_path, "s").names
    assert names[:4] == ("labels/a.nii.gz", "labels/a.nii.gz#2", "labels/b.nii.gz", "labels/b.nii.gz#2")


def test_classes_that_do_not_fit_are_left_out_and_told(tmp_path, caplog):
    evaluate(items(2), SaveCases(tmp_path / "cases.csv", ["a", "b", "c", "d", "e"]), {"dice": dice()})
    assert read(tmp_path / "cases.csv")[0] == ["case", "dice"]
    assert "'dice' has 3 classes, class_names are a, b, c, d, e" in caplog.text


def test_without_details_no_file_is_written(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        evaluate(items(2), SaveCases(tmp_path / "cases.csv", NAMES), {"dice": dice(save_details=False)})
    assert not list(tmp_path.iterdir())
    assert "no metric keeps scores of single cases" in caplog.text


@pytest.mark.parametrize("names", [[], "ab", ["a", "a"]])
def test_class_names_are_different(names):
    with pytest.raises(ValueError, match="one or more different names"):
        SaveCases("cases.csv", names)


def _save_a_share(rank, folder):
    data = items(2)
    share = [data[index] for index in [[0, 2, 4], [1, 3, 0]][rank]]  # the first case fills the second share
    engine = evaluate(share, SaveCases(f"{folder}/cases.csv", NAMES), {"dice": dice()})
    scores = [value for name, value in engine.state.metrics.items() if name.startswith("Dice_")]
    assert scores == pytest.approx(np.nanmean(list(own(data).values()), axis=0).tolist(), rel=1e-6)


def test_processes_gather_their_cases(tmp_path, in_processes):
    in_processes(_save_a_share)
    _, rows = read(tmp_path / "cases.csv")
    expected = own(items(2))
    assert list(rows) == sorted(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(rows[name][1:], values, rtol=1e-6)
