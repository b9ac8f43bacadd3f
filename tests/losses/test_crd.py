from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from monai_kd.losses import ClassContrastiveLoss, ContrastMemory, CRDLoss

TEMPERATURE = 0.07
LABELS = torch.tensor([0, 1, 0, -1, 1, 1, 0, 2])
INDEX = torch.tensor([0, 7, 3, 4])
LABEL = LABELS[INDEX]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(negatives=6, **kwargs):
    return CRDLoss(ContrastMemory(LABELS, 3, 5, dimension=8), negatives, **kwargs).double()


def features():
    return torch.randn(4, 3).double(), torch.randn(4, 5).double()


def negatives_of(index, label):
    """Rows that may be drawn against each image."""
    if label is None:
        return [[j for j in range(len(LABELS)) if j != i] for i in index]
    return [[j for j, other in enumerate(LABELS) if other >= 0 and other != y] for y in label]


def naive(anchors, rows, label, log_partition, noise, count):
    """Every negative as often as it would be drawn on average, one after the other."""
    losses = []
    for anchor, own, others in zip(anchors, INDEX, negatives_of(INDEX, label)):
        share = count / (len(rows) if noise == "uniform" else len(others))
        scores = torch.exp(rows @ anchor / TEMPERATURE - log_partition)
        alike = torch.log(scores[own] / (scores[own] + share))
        unlike = torch.stack([torch.log(share / (scores[j] + share)) for j in others])
        losses.append(-(alike + count * unlike.mean()))
    return torch.stack(losses).mean()


with_and_without_label = pytest.mark.parametrize("label", [None, LABEL], ids=["instances", "classes"])
either_noise = pytest.mark.parametrize("noise", ["uniform", "class"])


@either_noise
@with_and_without_label
def test_matches_the_formula(label, noise):
    loss = make(noise=noise)
    inputs = features()
    student, teacher = loss.memory.embed(*inputs)
    expected, partitions = [], []
    for anchors, rows in [(student, loss.memory.teacher_rows), (teacher, loss.memory.student_rows)]:
        means = []
        for anchor, own, others in zip(anchors, INDEX, negatives_of(INDEX, label)):
            scores = torch.exp(rows @ anchor / TEMPERATURE)
            means.append((scores[own] + 6 * scores[others].mean()) / 7)
        partitions.append(torch.log(len(rows) * torch.stack(means).mean()))
        expected.append(naive(anchors, rows, label, partitions[-1], noise, 6))
    value = loss(*inputs, INDEX, label)
    torch.testing.assert_close(loss.log_partition, torch.stack(partitions).detach())
    torch.testing.assert_close(value, sum(expected))


@either_noise
@with_and_without_label
def test_the_default_is_the_mean_over_draws(label, noise):
    loss = make(noise=noise)
    inputs = (*features(), INDEX)
    loss(*inputs, label)
    loss.eval()
    expected = loss(*inputs, label)
    loss.sampled = True
    *many, label = [None if x is None else x.repeat_interleave(100, dim=0) for x in (*inputs, label)]
    draws = torch.stack([loss(*many, label) for _ in range(50)])
    error = draws.std() / len(draws) ** 0.5
    assert 0 < error / expected < 0.005
    assert (draws.mean() - expected).abs() < 3 * error


@with_and_without_label
def test_draws_each_negative_as_often_as_the_others(label):
    loss = make(negatives=5000, sampled=True)
    table = loss._drawn(INDEX, label, None).columns
    assert table[:, 0].equal(INDEX)
    for row, others in zip(table, negatives_of(INDEX, label)):
        drawn, counts = row[1:].unique(return_counts=True)
        assert drawn.tolist() == others
        assert chisquare(counts).pvalue > 1e-3


def test_without_label_classes_do_not_matter():
    values = []
    for labels in (LABELS, torch.full_like(LABELS, -1), torch.arange(8)):
        loss = CRDLoss(ContrastMemory(labels, 3, 5, dimension=8), 6)
        torch.manual_seed(1)
        loss.memory.load_state_dict({**ContrastMemory(labels, 3, 5, dimension=8).state_dict()})
        values.append(loss(torch.rand(4, 3), torch.rand(4, 5), INDEX))
    torch.testing.assert_close(values[1:], [values[0]] * 2)


def test_with_label_it_is_the_class_contrast_of_one_positive():
    inputs = features()
    torch.manual_seed(1)
    crd = make()
    torch.manual_seed(1)
    contrast = ClassContrastiveLoss(ContrastMemory(LABELS, 3, 5, dimension=8), positives=1, negatives=6).double()
    torch.testing.assert_close(crd(*inputs, INDEX, LABEL), contrast(*inputs, LABEL, INDEX), rtol=0, atol=0)


def test_training_tells_images_apart():
    """After it, an image's row is the nearest to its embedding, in the other network's bank."""
    loss = CRDLoss(ContrastMemory([-1] * 16, 6, dimension=12), negatives=64)
    student = torch.randn(16, 6)
    teacher = student @ torch.randn(6, 6)
    optimizer = torch.optim.Adam(loss.parameters(), 0.02)
    index = torch.arange(16)
    values = []
    for _ in range(150):
        optimizer.zero_grad()
        value = loss(student, teacher, index)
        value.backward()
        optimizer.step()
        values.append(value.item())
    ours, theirs = loss.memory.embed(student, teacher)
    assert (ours @ loss.memory.teacher_rows.mT).argmax(dim=1).equal(index)
    assert (theirs @ loss.memory.student_rows.mT).argmax(dim=1).equal(index)
    assert values[-1] < 0.5 * values[0]


def test_a_memory_of_one_image():
    loss = CRDLoss(ContrastMemory([0], 3, dimension=8), 6)
    for sampled in (False, True):
        loss.sampled = sampled
        assert loss(torch.rand(1, 3), torch.rand(1, 3), torch.tensor([0])).isfinite()
