from __future__ import annotations

import csv
import doctest
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from monai.transforms import ActivationsD, Compose, EnsureChannelFirstd, Invertd, LoadImage, LoadImaged, Spacingd
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter
from torch import nn

from monai_kd.metrics import RegionMetrics, region_scores, regions
from monai_kd.report import comparison_table, load_evaluations, save_evaluation

SPACING = (3.0, 0.8, 1.1)
HIPPOCAMPUS = {"anterior": [1], "posterior": [2]}


def blobs(seed: int, size: tuple[int, ...] = (14, 22, 18)) -> torch.Tensor:
    """A random organ (1) with tumours (2) in it, shape (1, D, H, W)."""
    field = gaussian_filter(np.random.default_rng(seed).standard_normal(size), 2)
    cut = np.quantile(field, [0.8, 0.95])
    return torch.from_numpy(np.digitize(field, cut))[None]


def shifted(label: torch.Tensor) -> torch.Tensor:
    """A wrong prediction: moved, and cut off at one side."""
    pred = label.roll((1, 2, -1), dims=(1, 2, 3))
    pred[:, :, -5:] = 0
    return pred


def probabilities(label: torch.Tensor, classes: int = 3) -> torch.Tensor:
    onehot = torch.nn.functional.one_hot(label[0].long(), classes).permute(3, 0, 1, 2).float()
    return (4 * onehot).softmax(0)


def case(values: torch.Tensor, name: str = "", spacing: tuple[float, ...] = SPACING) -> MetaTensor:
    meta = {"filename_or_obj": name} if name else {}
    return MetaTensor(values, affine=torch.diag(torch.tensor([*spacing, 1.0])), meta=meta)


def naive_dice(pred: np.ndarray, true: np.ndarray) -> float:
    common = sum(bool(p) and bool(t) for p, t in zip(pred.flat, true.flat))
    return 2 * common / (int(pred.sum()) + int(true.sum()))


def naive_distances(pred: np.ndarray, true: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float]:
    """By distance maps of the entire image."""
    edges = [mask & ~binary_erosion(mask) for mask in (pred, true)]
    to_true = distance_transform_edt(~edges[1], sampling=spacing)[edges[0]]
    to_pred = distance_transform_edt(~edges[0], sampling=spacing)[edges[1]]
    both = np.concatenate([to_true, to_pred])
    return both.mean(), max(np.quantile(to_true, 0.95), np.quantile(to_pred, 0.95))


def toy() -> tuple[torch.Tensor, torch.Tensor]:
    """Two slices with a tumour, found in the first and missed in the second, and one with a false positive."""
    true, pred = torch.zeros(2, 1, 3, 8, 8)
    true[0, 0, 2:6, 2:6] = 1
    true[0, 1, 3:6, 3:6] = 1
    pred[0, 0, 3:7, 2:6] = 1
    pred[0, 2, 0:2, 0:2] = 1
    return pred, true


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dense", [0.0, 1.0])
def test_every_score_against_its_definition(seed, dense, monkeypatch):
    monkeypatch.setattr(regions, "_DENSE", dense)
    label, pred = blobs(seed), shifted(blobs(seed))
    scores = region_scores(pred, label, SPACING)
    for name, above in {"organ": 0, "tumour": 1}.items():
        p, t = (pred > above).numpy()[0], (label > above).numpy()[0]
        assd, hd95 = naive_distances(p, t, SPACING)
        ml = 3.0 * 0.8 * 1.1 / 1000
        assert scores[f"Dice_{name}"] == pytest.approx(naive_dice(p, t))
        assert scores[f"ASSD_{name}_mm"] == pytest.approx(assd, rel=1e-5)
        assert scores[f"HD95_{name}_mm"] == pytest.approx(hd95, rel=1e-5)
        assert scores[f"volume_error_{name}_ml"] == pytest.approx(p.sum() * ml - t.sum() * ml, abs=1e-9)
        percent = 100 * (p.sum() / t.sum() - 1)
        assert scores[f"volume_error_{name}_percent"] == pytest.approx(percent, abs=1e-9)
        assert scores[f"true_voxels_{name}"] == t.sum()


def test_distances_of_monai():
    label, pred = blobs(3) > 0, shifted(blobs(3)) > 0
    scores = region_scores(pred, label, SPACING, {"all": [1]})
    assert scores["ASSD_all_mm"] == pytest.approx(
        compute_average_surface_distance(
            pred[None], label[None], include_background=True, symmetric=True, spacing=SPACING
        ).item()
    )
    assert scores["HD95_all_mm"] == pytest.approx(
        compute_hausdorff_distance(
            pred[None], label[None], include_background=True, percentile=95, spacing=SPACING
        ).item()
    )


def test_distances_are_in_mm_of_each_axis():
    label = torch.zeros(1, 9, 9, 9)
    label[0, 4, 4, 4] = 2
    for axis, size in enumerate(SPACING):
        scores = region_scores(label.roll(2, axis + 1), label, SPACING)
        assert scores["ASSD_tumour_mm"] == scores["HD95_tumour_mm"] == pytest.approx(2 * size)


def test_a_perfect_prediction():
    label = blobs(0)
    scores = region_scores(probabilities(label), label, SPACING, slice_axis=0)
    for name in ("organ", "tumour"):
        assert scores[f"Dice_{name}"] == scores[f"sliceDice_{name}"] == 1
        for zero in ("ASSD_{}_mm", "HD95_{}_mm", "volume_error_{}_ml", "volume_error_{}_percent", "sliceVOE_{}"):
            assert scores[zero.format(name)] == 0


def test_cropping_changes_nothing():
    label, pred = blobs(1), shifted(blobs(1))
    padded = [torch.nn.functional.pad(x, (5, 2, 7, 0, 1, 9)) for x in (pred, label)]
    # The border of an image is a surface either way.
    assert region_scores(*padded, SPACING) == region_scores(pred, label, SPACING)


def test_the_tumour_is_part_of_the_organ():
    label = blobs(0)
    scores = region_scores(label.clamp(max=1), label, SPACING)
    assert scores["Dice_organ"] == 1
    assert scores["Dice_tumour"] == 0
    scores = region_scores(label.clamp(max=1), label, SPACING, HIPPOCAMPUS)
    assert scores["Dice_posterior"] == 0
    assert 0 < scores["Dice_anterior"] < 1


@pytest.mark.parametrize(("empty", "dice"), [("nan", math.nan), ("one", 1.0)])
def test_empty_regions(empty, dice):
    tumour = blobs(0)
    organ = tumour.clamp(max=1)
    both = region_scores(organ, organ, SPACING, empty=empty)
    assert both["Dice_organ"] == 1
    assert both["Dice_tumour"] == pytest.approx(dice, nan_ok=True)
    for pred, label in ((tumour, organ), (organ, tumour)):
        scores = region_scores(pred, label, SPACING, empty=empty)
        assert scores["Dice_tumour"] == 0
        assert math.isnan(scores["HD95_tumour_mm"])
        assert math.isnan(scores["ASSD_tumour_mm"])
        assert math.isnan(scores["volume_error_tumour_percent"]) == (label is organ)
    nothing = region_scores(0 * organ, 0 * organ, SPACING, empty=empty)
    assert nothing["Dice_organ"] == pytest.approx(dice, nan_ok=True)


def test_slice_scores_of_the_released_code():
    pred, label = toy()
    scores = region_scores(torch.cat([1 - pred, pred]), label, (1, 1, 1), {"tumour": [1]}, slice_axis=0)
    assert scores["sliceDice_tumour"] == pytest.approx(0.5952380952, abs=1e-9)
    assert scores["sliceVOE_tumour"] == pytest.approx(0.1951219507, abs=1e-9)
    assert scores["sliceRVD_tumour"] == pytest.approx(-0.36000000256, abs=1e-9)
    # All slices, from the numbers of voxels.
    g, p, i = (scores[f"{kind}_voxels_tumour"] for kind in ("true", "pred", "common"))
    assert (2 * i + 1) / (p + g + 1) == pytest.approx(0.5434782609, abs=1e-9)
    assert 1 - i / (p + g - i) == pytest.approx(0.6363636364, abs=1e-9)
    assert 1 - scores["Dice_tumour"] / (2 - scores["Dice_tumour"]) == pytest.approx(1 - i / (p + g - i))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_along_any_axis(axis):
    pred, label = (x.movedim(1, axis + 1) for x in toy())
    expected = region_scores(torch.cat([1 - toy()[0], toy()[0]]), toy()[1], SPACING, {"t": [1]}, slice_axis=0)
    scores = region_scores(torch.cat([1 - pred, pred]), label, SPACING, {"t": [1]}, slice_axis=axis)
    for kind in ("Dice", "VOE", "RVD"):
        assert scores[f"slice{kind}_t"] == expected[f"slice{kind}_t"]


def test_slices_cut_the_probability_of_the_region_at_0_4():
    label = torch.zeros(1, 2, 1, 4)
    label[0, 0] = 2
    pred = torch.tensor([0.55, 0.25, 0.2]).view(3, 1, 1, 1).expand(3, 2, 1, 4).clone()
    pred[:, 0, 0, 0] = torch.tensor([0.1, 0.5, 0.4])
    pred[:, 0, 0, 1] = torch.tensor([0.1, 0.49, 0.41])
    scores = region_scores(pred, label, SPACING, slice_axis=0)
    # The organ's probability is that of kidney and tumour together; the second slice holds neither in truth.
    assert scores["sliceRVD_organ"] == pytest.approx(0, abs=1e-6)
    assert scores["sliceRVD_tumour"] == pytest.approx(1 / 4 - 1)
    assert scores["pred_voxels_organ"] == 2
    assert math.isnan(region_scores(pred, 0 * label, SPACING, slice_axis=0)["sliceDice_tumour"])


@pytest.mark.parametrize("depth", [1, 8, 21])
def test_the_most_probable_class(depth):
    pred = torch.rand(4, depth, 5, 6, generator=torch.Generator().manual_seed(0))
    pred[:, 0, 0, 0] = 0.25
    label = pred.argmax(0, keepdim=True)
    every = {f"class{k}": [k] for k in (1, 2, 3)}
    assert region_scores(pred, label, SPACING, every) == region_scores(label, label, SPACING, every)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int64, torch.float16, torch.float32])
def test_label_maps_of_any_type(dtype):
    label, pred = blobs(0).clamp(max=1), shifted(blobs(0)).clamp(max=1)
    expected = region_scores(pred, label, SPACING, {"organ": [1]})
    assert region_scores(pred.to(dtype), label.to(dtype), SPACING, {"organ": [1]}) == expected


def set_of_cases() -> tuple[list[MetaTensor], list[MetaTensor]]:
    """Three cases of different size and spacing, the last without a tumour in truth."""
    labels = [blobs(0), blobs(1, (10, 20, 24)), blobs(2).clamp(max=1)]
    names = ("c/seg.nii.gz", "a/seg.nii.gz", "b/seg.nii.gz")
    spacings = (SPACING, (1.0, 2.0, 1.0), (5.0, 0.7, 0.7))
    preds = [probabilities(shifted(labels[0])), probabilities(shifted(labels[1])), probabilities(blobs(2))]
    return preds, [case(*parts) for parts in zip(labels, names, spacings)]


def test_aggregates_over_cases():
    preds, labels = set_of_cases()
    metric = RegionMetrics(slice_axis=0)
    for pred, label in zip(preds, labels):
        metric.update(([pred], [label]))
    scores = metric.compute()
    alone = [region_scores(p, g, g.pixdim.tolist(), slice_axis=0) for p, g in zip(preds, labels)]
    for name in ("Dice_organ", "Dice_tumour", "ASSD_organ_mm", "volume_error_tumour_ml"):
        assert scores[name] == pytest.approx(np.mean([one[name] for one in alone]))
    for name in ("HD95_tumour_mm", "sliceDice_tumour", "volume_error_tumour_percent"):
        assert math.isnan(alone[2][name])
        assert scores[name] == pytest.approx(np.mean([one[name] for one in alone[:2]]))
    everything = [torch.cat([x.as_subclass(torch.Tensor).flatten() for x in xs]) for xs in (preds, labels)]
    pred = torch.cat([p.argmax(0).flatten() for p in preds])
    for name, above in {"organ": 0, "tumour": 1}.items():
        expected = naive_dice((pred > above).numpy(), (everything[1] > above).numpy())
        assert scores[f"globalDice_{name}"] == pytest.approx(expected)
    assert scores["meanDice"] == pytest.approx((scores["Dice_organ"] + scores["Dice_tumour"]) / 2)
    counts = {"cases": 3, "cases_without_tumour": 1, "both_empty_tumour": 0, "no_distance_tumour": 1}
    assert {name: scores[name] for name in counts} == counts
    assert scores["cases_without_organ"] == scores["no_distance_organ"] == 0


@pytest.mark.parametrize(("empty", "mean"), [("nan", 0.0), ("one", 0.5)])
def test_a_case_without_tumour_in_truth_and_prediction(empty, mean):
    organ, tumour = case(blobs(0).clamp(max=1)), case(blobs(0))
    metric = RegionMetrics(empty=empty)
    metric.update(([organ, organ], [organ, tumour]))
    scores = metric.compute()
    assert scores["Dice_tumour"] == mean
    assert (scores["cases_without_tumour"], scores["both_empty_tumour"], scores["no_distance_tumour"]) == (1, 1, 2)
    assert math.isnan(scores["HD95_tumour_mm"])
    assert scores["globalDice_tumour"] == 0


def test_reset_forgets():
    metric = RegionMetrics()
    metric.update(set_of_cases())
    metric.reset()
    with pytest.raises(NotComputableError, match="saw no cases"):
        metric.compute()


def test_batches_and_lists_agree():
    labels = torch.stack([blobs(0), blobs(1)])
    preds = torch.stack([shifted(blobs(0)), shifted(blobs(1))])
    affine = torch.diag(torch.tensor([*SPACING, 1.0]))
    batch, parts = RegionMetrics(), RegionMetrics()
    batch.update((preds, MetaTensor(labels, affine=affine)))
    parts.update((list(preds), [case(label) for label in labels]))
    assert batch.compute() == parts.compute()


def test_the_spacing_of_a_prediction_serves_too():
    metric = RegionMetrics()
    metric.update(([case(shifted(blobs(0)))], [blobs(0)]))
    expected = region_scores(shifted(blobs(0)), blobs(0), SPACING)["HD95_organ_mm"]
    assert metric.compute()["HD95_organ_mm"] == pytest.approx(expected)


@pytest.mark.parametrize("key", [True, False])
def test_in_a_monai_evaluator(key, tmp_path):
    labels = [case(blobs(seed), f"/set/case_{seed}/segmentation.nii.gz") for seed in (2, 0, 1)]
    data = [{"image": case(probabilities(shifted(g)).log()), "label": g} for g in labels]
    metric = {"val_dice": RegionMetrics(cases_path=tmp_path / "new" / "cases.csv", output_transform=pair())}
    other = {"other": MeanDice(output_transform=from_engine(["label", "label"]))}
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=nn.Identity(),
        postprocessing=ActivationsD(keys="pred", softmax=True),
        key_val_metric=metric if key else other,
        additional_metrics=other if key else metric,
    )
    evaluator.run()
    alone = [region_scores(shifted(g), g, SPACING) for g in labels]
    metrics = evaluator.state.metrics
    assert metrics["HD95_tumour_mm"] == pytest.approx(np.mean([one["HD95_tumour_mm"] for one in alone]))
    assert metrics["val_dice"] == metrics["meanDice"]
    if key:
        assert evaluator.state.best_metric == metrics["meanDice"]

    rows = read(tmp_path / "new" / "cases.csv")
    assert [row["case"] for row in rows] == [f"case_{i}/segmentation.nii.gz" for i in (0, 1, 2)]
    assert float(rows[2]["Dice_tumour"]) == pytest.approx(alone[0]["Dice_tumour"])
    assert float(rows[0]["true_voxels_organ"]) == (labels[1] > 0).sum()
    summary = {row["over_cases"]: row for row in read(tmp_path / "new" / "cases_summary.csv")}
    assert float(summary["mean"]["Dice_organ"]) == pytest.approx(metrics["Dice_organ"])
    assert float(summary["median"]["Dice_organ"]) == pytest.approx(np.median([one["Dice_organ"] for one in alone]))
    assert summary["cases"]["HD95_tumour_mm"] == "3"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["cases.csv", "cases_summary.csv"]


def pair():
    return from_engine(["pred", "label"])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_undefined_scores_are_empty_cells(tmp_path):
    preds, labels = set_of_cases()
    engine = Engine(lambda engine, i: ([preds[i]], [labels[i]]))
    RegionMetrics(cases_path=tmp_path / "cases.csv").attach(engine, "meanDice")
    for _ in range(2):  # the second epoch starts anew
        engine.run([0, 1, 2])
    rows = read(tmp_path / "cases.csv")
    assert [row["case"] for row in rows] == ["a/seg.nii.gz", "b/seg.nii.gz", "c/seg.nii.gz"]
    assert rows[1]["HD95_tumour_mm"] == ""
    assert rows[1]["Dice_tumour"] == "0"
    summary = {row["over_cases"]: row for row in read(tmp_path / "cases_summary.csv")}
    assert summary["cases"]["HD95_tumour_mm"] == "2"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    preds, labels = set_of_cases()
    path = tmp_path / "cases.csv"
    path.write_text("old")
    engine = Engine(lambda engine, i: (preds, labels))
    RegionMetrics(cases_path=path).attach(engine, "dice")

    def fail(*_):
        raise OSError("disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        engine.run([0])
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_into_the_report(tmp_path):
    """A student that never finds the tumour has no distances; its row is there all the same."""
    preds, labels = set_of_cases()
    for name, found in {"teacher": preds, "baseline": [p.argmax(0, True).clamp(max=1) for p in preds]}.items():
        metric = RegionMetrics()
        engine = Engine(lambda engine, i, found=found: (found, labels))
        metric.attach(engine, "meanDice")
        engine.run([0])
        save_evaluation(tmp_path, name, engine.state.metrics, 3, nn.Conv3d(1, 1, 1), (1, 1, 4, 4, 4))
    evaluations = load_evaluations(tmp_path)
    assert math.isnan(evaluations["baseline"].scores["HD95_tumour_mm"])
    table = comparison_table(evaluations, "meanDice", ["HD95_tumour_mm"]).splitlines()
    assert f"{evaluations['teacher'].scores['HD95_tumour_mm']:.4f}" in table[2]
    assert " nan " in table[3]
    with pytest.raises(ValueError, match=r"\['b'\] of 'x' are not finite"):
        save_evaluation(tmp_path, "x", {"a": 1.0, "b": math.inf}, 3, nn.Conv3d(1, 1, 1), (1, 1, 4, 4, 4))


def test_an_inverted_prediction_on_the_original_grid(tmp_path):
    """Anisotropic NIfTI, resampled for the network and back by Invertd: spacing and name are the file's."""
    nibabel = pytest.importorskip("nibabel")
    for name in ("image", "label"):
        values = blobs(0)[0].numpy().astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([*SPACING, 1])), tmp_path / f"{name}.nii.gz")
    load = [LoadImaged(["image", "label"]), EnsureChannelFirstd(["image", "label"])]
    preprocessing = Compose([*load, Spacingd("image", (1.5, 0.8, 0.8), mode="bilinear")])
    data = Dataset([{key: tmp_path / f"{key}.nii.gz" for key in ("image", "label")}], preprocessing)

    class Threshold(nn.Module):
        def forward(self, image):
            organ, tumour = 4 * (image > 0.3).float(), 8 * (image > 1.5).float()
            return torch.cat([torch.full_like(image, 2), organ, tumour], 1)

    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data),
        network=Threshold(),
        postprocessing=Compose(
            [
                ActivationsD("pred", softmax=True),
                Invertd("pred", preprocessing, "image", nearest_interp=False, to_tensor=True),
            ]
        ),
        key_val_metric={"dice": RegionMetrics(cases_path=tmp_path / "cases.csv", output_transform=pair())},
    )
    evaluator.run()
    (row,) = read(tmp_path / "cases.csv")
    assert row["case"] == f"{tmp_path.name}/label.nii.gz"
    assert 0.8 < evaluator.state.metrics["Dice_organ"] < 1
    assert 0 < evaluator.state.metrics["ASSD_organ_mm"] < 0.8
    voxels = float(row["pred_voxels_organ"]) - float(row["true_voxels_organ"])
    assert float(row["volume_error_organ_ml"]) == pytest.approx(voxels * 3.0 * 0.8 * 1.1 / 1000)


def _score_a_share(rank: int, folder: str) -> None:
    preds, labels = set_of_cases()
    # Uneven shares that hold the first case twice, then a process without any.
    for turn, shares in enumerate([([0], [0, 1, 2]), ([0, 1, 2], [])]):
        metric = RegionMetrics(slice_axis=0, cases_path=f"{folder}/cases{turn}.csv")
        engine = Engine(lambda engine, _, metric=metric: None)
        metric.update(([preds[i] for i in shares[rank]], [labels[i] for i in shares[rank]]))
        metric.completed(engine, "dice")
        torch.save(engine.state.metrics, f"{folder}/scores{rank}{turn}.pt")


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(tmp_path, in_processes):
    metric = RegionMetrics(slice_axis=0)
    metric.update(set_of_cases())
    expected = metric.compute()
    in_processes(_score_a_share)
    for turn in range(2):
        for rank in range(2):
            scores = torch.load(tmp_path / f"scores{rank}{turn}.pt", weights_only=True)
            assert scores.pop("dice") == expected["meanDice"]
            assert scores == pytest.approx(expected)
        names = [row["case"] for row in read(tmp_path / f"cases{turn}.csv")]
        assert names == ["a/seg.nii.gz", "b/seg.nii.gz", "c/seg.nii.gz"]


def test_real_kidneys():
    """A label in the published layout against a shifted copy of it."""
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("$MONAI_KD_DATA, the folder of real data, is not set")
    files = sorted(Path(os.environ["MONAI_KD_DATA"]).glob("kits19_labels/labels_3mm/case_*.nii.gz"))
    if not files:
        pytest.skip("no kits19_labels below $MONAI_KD_DATA")
    label = LoadImage(ensure_channel_first=True)(files[0])
    metric = RegionMetrics()
    metric.update(([label.roll(1, 2)], [label]))
    scores = metric.compute()
    assert 0.5 < scores["Dice_tumour"] < scores["Dice_organ"] < 1
    # A shift by one voxel of 3 mm.
    assert 0 < scores["ASSD_organ_mm"] < scores["HD95_organ_mm"] <= 3
    assert scores["volume_error_organ_ml"] == scores["volume_error_tumour_ml"] == 0


def test_messages():
    label = blobs(0)
    prob = probabilities(label)
    for bad, said in (
        ({}, "regions need at least one label each"),
        ({"organ": []}, "regions need at least one label each"),
        ({"organ": [0, 1]}, r"0 is background\), got 'organ': \[0, 1\]"),
        ({"organ": [1, 1]}, "names each label once"),
    ):
        with pytest.raises(ValueError, match=said):
            RegionMetrics(regions=bad)
    with pytest.raises(ValueError, match="'nan' or 'one', got 'zero'"):
        RegionMetrics(empty="zero")
    with pytest.raises(ValueError, match="axis 0, 1 or 2, or None for no slice scores, got 3"):
        RegionMetrics(slice_axis=3)
    with pytest.raises(ValueError, match="unknown score 'dice', expected one of meanDice, Dice_organ"):
        RegionMetrics(score="dice")
    with pytest.raises(ValueError, match="unknown score 'sliceDice_tumour'"):
        RegionMetrics(score="sliceDice_tumour")
    with pytest.raises(ValueError, match="give score='Dice_tumour' or attach under another name"):
        RegionMetrics().attach(Engine(lambda engine, batch: None), "Dice_tumour")
    with pytest.raises(ValueError, match=r"one 3D label map of shape \(1, D, H, W\), got \(1, 8, 8\)"):
        region_scores(label[:, 0], torch.zeros(1, 8, 8), SPACING)
    with pytest.raises(ValueError, match=r"got \(3, 14, 22, 18\)"):
        region_scores(prob, prob, SPACING)
    with pytest.raises(ValueError, match="undo the preprocessing of the prediction with Invertd"):
        region_scores(prob[:, 1:], label, SPACING)
    with pytest.raises(ValueError, match=r"three positive numbers \(mm\), got \(1, 0, 1\)"):
        region_scores(prob, label, (1, 0, 1))
    with pytest.raises(ValueError, match="apply a softmax to logits"):
        region_scores(prob.log(), label, SPACING)
    with pytest.raises(ValueError, match="got nan to nan"):
        region_scores(prob * torch.nan, label, SPACING)
    with pytest.raises(ValueError, match="pred must hold labels, whole numbers from 0 to 255"):
        region_scores(prob[2:], label, SPACING)
    with pytest.raises(ValueError, match="label must hold labels"):
        region_scores(prob, label - 1, SPACING)
    with pytest.raises(ValueError, match="name label 2, but pred has only 2 classes"):
        region_scores(prob[:2], label, SPACING)
    with pytest.raises(ValueError, match="slice scores need the probabilities"):
        region_scores(label, label, SPACING, slice_axis=0)
    with pytest.raises(ValueError, match=r"case 'unnamed_0_00000': unknown voxel spacing: .* is a MetaTensor"):
        RegionMetrics().update(([label], [label]))
    with pytest.raises(ValueError, match=r"case 'c/seg\.nii': pred must hold labels"):
        RegionMetrics().update(([prob[2:]], [case(label, "c/seg.nii")]))
    with pytest.raises(ValueError, match="one label for every prediction, got 2 and 1"):
        RegionMetrics().update(([label, label], [label]))


def test_examples_run():
    result = doctest.testmod(regions, extraglobs={"torch": torch})
    assert result.attempted > 0
    assert result.failed == 0
