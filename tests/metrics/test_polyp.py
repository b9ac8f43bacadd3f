from __future__ import annotations

import builtins
import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.transforms import ActivationsD

from monai_kd.metrics import POLYP_SCORES, PolypMetrics, polyp_scores

sod = pytest.importorskip("py_sod_metrics", reason="pysodmetrics is not installed: pip install 'monai-kd[polyp]'")

# Scores of the released evaluation on ``ellipses()``.
RELEASED = {
    "meanDice": 0.7116917233240886,
    "maxDice": 0.8342245989304813,
    "meanIoU": 0.5700324907351044,
    "wFmeasure": 0.6989832450381623,
    "Smeasure": 0.8489311175038539,
    "meanEmeasure": 0.8099171508977732,
    "maxEmeasure": 0.939854636251666,
    "MAE": 0.1063112745098039,
}


def ellipses() -> tuple[np.ndarray, np.ndarray]:
    """A soft ellipse and a shifted hard one, on 40 x 48 pixels."""
    y, x = np.mgrid[:40, :48].astype(float)
    pred = np.round(255 / (1 + np.exp(6 * (np.hypot((y - 20) / 10, (x - 24) / 11) - 1)))) / 255
    return pred, ((y - 18) / 9) ** 2 + ((x - 26) / 13) ** 2 <= 1


def random_set(sizes=((20, 30), (25, 21), (32, 32)), seed=0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    preds, labels = [], []
    for h, w in sizes:
        label = torch.zeros(1, h, w)
        label[:, 5 : h - 6, 4 : w - 3] = 1
        preds.append(0.6 * label + 0.4 * torch.rand(1, h, w, generator=generator))
        labels.append(label)
    return preds, labels


def test_scores_of_the_released_evaluation():
    pred, label = ellipses()
    assert label.sum() == 361
    assert pred.sum() == pytest.approx(376.92156862745094)
    scores = polyp_scores(pred, label)
    assert {name: scores[name] for name in RELEASED} == pytest.approx(RELEASED, rel=1e-6)


def test_golden_file():
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("the golden files lie next to $MONAI_KD_DATA, which is not set")
    path = Path(os.environ["MONAI_KD_DATA"]).parent / "golden" / "polyp_metrics.npz"
    if not path.is_file():
        pytest.skip(f"no golden file {path}")
    golden = np.load(path)
    columns = golden["columns"].tolist()
    for i, expected in enumerate(golden["scores"]):
        scores = polyp_scores(golden[f"pred_{i}"], golden[f"gt_{i}"])
        released = {name: expected[columns.index(name)] for name in POLYP_SCORES}
        if not golden[f"gt_{i}"].any():
            # The one difference: without a polyp the released weighted F-measure is NaN, ours is 0.
            assert np.isnan(released.pop("wFmeasure"))
            assert scores.pop("wFmeasure") == 0
        assert scores == pytest.approx(released, abs=1e-6)


def test_what_differs_from_pysodmetrics():
    """Its own classes on the same image: equal where the protocols agree, close where they are known to differ."""
    pred, label = ellipses()
    scores = polyp_scores(pred, label)
    theirs = {"MAE": sod.MAE(), "Smeasure": sod.Smeasure(), "wFmeasure": sod.WeightedFmeasure()}
    for metric in theirs.values():
        metric.step(pred, label, normalize=False)
    assert theirs["MAE"].get_results()["mae"] == pytest.approx(scores["MAE"])
    # Away from the border smoothing is the same.
    assert theirs["wFmeasure"].get_results()["wfm"] == pytest.approx(scores["wFmeasure"])
    difference = abs(theirs["Smeasure"].get_results()["sm"] - scores["Smeasure"])
    assert 1e-3 < difference < 4e-3


def test_dice_and_iou_count_pixels_at_every_threshold():
    pred, label = random_set(sizes=((20, 30),))
    quantised = np.round(pred[0].double().numpy() * 255) / 255
    dice, iou = [], []
    for threshold in np.linspace(1, 0, 256):
        binary = quantised >= threshold
        both = (binary & (label[0].numpy() > 0)).sum()
        dice.append(2 * both / (binary.sum() + label[0].sum().item()))
        iou.append(both / (binary.sum() + label[0].sum().item() - both))
    scores = polyp_scores(pred[0], label[0])
    expected = {"meanDice": np.mean(dice), "maxDice": max(dice), "meanIoU": np.mean(iou), "maxIoU": max(iou)}
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


def test_a_perfect_prediction():
    _, label = ellipses()
    scores = polyp_scores(label.astype(float), label)
    assert scores.pop("MAE") == 0
    assert scores.pop("maxEmeasure") == pytest.approx(1, abs=1e-3)
    for name in ("maxDice", "maxIoU", "wFmeasure", "Smeasure"):
        assert scores[name] == pytest.approx(1)


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("pred", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("minmax", [True, False])
def test_empty_and_full_images_are_finite(label, pred, minmax):
    scores = polyp_scores(np.full((9, 7), pred), np.full((9, 7), label), minmax)
    assert np.isfinite(list(scores.values())).all()


@pytest.mark.parametrize(
    "where", [(slice(0, 1), slice(None)), (slice(None), slice(0, 1)), (slice(-1, None), slice(0, 1))]
)
def test_polyps_at_the_border_are_finite(where):
    label = np.zeros((9, 7))
    label[where] = 1
    scores = polyp_scores(label, label)
    assert scores["Smeasure"] == pytest.approx(1)
    assert np.isfinite(list(scores.values())).all()


def test_minmax_stretches():
    pred, label = ellipses()
    assert polyp_scores(0.25 + 0.5 * pred, label, minmax=True) == pytest.approx(polyp_scores(pred, label), abs=5e-3)
    assert polyp_scores(0.25 + 0.5 * pred, label)["MAE"] > 0.2


def test_a_set_takes_the_maximum_after_the_mean():
    preds, labels = random_set()
    together = polyp_scores(preds, labels)
    alone = [polyp_scores(p, g) for p, g in zip(preds, labels)]
    for name in POLYP_SCORES:
        mean = np.mean([scores[name] for scores in alone])
        assert together[name] <= mean + 1e-12 if name.startswith("max") else together[name] == pytest.approx(mean)


def test_batches_lists_and_arrays_agree():
    preds, labels = random_set(sizes=((20, 30), (20, 30)))
    expected = polyp_scores(preds, labels)
    batch, masks = torch.stack(preds), torch.stack(labels)
    inputs = [
        (batch, masks),
        (preds, labels),
        (MetaTensor(batch), MetaTensor(masks)),
        (batch.numpy(), masks.bool().numpy()),
    ]
    for output in inputs:
        metric = PolypMetrics()
        metric.update(output)
        assert metric.scores() == pytest.approx(expected)
        assert metric.compute() == pytest.approx(expected["meanDice"])


def test_reset_forgets():
    metric = PolypMetrics()
    metric.update(random_set())
    metric.reset()
    with pytest.raises(NotComputableError, match="saw no images"):
        metric.compute()


def test_images_of_any_size_through_an_ignite_engine():
    preds, labels = random_set()
    engine = Engine(lambda engine, i: ([preds[i]], [labels[i]]))
    PolypMetrics(score="maxDice").attach(engine, "val_max_dice")
    PolypMetrics(minmax=True, prefix="minmax_").attach(engine, "val_minmax")
    for _ in range(2):  # the second epoch starts anew
        metrics = engine.run([0, 1, 2]).metrics
    expected, stretched = polyp_scores(preds, labels), polyp_scores(preds, labels, minmax=True)
    assert metrics["val_max_dice"] == pytest.approx(expected["maxDice"])
    assert {name: metrics[name] for name in POLYP_SCORES} == pytest.approx(expected)
    assert metrics["val_minmax"] == metrics["minmax_meanDice"] == pytest.approx(stretched["meanDice"])
    details = engine.state.metric_details["val_max_dice"]
    assert details.shape == (3, len(POLYP_SCORES))
    assert details[1].tolist() == pytest.approx(list(polyp_scores(preds[1], labels[1]).values()), rel=1e-6)


@pytest.mark.parametrize("key", [True, False])
def test_in_a_monai_evaluator(key):
    preds, labels = random_set(sizes=((32, 32),) * 3)
    data = [{"image": p.clamp(0.01, 0.99).logit()[None], "label": g[None]} for p, g in zip(preds, labels)]
    metric = {"val_mean_dice": PolypMetrics(output_transform=from_engine(["pred", "label"]))}
    other = {"other": MeanDice(output_transform=from_engine(["label", "label"]))}
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=data,
        network=torch.nn.Identity(),
        postprocessing=ActivationsD(keys="pred", sigmoid=True),
        key_val_metric=metric if key else other,
        additional_metrics=other if key else metric,
    )
    evaluator.run()
    expected = polyp_scores([p.clamp(0.01, 0.99) for p in preds], labels)
    assert evaluator.state.metrics["val_mean_dice"] == pytest.approx(expected["meanDice"], abs=1e-6)
    assert evaluator.state.metrics["Smeasure"] == pytest.approx(expected["Smeasure"], abs=1e-3)
    if key:
        assert evaluator.state.best_metric == evaluator.state.metrics["val_mean_dice"]


def test_one_row_an_image_is_written(tmp_path):
    preds, labels = random_set()
    named = [MetaTensor(label, meta={"filename_or_obj": f"/set/masks/{9 - i}.png"}) for i, label in enumerate(labels)]
    metric = PolypMetrics(cases_path=tmp_path / "cases.csv")
    metric.update((preds, named))
    metric.completed(Engine(lambda engine, _: None), "dice")
    with open(tmp_path / "cases.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("case") for row in rows] == [f"masks/{number}.png" for number in (7, 8, 9)]
    for row, pred, label in zip(rows, preds[::-1], labels[::-1]):
        expected = polyp_scores(pred, label)
        assert {name: float(value) for name, value in row.items()} == pytest.approx(expected)


def _score_a_share(rank: int, folder: str) -> None:
    preds, labels = random_set()
    metric = PolypMetrics()
    share = slice(0, 1) if rank == 0 else slice(1, 3)
    metric.update((preds[share], labels[share]))
    torch.save(metric.scores(), f"{folder}/scores{rank}.pt")


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(tmp_path, in_processes):
    in_processes(_score_a_share)
    for rank in range(2):
        scores = torch.load(tmp_path / f"scores{rank}.pt", weights_only=True)
        assert scores == pytest.approx(polyp_scores(*random_set()))


def test_without_pysodmetrics(monkeypatch):
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "py_sod_metrics":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r'pip install "monai-kd\[polyp\]"'):
        PolypMetrics()


def test_messages():
    with pytest.raises(ValueError, match="unknown score 'dice', expected one of meanDice, maxDice"):
        PolypMetrics(score="dice")
    mask = np.zeros((4, 4))
    with pytest.raises(ValueError, match="apply a sigmoid to logits"):
        polyp_scores(mask - 3, mask)
    with pytest.raises(ValueError, match=r"pred must lie in \[0, 1\], got nan to nan"):
        polyp_scores(mask * np.nan, mask)
    with pytest.raises(ValueError, match="scale masks to 0 and 1"):
        polyp_scores(mask, mask + 255)
    with pytest.raises(ValueError, match=r"differ in size: \(4, 4\) and \(4, 6\); resize the logits"):
        polyp_scores(mask, np.zeros((4, 6)))
    with pytest.raises(ValueError, match=r"pred must be one image of shape \(H, W\) or \(1, H, W\), got \(2, 4, 4\)"):
        polyp_scores(np.zeros((2, 4, 4)), mask)
    with pytest.raises(ValueError, match="one label for every prediction"):
        polyp_scores([mask, mask], [mask])
    with pytest.raises(ValueError, match="one label for every prediction"):
        PolypMetrics().update(([mask, mask], [mask]))
