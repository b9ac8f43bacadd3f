from __future__ import annotations

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor

from monai_kd import testing
from monai_kd.losses import CategoricalRelationLoss, ClassContrastiveLoss, ContrastMemory

TEMPERATURE = 0.07
LABELS = torch.tensor([3, 7, 3, -1, 7, 7, 3, 9])  # 9 has one image; classes need not start at 0
INDEX = torch.tensor([0, 7, 3, 4])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(**kwargs):
    return CategoricalRelationLoss(ContrastMemory(LABELS, 3, 5, dimension=8), **kwargs)


def features(spatial=()):
    return torch.randn(4, 3, *spatial), torch.randn(4, 5, *spatial)


def naive(student, teacher, student_rows, teacher_rows, labels, rectify):
    """One image and class after the other."""
    classes = sorted({int(y) for y in labels if y >= 0})

    def relation(embedding, rows):
        rows = rows.clamp(min=0) if rectify else rows
        means = [torch.stack([row for row, y in zip(rows, labels) if y == c]).mean(dim=0) for c in classes]
        return torch.stack([embedding @ mean / mean.norm() for mean in means]) / TEMPERATURE

    losses = []
    for ours, theirs in zip(student, teacher):
        p, q = relation(theirs, teacher_rows).softmax(dim=0), relation(ours, student_rows).softmax(dim=0)
        losses.append((p * (p / q).log()).sum())
    return torch.stack(losses).mean()


def wave(rows, columns, phase):
    i, j = torch.arange(1, rows + 1).double()[:, None], torch.arange(1, columns + 1).double()
    return F.normalize(torch.sin(0.7 * i * j + phase), dim=1)


def test_values_of_the_released_functions():
    memory = ContrastMemory([0] * 5 + [1] * 4 + [2] * 3, 6, dimension=6).double()
    with torch.no_grad():
        for head in (memory.student_head, memory.teacher_head):
            head.weight.copy_(torch.eye(6))
            head.bias.zero_()
    memory.student_rows.copy_(wave(12, 6, 0.3))
    memory.teacher_rows.copy_(wave(12, 6, 1.1))
    inputs = wave(4, 6, 2.0), wave(4, 6, 2.5)
    released, plain = CategoricalRelationLoss(memory), CategoricalRelationLoss(memory, rectify=False)
    assert released(*inputs).item() == pytest.approx(1.0177894809212167, rel=1e-9)  # of the banks before the batch
    memory.update(torch.tensor([1, 6, 9, 4]), *inputs)
    assert released(*inputs).item() == pytest.approx(0.9495041899314771, rel=1e-9)
    assert plain(*inputs).item() == pytest.approx(1.0362393827469116, rel=1e-9)


@pytest.mark.parametrize("rectify", [True, False])
def test_matches_the_formula(rectify):
    loss = make(rectify=rectify).double()
    inputs = [x.double() for x in features((4, 5))]
    memory = loss.memory
    expected = naive(*memory.embed(*inputs), memory.student_rows, memory.teacher_rows, LABELS, rectify)
    torch.testing.assert_close(loss(*inputs), expected)


@pytest.mark.parametrize("spatial", [(), (5, 6), (3, 4, 5)])
def test_laws(spatial):
    testing.check_loss(make(), *features(spatial))


def test_gradient():
    loss = make().double()
    student, teacher = (x.double() for x in features((2,)))
    heads = list(loss.memory.student_head.parameters())
    assert torch.autograd.gradcheck(lambda student, *_: loss(student, teacher), (student.requires_grad_(), *heads))


def test_no_gradient_to_the_teachers_side():
    loss = make()
    student, teacher = (x.requires_grad_() for x in features())
    loss(student, teacher).backward()
    memory = loss.memory
    assert student.grad.abs().sum(dim=1).gt(0).all()
    assert teacher.grad is None
    assert all(p.grad.any() for p in memory.student_head.parameters())
    assert all(p.grad is None for p in memory.teacher_head.parameters())
    assert not any(buffer.requires_grad for buffer in memory.buffers())


def test_zero_where_both_networks_agree():
    memory = ContrastMemory(LABELS, 3, dimension=8)
    memory.teacher_head.load_state_dict(memory.student_head.state_dict())
    memory.teacher_rows.copy_(memory.student_rows)
    testing.assert_zero_at_equality(CategoricalRelationLoss(memory), torch.randn(4, 3))


def test_a_class_counts_once_however_many_images_it_has():
    memory = ContrastMemory([0, 1, 2], 3, 5, dimension=8)
    several = ContrastMemory([0, 2, 2, 1, 2], 3, 5, dimension=8)
    for name in ("student_rows", "teacher_rows"):
        getattr(several, name).copy_(getattr(memory, name)[several.labels])
    several.student_head, several.teacher_head = memory.student_head, memory.teacher_head
    inputs = features()
    torch.testing.assert_close(CategoricalRelationLoss(several)(*inputs), CategoricalRelationLoss(memory)(*inputs))


def test_a_class_whose_rows_have_no_positive_entry():
    """Its centroid is 0, not 0 / 0."""
    loss = make()
    loss.memory.student_rows[LABELS == 7] = -1.0
    student, teacher = features()
    value = loss(student.requires_grad_(), teacher)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_nothing_is_written_unless_asked_for():
    loss = make()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss(*features(), INDEX)
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0)


def test_writes_first_in_training():
    inputs = features()
    loss = make(writes=True)
    other = CategoricalRelationLoss(copy.deepcopy(loss.memory))
    before = loss.memory.student_rows.clone()
    loss.eval()(*inputs, INDEX)
    assert loss.memory.student_rows.equal(before)
    value = loss.train()(*inputs, INDEX)
    other.memory.update(INDEX, *other.memory.embed(*inputs))
    torch.testing.assert_close(value, other(*inputs))
    torch.testing.assert_close(loss.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert not loss.memory.student_rows.equal(before)


def test_writes_what_the_contrast_writes():
    inputs = features()
    relation = make(writes=True)
    contrast = ClassContrastiveLoss(copy.deepcopy(relation.memory), 2, 4)
    relation(*inputs, INDEX)
    contrast(*inputs, LABELS[INDEX], INDEX)
    torch.testing.assert_close(relation.memory.state_dict(), contrast.memory.state_dict(), rtol=0, atol=0)


def test_double_and_half_precision():
    inputs = features((2, 2))
    assert make().double()(*(x.double() for x in inputs)).dtype == torch.float64
    loss = make(writes=True)
    other = copy.deepcopy(loss)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*(x.bfloat16() for x in inputs), INDEX)
    torch.testing.assert_close(value, other(*(x.bfloat16().float() for x in inputs), INDEX), rtol=0, atol=0)
    torch.testing.assert_close(loss.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_features_that_are_not_finite_show_in_the_loss_alone():
    loss = make(writes=True)
    student, teacher = features()
    student[1, 1] = float("nan")
    assert loss(student, teacher, INDEX).isnan()
    assert loss(*features(), INDEX).isfinite()


def test_monai_tensors():
    inputs = features((2, 2))
    loss = make()
    value = loss(*map(MetaTensor, inputs))
    assert type(value) is torch.Tensor
    torch.testing.assert_close(value, loss(*inputs))


def test_never_waits_for_the_device(monkeypatch):
    """A tensor without values cannot be read on the host."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # knows no meta device
    loss = make(writes=True).to("meta")
    student, teacher = (x.to("meta") for x in features((4,)))
    loss(student.requires_grad_(), teacher, INDEX.to("meta")).backward()
    assert student.grad.shape == student.shape


def test_messages():
    with pytest.raises(ValueError, match="relations to classes need two classes with images, got 1"):
        CategoricalRelationLoss(ContrastMemory([3, 3, -1], 3))
    with pytest.raises(ValueError, match="temperature must be positive"):
        make(temperature=0.0)
    with pytest.raises(ValueError, match=r"needs index: set batch=\{'index': 'index'\}"):
        make(writes=True)(*features())
    with pytest.raises(ValueError, match="an index is outside the memory's 8 training images"):
        make(writes=True)(*features(), INDEX + 5)
