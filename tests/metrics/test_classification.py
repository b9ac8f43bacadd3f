from __future__ import annotations

import csv
import doctest
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from monai.transforms import ActivationsD
from sklearn import metrics as sk
from torch import nn

from monai_kd.metrics import ClassificationMetrics, classification, classification_scores
from monai_kd.report import load_evaluations, save_evaluation

NAMES = ("akiec", "bcc", "bkl", "mel", "nv")


def random_set(images: int = 80, classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities that lean to the truth, the last class being most frequent."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(images, generator=generator).sqrt() * classes).long()
    logits = torch.randn(images, classes, generator=generator) + 1.2 * nn.functional.one_hot(labels, classes)
    return logits.softmax(1), labels


def one_hot(*predicted: int, classes: int = 3) -> torch.Tensor:
    return nn.functional.one_hot(torch.tensor(predicted), classes).float()


def naive_specificity(labels: np.ndarray, predicted: np.ndarray, index: int) -> float:
    others = [p for t, p in zip(labels, predicted) if t != index]
    return sum(p != index for p in others) / len(others)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_of_scikit_learn(seed):
    probabilities, labels = random_set(seed=seed)
    scores = classification_scores(probabilities, labels, NAMES)
    p, t = probabilities.double().numpy(), labels.numpy()
    found = p.argmax(1)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(t, found, average="macro", zero_division=0)
    specificity = [naive_specificity(t, found, c) for c in range(5)]
    expected = {
        "accuracy": sk.accuracy_score(t, found),
        "balanced_accuracy": sk.balanced_accuracy_score(t, found),
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
        "macro_auc": sk.roc_auc_score(nn.functional.one_hot(labels, 5).numpy(), p, average="macro"),
        "macro_specificity": np.mean(specificity),
        "quadratic_kappa": sk.cohen_kappa_score(t, found, weights="quadratic"),
        "mcc": sk.matthews_corrcoef(t, found),
        "classes_present": 5,
        "images": 80,
    }
    for c, name in enumerate(NAMES):
        expected |= {
            f"precision_{name}": sk.precision_score(t == c, found == c, zero_division=0),
            f"recall_{name}": sk.recall_score(t == c, found == c),
            f"f1_{name}": sk.f1_score(t == c, found == c),
            f"auc_{name}": sk.roc_auc_score(t == c, p[:, c]),
            f"specificity_{name}": specificity[c],
        }
    assert scores == pytest.approx(expected)
    normalised = p / p.sum(1, keepdims=True)
    assert scores["macro_auc"] == pytest.approx(sk.roc_auc_score(t, normalised, multi_class="ovr", average="macro"))


def test_scores_by_hand():
    """Truth 0 0 0 1 1 2, found 0 0 1 1 2 2."""
    rows = [[0.8, 0.1, 0.1], [0.5, 0.3, 0.2], [0.3, 0.4, 0.3], [0.1, 0.7, 0.2], [0.2, 0.3, 0.5], [0.1, 0.3, 0.6]]
    scores = classification_scores(torch.tensor(rows), torch.tensor([0, 0, 0, 1, 1, 2]), ["a", "b", "c"])
    expected = {
        "accuracy": 4 / 6,
        "balanced_accuracy": (2 / 3 + 1 / 2 + 1) / 3,
        "macro_precision": (1 + 1 / 2 + 1 / 2) / 3,
        "macro_f1": (4 / 5 + 1 / 2 + 2 / 3) / 3,
        "specificity_a": 1.0,
        "specificity_b": 3 / 4,
        "specificity_c": 4 / 5,
        "macro_specificity": (1 + 3 / 4 + 4 / 5) / 3,
        # b: 0.7 and 0.3 against 0.1, 0.3, 0.4, 0.3: 4 won; 1 won, 2 ties of 4.
        "auc_a": 1.0,
        "auc_b": (4 + 2) / 8,
        "auc_c": 1.0,
        # Disagreement 2 x 1^2; by chance from the margins (3, 2, 1) and (2, 2, 2): (3x2 + 2x2 + 2x2 + 1x2 + 4 (3x2 +
        # 1x2)) / 6.
        "quadratic_kappa": 1 - 2 / (48 / 6),
        # 4 right of 6, margins (3, 2, 1) and (2, 2, 2): (4x6 - 12) / sqrt((36 - 14) (36 - 12)).
        "mcc": 12 / math.sqrt(22 * 24),
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


def test_the_order_of_images_does_not_matter():
    probabilities, labels = random_set()
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    expected = classification_scores(probabilities, labels, NAMES)
    assert classification_scores(probabilities[order], labels[order], NAMES) == pytest.approx(expected)


def test_the_order_of_classes_does_not_matter_but_to_kappa():
    probabilities, labels = random_set()
    order = torch.tensor([3, 1, 4, 0, 2])
    turned = classification_scores(probabilities[:, order], order.argsort()[labels], [NAMES[i] for i in order])
    expected = classification_scores(probabilities, labels, NAMES)
    assert turned.pop("quadratic_kappa") != pytest.approx(expected.pop("quadratic_kappa"))
    assert turned == pytest.approx(expected)


@pytest.mark.parametrize("predicted_too", [False, True])
def test_a_class_without_images_counts_in_no_mean(predicted_too):
    probabilities, labels = random_set()
    keep = labels != 1
    probabilities, labels = probabilities[keep], labels[keep]
    if predicted_too:
        assert (probabilities.argmax(1) == 1).any()
    else:
        probabilities[:, 1] = 0
        probabilities /= probabilities.sum(1, keepdim=True)
    with pytest.warns(UserWarning, match=r"no image is of class bcc: .* over the other 4") as caught:
        scores = classification_scores(probabilities, labels, NAMES)
    assert len(caught) == 1
    assert scores["classes_present"] == 4
    assert math.isnan(scores["recall_bcc"])
    assert math.isnan(scores["auc_bcc"])
    assert scores["precision_bcc"] == pytest.approx(0 if predicted_too else math.nan, nan_ok=True)
    assert scores["f1_bcc"] == pytest.approx(0 if predicted_too else math.nan, nan_ok=True)
    assert (scores["specificity_bcc"] < 1) == predicted_too
    p, t = probabilities.numpy(), labels.numpy()
    found, present = p.argmax(1), [0, 2, 3, 4]
    for kind, score in {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}.items():
        assert scores[f"macro_{kind}"] == pytest.approx(score(t, found, labels=present, average="macro"))
    assert scores["balanced_accuracy"] == scores["macro_recall"]
    assert scores["macro_auc"] == pytest.approx(np.mean([sk.roc_auc_score(t == c, p[:, c]) for c in present]))
    assert scores["macro_specificity"] == pytest.approx(np.mean([naive_specificity(t, found, c) for c in present]))


def test_a_class_that_is_never_predicted_has_precision_0():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = classification_scores(one_hot(0, 1, 1), torch.tensor([0, 1, 2]), ["a", "b", "c"])
    assert scores["precision_c"] == scores["recall_c"] == scores["f1_c"] == 0
    assert scores["macro_precision"] == pytest.approx((1 + 0.5 + 0) / 3)


@pytest.mark.parametrize(("found", "kappa"), [((1, 1, 1), math.nan), ((1, 0, 1), 0.0)])
def test_images_of_one_class_alone(found, kappa):
    with pytest.warns(UserWarning, match="no image is of class a, c") as caught:
        scores = classification_scores(one_hot(*found), torch.ones(3), ["a", "b", "c"])
    assert len(caught) == 1
    assert scores["quadratic_kappa"] == pytest.approx(kappa, nan_ok=True)
    assert scores["mcc"] == pytest.approx(kappa, nan_ok=True)
    assert math.isnan(scores["macro_auc"])
    assert math.isnan(scores["macro_specificity"])
    assert scores["balanced_accuracy"] == scores["accuracy"] == pytest.approx(found.count(1) / 3)
    assert scores["macro_precision"] == 1


def test_two_classes():
    probabilities, labels = random_set(classes=2)
    scores = classification_scores(probabilities, labels, ["benign", "malignant"])
    p, t = probabilities.numpy(), labels.numpy()
    assert scores["macro_auc"] == pytest.approx(sk.roc_auc_score(t, p[:, 1]))
    assert scores["specificity_malignant"] == scores["recall_benign"]
    assert scores["macro_specificity"] == pytest.approx(scores["macro_recall"])
    assert scores["f1_malignant"] == pytest.approx(sk.f1_score(t, p.argmax(1)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("label_dtype", [torch.int64, torch.uint8, torch.float32])
def test_probabilities_of_any_precision(dtype, label_dtype):
    probabilities, labels = random_set(images=300)
    rounded = probabilities.log().to(dtype).softmax(1)
    metric = ClassificationMetrics(NAMES)
    metric.update((rounded, labels.to(label_dtype)))
    scores = metric.compute()
    assert scores == classification_scores(rounded.float(), labels, NAMES)
    assert scores["macro_auc"] == pytest.approx(
        classification_scores(probabilities, labels, NAMES)["macro_auc"], abs=0.01
    )


def test_batches_and_lists_agree():
    probabilities, labels = random_set()
    expected = classification_scores(probabilities, labels, NAMES)
    inputs = [
        (probabilities, labels),
        (probabilities, labels[:, None]),
        (list(probabilities), list(labels)),
        (list(MetaTensor(probabilities)), [one[None] for one in labels]),
        (list(probabilities), labels.tolist()),
    ]
    for pred, label in inputs:
        metric = ClassificationMetrics(NAMES)
        metric.update((pred[:30], label[:30]))
        metric.update((pred[30:], label[30:]))
        assert metric.compute() == pytest.approx(expected)
    assert metric.confusion_matrix().tolist() == sk.confusion_matrix(labels, probabilities.argmax(1)).tolist()


def test_an_iteration_reads_nothing_from_the_device():
    """Reading a meta tensor on the host raises."""
    ClassificationMetrics(NAMES).update((torch.rand(4, 5, device="meta"), torch.zeros(4, 1, device="meta")))


def test_reset_forgets():
    metric = ClassificationMetrics(NAMES)
    metric.update(random_set())
    metric.reset()
    with pytest.raises(NotComputableError, match="saw no images"):
        metric.compute()


@pytest.mark.parametrize("key", [True, False])
def test_in_a_monai_evaluator(key, tmp_path):
    probabilities, labels = random_set()
    data = [{"image": p.log().bfloat16(), "label": int(t)} for p, t in zip(probabilities, labels)]
    pair = from_engine(["pred", "label"])
    path = tmp_path / "new" / "classes.csv"
    metric = {"val_macro_f1": ClassificationMetrics(NAMES, "macro_f1", classes_path=path, output_transform=pair)}
    other = {"val_accuracy": ClassificationMetrics(NAMES, "accuracy", prefix="other_", output_transform=pair)}
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=32),
        network=nn.Identity(),
        postprocessing=ActivationsD(keys="pred", softmax=True),
        key_val_metric=metric if key else other,
        additional_metrics=other if key else metric,
    )
    for _ in range(2):  # the second run starts anew
        evaluator.run()
    expected = classification_scores(probabilities.log().bfloat16().softmax(1).float(), labels, NAMES)
    found = evaluator.state.metrics
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert found["val_macro_f1"] == found["macro_f1"] == found["other_macro_f1"]
    assert found["val_accuracy"] == found["accuracy"]
    assert evaluator.state.best_metric == (found["macro_f1"] if key else found["accuracy"])
    confusion = evaluator.state.metric_details["val_macro_f1"]
    assert confusion.sum(1).tolist() == labels.bincount(minlength=5).tolist()

    rows = read(path)
    assert [row["class"] for row in rows] == list(NAMES)
    assert [int(row["true_images"]) for row in rows] == confusion.sum(1).tolist()
    assert [int(row["predicted_images"]) for row in rows] == confusion.sum(0).tolist()
    assert float(rows[3]["specificity"]) == pytest.approx(found["specificity_mel"])
    rows = read(tmp_path / "new" / "classes_confusion.csv")
    assert [[int(row[name]) for name in NAMES] for row in rows] == confusion.tolist()
    assert [row["true_class"] for row in rows] == list(NAMES)

    save_evaluation(tmp_path, "student", found, 80, nn.Conv2d(1, 1, 1), (1, 1, 4, 4))
    assert load_evaluations(tmp_path)["student"].scores["recall_mel"] == pytest.approx(found["recall_mel"])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_one_warning_an_evaluation_and_empty_cells(tmp_path):
    engine = Engine(lambda engine, _: (one_hot(0, 1, 0), [0, 1, 1]))
    ClassificationMetrics(["a", "b", "c"], classes_path=tmp_path / "classes.csv").attach(engine, "balanced_accuracy")
    with pytest.warns(UserWarning, match="no image is of class c") as caught:
        engine.run([0, 1])
    assert len(caught) == 1
    assert engine.state.metrics["balanced_accuracy"] == 0.75
    row = read(tmp_path / "classes.csv")[2]
    assert (row["true_images"], row["recall"], row["auc"], row["specificity"]) == ("0", "", "", "1")
    save_evaluation(tmp_path, "x", engine.state.metrics, 3, nn.Conv2d(1, 1, 1), (1, 1, 4, 4))
    assert math.isnan(load_evaluations(tmp_path)["x"].scores["recall_c"])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "classes.csv"
    path.write_text("old")
    engine = Engine(lambda engine, _: random_set())
    ClassificationMetrics(NAMES, classes_path=path).attach(engine, "score")

    def fail(*_):
        raise OSError("disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        engine.run([0])
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def _score_a_share(rank: int, folder: str) -> None:
    probabilities, labels = random_set()
    preds = [MetaTensor(p, meta={"filename_or_obj": f"{i}.jpg"}) for i, p in enumerate(probabilities)]
    # Uneven shares that hold the first two images twice, then a process without any.
    for turn, shares in enumerate([(range(2), range(80)), (range(80), range(0))]):
        metric = ClassificationMetrics(NAMES, classes_path=f"{folder}/classes{turn}.csv")
        engine = Engine(lambda engine, _: None)
        metric.update(([preds[i] for i in shares[rank]], [labels[i] for i in shares[rank]]))
        metric.completed(engine, "balanced_accuracy")
        torch.save(engine.state.metrics, f"{folder}/scores{rank}{turn}.pt")


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(tmp_path, in_processes):
    expected = classification_scores(*random_set(), NAMES)
    in_processes(_score_a_share)
    for turn in range(2):
        for rank in range(2):
            assert torch.load(tmp_path / f"scores{rank}{turn}.pt", weights_only=True) == pytest.approx(expected)
        assert sum(int(row["true_images"]) for row in read(tmp_path / f"classes{turn}.csv")) == 80


def test_messages():
    probabilities, labels = random_set()
    for names in ([], ["a"], ["a", "a"], "ab"):
        with pytest.raises(ValueError, match="class_names must be two or more different names"):
            ClassificationMetrics(names)
    with pytest.raises(ValueError, match="unknown score 'auc', expected one of accuracy, balanced_accuracy"):
        ClassificationMetrics(NAMES, score="auc")
    with pytest.raises(ValueError, match="would show balanced_accuracy; give score='accuracy' or attach under"):
        ClassificationMetrics(NAMES).attach(Engine(lambda engine, batch: None), "accuracy")
    with pytest.raises(ValueError, match=r"\(N,\) labels, N > 0; got \(80, 5\) and \(79,\)"):
        classification_scores(probabilities, labels[1:], NAMES)
    with pytest.raises(ValueError, match=r"shape \(N, 4\), one column a class .* got \(80, 5\)"):
        classification_scores(probabilities, labels, NAMES[:4])
    bad = probabilities.clone()
    bad[7, 2] = math.nan
    with pytest.raises(ValueError, match="1 of 80 images are not finite, the first that of image 7"):
        classification_scores(bad, labels, NAMES)
    with pytest.raises(ValueError, match=r"those of image 0 go from .* Apply a softmax to logits"):
        classification_scores(probabilities.log(), labels, NAMES)
    for shift in (torch.tensor([0.005, 0, 0, 0, 0]), torch.tensor([1.0, -1, 0, 0, 0])):
        with pytest.raises(ValueError, match="must lie in"):
            classification_scores(probabilities + shift, labels, NAMES)
    for wrong in (5, -1, 0.5, math.nan):
        other = labels.double()
        other[3] = wrong
        with pytest.raises(ValueError, match=r"class indices from 0 to 4 \(akiec, .*\); image 3 has"):
            classification_scores(probabilities, other, NAMES)
    metric = ClassificationMetrics(NAMES)
    with pytest.raises(ValueError, match="one label for every prediction, got 80 and 79"):
        metric.update((probabilities, labels[1:]))
    with pytest.raises(ValueError, match=r"shape \(5,\) for akiec, .* prediction of shape \(4,\)"):
        metric.update((probabilities[:, 1:], labels))
    with pytest.raises(ValueError, match=r"shape \(\) or \(1,\); got a label of \(5,\)"):
        metric.update((probabilities, nn.functional.one_hot(labels)))
    metric.reset()
    metric.update(([MetaTensor(bad[7], meta={"filename_or_obj": "x/mel.jpg"})], [0]))
    with pytest.raises(ValueError, match=r"the first that of 'x/mel\.jpg'"):
        metric.compute()


def test_examples_run():
    result = doctest.testmod(classification, extraglobs={"torch": torch})
    assert result.attempted > 0
    assert result.failed == 0
