from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from monai_kd.losses import CategoricalRelationLoss, ClassContrastiveLoss, ContrastMemory

TEMPERATURE = 0.07


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def naive(anchors, rows, positives, negatives, log_partition, log_noise=None, eps=0.0):
    """The formula, one score after the other: ``positives[i]`` and ``negatives[i]`` are rows for anchor i."""
    losses = []
    for i, anchor in enumerate(anchors):
        count = len(negatives[i])
        noise = count / len(rows) if log_noise is None else math.exp(log_noise[i])

        def score(j, anchor=anchor):
            return torch.exp(anchor @ rows[j] / TEMPERATURE - log_partition)

        alike = sum(torch.log(score(j) / (score(j) + noise + eps)) for j in positives[i])
        others = sum(torch.log(noise / (score(j) + noise + eps)) for j in negatives[i])
        losses.append(-(alike / len(positives[i]) + others))
    return torch.stack(losses).mean()


# --- values of the released functions, in float64 ---------------------------------------------------------------------

LABELS = [0] * 5 + [1] * 4 + [2] * 3
INDEX = torch.tensor([1, 6, 9, 4])
LABEL = torch.tensor(LABELS)[INDEX]
TABLE = torch.tensor([[3, 2, 5, 9, 11, 7, 9], [5, 8, 0, 1, 2, 10, 11], [10, 11, 4, 4, 6, 8, 0], [0, 3, 6, 6, 9, 10, 5]])
PARTITION = torch.tensor([2050347.9858214012, 1302917.2658985392], dtype=torch.float64)
VALUES = [9.59950805634136, 12.68939596509561]  # from the student, from the teacher


def wave(rows, columns, phase):
    i, j = torch.arange(1, rows + 1).double()[:, None], torch.arange(1, columns + 1).double()
    return F.normalize(torch.sin(0.7 * i * j + phase), dim=1)


def case(**kwargs):
    """Memory, loss and unit features that the heads leave as they are."""
    memory = ContrastMemory(LABELS, 6, dimension=6)
    loss = ClassContrastiveLoss(memory, positives=2, negatives=5, **kwargs).double()
    with torch.no_grad():
        for head in (memory.student_head, memory.teacher_head):
            head.weight.copy_(torch.eye(6))
            head.bias.zero_()
    memory.student_rows.copy_(wave(12, 6, 0.3))
    memory.teacher_rows.copy_(wave(12, 6, 1.1))
    return memory, loss, wave(4, 6, 2.0), wave(4, 6, 2.5)


def directions(loss, student, teacher, label=LABEL, index=INDEX, table=TABLE):
    """Loss and gradient at the embeddings, from the student and from the teacher."""
    compared = loss._drawn(index, label, table) if table is not None else loss._all_rows(index, label)
    memory = loss.memory
    return loss._direction(0, student, memory.teacher_rows, compared), loss._direction(
        1, teacher, memory.student_rows, compared
    )


def exactly(expected):
    """Numbers in float64."""
    return pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_values_of_the_released_functions():
    memory, loss, student, teacher = case()
    (first, first_gradient), (second, second_gradient) = directions(loss, student, teacher)
    assert [first.item(), second.item()] == exactly(VALUES)
    # Without the 1e-7 that the released code adds to a denominator, see below.
    assert first.item() == pytest.approx(9.599509416132816, abs=1e-5)
    assert second.item() == pytest.approx(12.689397329622253, abs=1e-5)
    assert first_gradient.norm().item() == pytest.approx(4.754759506930093, rel=1e-7)
    assert second_gradient.norm().item() == pytest.approx(4.190959801708699, rel=1e-7)
    assert first_gradient.sum().item() == pytest.approx(-5.9552271779742085, rel=1e-7)
    assert second_gradient.sum().item() == pytest.approx(-8.330493557933979, rel=1e-7)
    assert loss.log_partition.tolist() == exactly(PARTITION.log().tolist())
    assert loss(student, teacher, LABEL, INDEX, table=TABLE).item() == exactly(sum(VALUES))
    expected = torch.tensor([0.5057898, -0.08659498, -0.65507996, -0.51987642, 0.01113632, 0.19275044]).double()
    torch.testing.assert_close(memory.student_rows[1], expected, rtol=0, atol=5e-8)  # the page's digits
    assert memory.student_rows.sum().item() == exactly(0.9808627304759805)
    assert memory.teacher_rows.sum().item() == exactly(-2.309454693787565)


def test_released_values_by_the_formula():
    memory, _, student, teacher = case()
    positives, negatives = torch.cat([INDEX[:, None], TABLE[:, 1:]], 1).split([2, 5], dim=1)
    drawn, released = (positives, negatives), [9.599509416132816, 12.689397329622253]
    norms, sums = [4.754759506930093, 4.190959801708699], [-5.9552271779742085, -8.330493557933979]
    for i, (anchors, rows) in enumerate([(student, memory.teacher_rows), (teacher, memory.student_rows)]):
        anchors.requires_grad_()
        assert naive(anchors, rows, *drawn, PARTITION[i].log()).item() == exactly(VALUES[i])
        value = naive(anchors, rows, *drawn, PARTITION[i].log(), eps=1e-7)
        assert value.item() == exactly(released[i])
        (gradient,) = torch.autograd.grad(value, anchors)
        assert gradient.norm().item() == exactly(norms[i])
        assert gradient.sum().item() == exactly(sums[i])


def test_one_anchor_alone():
    """The released code multiplies its positive term by P: 28.04."""
    _, loss, student, teacher = case()
    loss.log_partition.copy_(PARTITION.log())
    (value, _), _ = directions(loss, student[:1], teacher[:1], LABEL[:1], INDEX[:1], TABLE[:1])
    assert value.item() == exactly(14.554087597789872)
    values = [loss.eval()(student[i : i + 1], teacher[i : i + 1], LABEL[i], INDEX[i], TABLE[i, None]) for i in range(4)]
    assert torch.stack(values).mean().item() == exactly(sum(VALUES))


def test_the_expectation_of_the_released_loss():
    _, loss, student, teacher = case()
    loss.log_partition.copy_(PARTITION.log())
    (value, _), _ = directions(loss, student, teacher, table=None)
    assert value.item() == exactly(11.108277959959272)


def test_golden_file():
    """Three steps: both losses, their joint gradient, the banks after each, and Z."""
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("the golden files lie next to $MONAI_KD_DATA, which is not set")
    path = Path(os.environ["MONAI_KD_DATA"]).parent / "golden" / "crckd.npz"
    if not path.is_file():
        pytest.skip(f"no golden file {path}")
    golden = {name: torch.as_tensor(value) for name, value in np.load(path).items()}
    labels = golden["labels_all"]
    memory = ContrastMemory(labels, 24, dimension=16, momentum=golden["nce_m"].item())
    contrast = ClassContrastiveLoss(memory, golden["n_pos"].item(), golden["n_neg"].item(), golden["nce_t"].item())
    relation = CategoricalRelationLoss(memory)
    for head, name in ((memory.student_head, "s"), (memory.teacher_head, "t")):
        head.load_state_dict({key: golden[f"embed_{name}_{key}"] for key in ("weight", "bias")})
    memory.student_rows.copy_(golden["memory_s_0"])
    memory.teacher_rows.copy_(golden["memory_t_0"])
    for step in range(3):
        student, teacher = golden[f"f_s_{step}"].requires_grad_(), golden[f"f_t_{step}"]
        index = golden[f"idx_{step}"]
        first = contrast(student, teacher, labels[index], index, table=golden[f"contrast_idx_{step}"])
        second = relation(student, teacher)
        (first + second).backward()
        assert first.item() == pytest.approx(golden[f"ccd_{step}"].item(), rel=1e-5)
        assert second.item() == pytest.approx(golden[f"crp_{step}"].item(), rel=1e-5)
        torch.testing.assert_close(student.grad, golden[f"grad_f_s_{step}"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(memory.student_rows, golden[f"memory_s_{step + 1}"], rtol=0, atol=1e-6)
        torch.testing.assert_close(memory.teacher_rows, golden[f"memory_t_{step + 1}"], rtol=0, atol=1e-6)
    partition = torch.stack([golden["z_s"], golden["z_t"]])
    torch.testing.assert_close(contrast.log_partition.exp(), partition, rtol=1e-5, atol=0)


# --- the formula ------------------------------------------------------------------------------------------------------

UNEVEN = torch.tensor([3, 7, 3, -1, 7, 7, 3, 9, -1, 7, 3])  # classes need not start at 0; 9 has one image


def random_case(labels=UNEVEN, positives=3, negatives=6, **kwargs):
    memory = ContrastMemory(labels, 5, 7, dimension=8)
    return ClassContrastiveLoss(memory, positives, negatives, **kwargs).double()


def features(batch=4):
    return torch.randn(batch, 5, dtype=torch.float64), torch.randn(batch, 7, dtype=torch.float64)


@pytest.mark.parametrize("noise", ["uniform", "class"])
def test_matches_the_formula(noise):
    loss = random_case(noise=noise)
    index = torch.tensor([0, 9, 7, 4])
    label, table = UNEVEN[index], torch.randint(11, (4, 9))
    student, teacher = loss.memory.embed(*features())
    tables = torch.cat([index[:, None], table[:, 1:]], 1)
    positives, negatives = tables.split([3, 6], dim=1)
    others = [int(((UNEVEN >= 0) & (y != UNEVEN)).sum()) for y in label]
    log_noise = None if noise == "uniform" else [math.log(6 / n) for n in others]
    for which, (anchors, rows) in enumerate([(student, loss.memory.teacher_rows), (teacher, loss.memory.student_rows)]):
        scores = torch.stack([rows[tables[i]] @ anchor for i, anchor in enumerate(anchors)]) / TEMPERATURE
        log_partition = torch.log(11 * scores.exp().mean())
        value = directions(loss, student.detach(), teacher.detach(), label, index, table)[which][0]
        assert loss.log_partition[which].item() == exactly(log_partition.item())
        expected = naive(anchors, rows, positives, negatives, log_partition, log_noise)
        assert value.item() == exactly(expected.item())


@pytest.mark.parametrize("noise", ["uniform", "class"])
def test_the_default_is_the_mean_over_draws(noise):
    """Within the accuracy of the mean of many draws; an image of a class of one, and of none, among the anchors."""
    loss = random_case(noise=noise)
    index = torch.tensor([0, 9, 7, 3])
    inputs = (*features(), UNEVEN[index], index)
    loss(*inputs)
    loss.eval()
    expected = loss(*inputs)
    loss.sampled = True
    many = [x.repeat_interleave(100, dim=0) for x in inputs]
    draws = torch.stack([loss(*many) for _ in range(50)])
    error = draws.std() / len(draws) ** 0.5
    assert 0 < error / expected < 0.005
    assert (draws.mean() - expected).abs() < 3 * error


def test_partition_of_the_default_is_the_mean_over_draws():
    loss = random_case()
    index = torch.tensor([0, 9, 7, 4])
    student = loss.memory.embed(*features())[0].detach()
    rows = loss.memory.teacher_rows

    def partition(compared, student):
        logits = student @ rows.mT / TEMPERATURE
        logits = logits if compared.columns is None else logits.gather(1, compared.columns)
        return loss._log_partition(logits, compared.positive * 3 + compared.negative).exp()

    expected = partition(loss._all_rows(index, UNEVEN[index]), student)
    student, many = student.repeat_interleave(100, dim=0), index.repeat_interleave(100)
    draws = torch.stack([partition(loss._drawn(many, UNEVEN[many], None), student) for _ in range(50)])
    error = draws.std() / len(draws) ** 0.5
    assert 0 < error / expected < 0.01
    assert (draws.mean() - expected).abs() < 3 * error


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_what_is_drawn():
    loss = random_case(positives=40, negatives=500, sampled=True)
    index = torch.tensor([2, 9, 7])
    table = loss._drawn(index, UNEVEN[index], None).columns
    assert table[:, 0].equal(index)
    for row, own, label in zip(table, index, UNEVEN[index]):
        positives, negatives = row[:40], row[40:]
        alike = torch.nonzero(label == UNEVEN).flatten()
        others = torch.nonzero((UNEVEN >= 0) & (label != UNEVEN)).flatten()
        assert positives.unique().equal(alike)  # its own class, each image
        assert positives[0] == own
        assert negatives.unique().equal(others)  # other classes, none of unknown class


def test_draws_are_uniform():
    loss = random_case(positives=4001, negatives=4000, sampled=True)
    index = torch.tensor([0, 9])
    table = loss._drawn(index, UNEVEN[index], None).columns
    for row in table:
        for drawn in (row[1:4001], row[4001:]):
            _, counts = drawn.unique(return_counts=True)
            assert len(counts) > 1
            assert chisquare(counts).pvalue > 1e-3
    assert not table[0].equal(loss._drawn(index, UNEVEN[index], None).columns[0])


def test_an_image_of_unknown_class_has_no_positive_but_itself():
    loss = random_case(positives=3, negatives=50)
    index = torch.tensor([3, 8])
    table = loss._drawn(index, UNEVEN[index], None).columns
    assert table[:, :3].equal(index[:, None].expand(2, 3))
    assert table[:, 3:].unique().equal(torch.nonzero(UNEVEN >= 0).flatten())
    positive = loss._all_rows(index, UNEVEN[index]).positive
    torch.testing.assert_close(positive, F.one_hot(index, len(UNEVEN)).double())


def test_images_of_unknown_class_count_for_nobody_else():
    loss = random_case()
    index = torch.tensor([0, 7])
    compared = loss._all_rows(index, UNEVEN[index])
    unknown = UNEVEN < 0
    assert not (compared.positive + compared.negative)[:, unknown].any()
    torch.testing.assert_close(compared.positive.sum(dim=1), torch.ones(2).double())
    torch.testing.assert_close(compared.negative.sum(dim=1), torch.full((2,), 6.0).double())


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("labels", [[4, 4, 4], [-1, 4, -1]], ids=["one class", "one image of a class"])
@pytest.mark.parametrize("noise", ["uniform", "class"])
def test_without_negatives_only_positives_count(labels, sampled, noise):
    loss = random_case(labels, sampled=sampled, noise=noise)
    index = torch.tensor([1, 1])
    student, teacher = (x.requires_grad_() for x in features(2))
    value = loss(student, teacher, torch.tensor([4, 4]), index)
    value.backward()
    assert value > 0
    assert student.grad.isfinite().all()
    assert loss.log_partition.isfinite().all()
    compared = (
        loss._drawn(index, torch.tensor([4, 4]), None) if sampled else loss._all_rows(index, torch.tensor([4, 4]))
    )
    assert not compared.negative.any()


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("wrong", [0, 5, 100])
def test_a_class_that_is_not_the_memorys_is_refused(wrong, sampled):
    """An image would be its own positive and negative, or have neither."""
    loss, index = random_case(sampled=sampled), torch.tensor([2, 7])
    label = loss.memory.labels[index].clone()
    assert loss(*features(2), label, index).isfinite()
    before = loss.memory.student_rows.clone()
    label[1] = wrong if label[1] != wrong else wrong + 1
    with pytest.raises(ValueError, match=rf"classes of the batch are not those of the memory: got .*{int(label[1])}\]"):
        loss(*features(2), label, index)
    assert torch.equal(loss.memory.student_rows, before)


def test_draws_for_large_banks_only():
    assert not ClassContrastiveLoss(ContrastMemory([0, 1] * 50_000, 1, dimension=1)).sampled
    large = ContrastMemory([0, 1] * 50_001, 1, dimension=1)
    assert ClassContrastiveLoss(large).sampled
    assert not ClassContrastiveLoss(large, sampled=False).sampled
