"""What int8 may lose, and that nothing is taken for granted where it cannot be scored."""

import numpy as np
import pytest
import torch

from monai_kd.export import AccuracyError, NoCases, accuracy
from monai_kd.export.accuracy import compare_accuracy
from monai_kd.export.cases import Sample


def scores(monkeypatch, *found):
    """The bundle's scores of the network and of its int8 form, or what scoring raises."""
    answers = iter(found)

    def score(student, answer, count):
        value = next(answers)
        if isinstance(value, Exception):
            raise value
        return "val_mean_dice", value, count

    monkeypatch.setattr(accuracy, "_score", score)


def samples(count=2):
    return [Sample(str(number), torch.zeros(1, 1, 10, 10)) for number in range(count)]


def labels(*voxels, classes=2):
    """A network that says foreground at these voxels alone."""
    answer = np.zeros((1, classes, 10, 10), dtype=np.float32)
    answer[:, 0] = -1 if classes == 1 else 1
    for voxel in voxels:
        answer[(0, -1, *voxel)] = 2
    return lambda images: answer


def compare(before, after, max_drop=0.005, windows=None):
    return compare_accuracy(None, before, after, 3, max_drop, samples() if windows is None else windows)


@pytest.mark.parametrize(("after", "kept"), [(0.7, True), (0.596, True), (0.594, False), (float("nan"), False)])
def test_the_bundles_score_may_drop_by_so_much(monkeypatch, after, kept):
    scores(monkeypatch, 0.6, after)
    if kept:
        found = compare(labels(), labels())
        assert (found.score, found.before, found.after, found.cases) == ("val_mean_dice", 0.6, after, 3)
    else:
        with pytest.raises(AccuracyError, match=r"int8 loses too much: val_mean_dice on 3 validation cases: f32 0\.6"):
            compare(labels(), labels())


def test_int8_that_cannot_be_scored_is_not_compared_by_its_labels(monkeypatch):
    """Though these would agree."""
    scores(monkeypatch, 0.6, NoCases("the bundle's score val_mean_dice of 3 cases is nan."))
    with pytest.raises(AccuracyError, match=r"no score beside val_mean_dice 0\.6000 of f32: .* is nan"):
        compare(labels((1, 1)), labels((1, 1)))


@pytest.mark.parametrize("classes", [1, 2])
def test_agreement_is_that_of_the_foreground(monkeypatch, classes):
    """Of either network: a single voxel that is lost, or that is made up, is not hidden by the background."""
    cases = [
        (((1, 1),), (), 0.0),
        ((), ((1, 1),), 0.0),
        (((1, 1), (2, 2)), ((2, 2), (3, 3)), 1 / 3),
        (((1, 1),), ((1, 1),), 1.0),
        ((), (), 1.0),
    ]
    for before, after, expected in cases:
        scores(monkeypatch, NoCases("no key metric"))
        found = compare(labels(*before, classes=classes), labels(*after, classes=classes), max_drop=1.0)
        assert (found.score, found.reason) == ("agreement", "no key metric")
        assert found.after == pytest.approx(expected)
    scores(monkeypatch, NoCases("no key metric"))
    with pytest.raises(AccuracyError, match="int8 loses too much: agreement"):
        compare(labels((1, 1), classes=classes), labels(classes=classes))


def test_agreement_of_classifications_is_that_of_the_images(monkeypatch):
    scores(monkeypatch, NoCases("no key metric"))
    first = np.array([[2.0, 1], [2, 1]], dtype=np.float32)
    second = np.array([[2.0, 1], [1, 2]], dtype=np.float32)
    assert compare(lambda x: first, lambda x: second, 1.0).after == 0.5


def test_without_score_and_inputs_nothing_is_exported(monkeypatch):
    scores(monkeypatch, NoCases("no key metric"))
    with pytest.raises(AccuracyError, match="int8 is not exported unseen: no key metric"):
        compare(labels(), labels(), windows=[])
