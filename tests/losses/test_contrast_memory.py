from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from monai.engines import SupervisedTrainer
from torch import nn

from monai_kd._processes import alone
from monai_kd.distiller import DistillationTerm, Distiller
from monai_kd.handlers import DistillationHandler
from monai_kd.losses import CategoricalRelationLoss, ClassContrastiveLoss, ContrastMemory
from monai_kd.teachers import FrozenTeacher

LABELS = [3, 7, 3, -1, 7, 7, 3, 9]  # 9 has one image; classes need not start at 0


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(**kwargs):
    return ContrastMemory(LABELS, **{"student_channels": 3, "teacher_channels": 5, "dimension": 8, **kwargs})


def embeddings(count):
    return F.normalize(torch.randn(2, count, 8), dim=2)


def banks(memory):
    return torch.stack([memory.student_rows, memory.teacher_rows]).clone()


# --- the rows before the first update ---------------------------------------------------------------------------------


def test_rows_start_at_unit_length_on_average():
    rows = ContrastMemory([0] * 2000, 1, dimension=64).student_rows
    assert rows.norm(dim=1).square().mean().item() == pytest.approx(1, abs=0.01)
    assert rows.abs().max() <= (3 / 64) ** 0.5
    assert rows.mean().abs() < 1e-3


def test_rows_come_of_the_seed_alone():
    first = banks(make())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert banks(make()).equal(first)
    assert not banks(make(seed=1)).equal(first)
    assert not first[0].equal(first[1])
    torch.manual_seed(1)
    assert torch.get_rng_state().equal(before)


# --- embeddings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spatial", [(), (5, 6), (3, 4, 5)])
def test_embeddings_are_unit_vectors_of_the_mean(spatial):
    memory = make()
    student, teacher = torch.randn(4, 3, *spatial), torch.randn(4, 5, *spatial)
    for embedding, head, x in zip(
        memory.embed(student, teacher), (memory.student_head, memory.teacher_head), (student, teacher)
    ):
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(4))
        pooled = x.mean(dim=tuple(range(2, x.ndim))) if spatial else x
        torch.testing.assert_close(embedding, F.normalize(head(pooled), dim=1))


def test_teacher_channels_are_the_students_by_default():
    assert ContrastMemory([0], 7).teacher_head.in_features == 7


# --- update -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_a_row_becomes_the_direction_of_the_moving_average(momentum):
    memory = make(momentum=momentum)
    before, new = banks(memory), embeddings(2)
    memory.update(torch.tensor([6, 1]), *new)
    after = banks(memory)
    expected = F.normalize(momentum * before[:, [6, 1]] + (1 - momentum) * new, dim=2)
    torch.testing.assert_close(after[:, [6, 1]], expected)
    others = [0, 2, 3, 4, 5, 7]
    assert after[:, others].equal(before[:, others])


def test_of_an_image_that_occurs_twice_the_last_one_counts():
    memory, alone = make(), make()
    new = embeddings(5)
    memory.update(torch.tensor([2, 4, 2, 0, 2]), *new)
    alone.update(torch.tensor([4, 0, 2]), *new[:, [1, 3, 4]])
    torch.testing.assert_close(banks(memory), banks(alone), rtol=0, atol=0)
    torch.testing.assert_close(banks(memory)[:, 2].norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    ("index", "kept"),
    [
        ([-1, 5, -1], [1]),
        ([5, -1, -1], [0]),
        ([-1, -1, 0], [2]),
        ([0, -1, 0], [0, 2]),
        ([-1, -1, -1], []),
        ([-1, 7, 0], [1, 2]),
    ],
)
def test_an_image_without_a_row_writes_nothing(index, kept):
    memory, alone = make(), make()
    new = embeddings(3)
    memory.update(torch.tensor(index), *new)
    if kept:
        alone.update(torch.tensor(index)[kept], *new[:, kept])
    torch.testing.assert_close(banks(memory), banks(alone), rtol=0, atol=0)


def test_an_embedding_that_is_not_finite_writes_nothing():
    memory, alone = make(), make()
    new = embeddings(4)
    new[0, 1, 2], new[1, 2, 0] = float("nan"), float("inf")
    memory.update(torch.tensor([0, 2, 4, 6]), *new)
    alone.update(torch.tensor([0, 2, 4, 6]), *embeddings(4))
    after, before = banks(memory), banks(make())
    assert after.isfinite().all()
    assert after[0, 2].equal(before[0, 2])
    assert after[1, 4].equal(before[1, 4])
    assert not after[1, 2].equal(before[1, 2])  # the other network's is written
    assert not after[0, 4].equal(before[0, 4])


def test_update_takes_no_gradient():
    memory = make()
    student, teacher = memory.embed(torch.rand(2, 3), torch.rand(2, 5))
    memory.update(torch.tensor([0, 3]), student, teacher)
    assert student.requires_grad
    assert not memory.student_rows.requires_grad


def test_update_errors():
    memory = make()
    for index, message in [
        ([8, 0], r"outside the memory's 8 training images: got \[8, 0\]"),
        ([-2, 0], r"outside the memory's 8 training images: got \[-2, 0\]"),
        ([0], r"expected one integer index an image, 2 in all; got \(1,\) of torch.int64"),
        ([0.0, 1.0], r"expected one integer index an image, 2 in all; got \(2,\) of torch.float32"),
    ]:
        with pytest.raises(ValueError, match=message):
            memory.update(torch.tensor(index), *embeddings(2))


# --- centroids --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rectify", [True, False])
def test_centroids_are_directions_of_class_means(rectify):
    memory = make()
    for found, rows in zip(memory.centroids(rectify), banks(memory)):
        rows = rows.clamp(min=0) if rectify else rows
        means = [rows[torch.tensor(LABELS) == c].mean(dim=0) for c in (3, 7, 9)]
        torch.testing.assert_close(found, torch.stack([mean / mean.norm() for mean in means]))


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels", [[], [[0, 1]], [0.0, 1.0], [True, False], [0, -2], torch.zeros(2, 3, dtype=torch.long)]
)
def test_labels_that_are_no_classes(labels):
    with pytest.raises(ValueError, match=r"labels are one class 0, 1, ... for each training image"):
        ContrastMemory(labels, 3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"student_channels": 0}, "channels and dimension must be 1 or more, got 0, 5, 8"),
        ({"teacher_channels": 0}, "channels and dimension must be 1 or more, got 3, 0, 8"),
        ({"dimension": 0}, "channels and dimension must be 1 or more, got 3, 5, 0"),
        ({"momentum": 1.0}, "momentum must be 0 or more and below 1, got 1.0"),
        ({"momentum": -0.1}, "momentum must be 0 or more and below 1"),
        ({"momentum": float("nan")}, "momentum must be 0 or more and below 1"),
    ],
)
def test_arguments_out_of_range(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_rows_of_other_images_are_not_loaded():
    memory = make()
    make().load_state_dict(memory.state_dict())
    loss = CategoricalRelationLoss(ContrastMemory(LABELS[::-1], 3, 5, dimension=8))
    with pytest.raises(RuntimeError, match="the 8 rows of memory are of images with other classes: resume with the"):
        loss.load_state_dict(CategoricalRelationLoss(memory).state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for labels"):
        ContrastMemory(LABELS[1:], 3, 5, dimension=8).load_state_dict(memory.state_dict())


def test_labels_of_the_caller_stay_his():
    labels = torch.tensor(LABELS)
    memory = ContrastMemory(labels, 3)
    labels += 1
    assert memory.labels.tolist() == LABELS


# --- in training ------------------------------------------------------------------------------------------------------


class Network(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.Tanh())
        self.head = nn.Linear(channels, 3)

    def forward(self, x):
        return self.head(self.body(x).mean(dim=(2, 3)))


def test_two_losses_share_a_memory_in_a_trainer():
    """The task counts nothing: only distillation can move the student."""
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    student, teacher = Network(3), Network(5)
    memory = ContrastMemory(labels, 3, 5, dimension=8)
    terms = [
        DistillationTerm(
            "contrast", ClassContrastiveLoss(memory, 2, 8), "body", "body", 0.1, {"label": "label", "index": "index"}
        ),
        DistillationTerm("relation", CategoricalRelationLoss(memory), "body", "body"),
    ]
    distiller = Distiller(student, FrozenTeacher(teacher), terms, input_shape=(2, 1, 6, 6))
    heads = [*memory.student_head.parameters(), *memory.teacher_head.parameters()]
    assert {id(p) for p in distiller.parameters()} == {id(p) for p in heads}
    assert len(list(distiller.parameters())) == len(heads)

    loader = [
        {"image": torch.randn(3, 1, 6, 6), "label": labels[index], "index": index}
        for index in (torch.tensor([1, 5, 8]), torch.tensor([5, 0, 2]))
    ]
    before, start = banks(memory), copy.deepcopy([student, memory])
    optimizer = torch.optim.SGD([*student.parameters(), *distiller.parameters()], 0.1)
    handler = DistillationHandler(distiller, task_weight=0.0)
    SupervisedTrainer("cpu", 1, loader, student, optimizer, nn.CrossEntropyLoss(), train_handlers=[handler]).run()

    changed = (banks(memory) != before).any(dim=2)
    assert changed.equal(torch.tensor([i in (0, 1, 2, 5, 8) for i in range(10)]).expand(2, -1))
    moved = [not p.equal(q) for p, q in zip(student.body.parameters(), start[0].body.parameters())]
    assert all(moved)
    assert student.head.weight.equal(start[0].head.weight)
    assert all(not p.equal(q) for p, q in zip(memory.parameters(), start[1].parameters()))

    names = [name for name in distiller.state_dict() if name.endswith("student_rows")]
    other = ContrastMemory(labels, 3, 5, dimension=8, seed=1)
    contrast = ClassContrastiveLoss(other, 2, 8)
    again = Distiller(
        student,
        FrozenTeacher(teacher),
        [
            DistillationTerm("contrast", contrast, "body", "body", 0.1, terms[0].batch),
            DistillationTerm("relation", CategoricalRelationLoss(other), "body", "body"),
        ],
    )
    again.load_state_dict(distiller.state_dict())
    assert len(names) == 2
    assert banks(other).equal(banks(memory))
    assert contrast.log_partition.equal(terms[0].loss.log_partition)


def test_images_without_a_label_write_no_row():
    labels = torch.tensor([0, 1, 2, 0, -1])
    memory = ContrastMemory(labels, 3, dimension=8)
    network = Network(3)
    term = DistillationTerm(
        "contrast", ClassContrastiveLoss(memory, 2, 8), "body", "body", 1.0, {"label": "label", "index": "index"}
    )
    distiller = Distiller(network, FrozenTeacher(Network(3)), [term])
    index = torch.tensor([1, 4, 3])
    batch = {
        "image": torch.randn(3, 1, 6, 6),
        "label": torch.tensor([1, 0, 0]),
        "index": index,
        "has_label": torch.tensor([True, False, True]),
    }
    before = banks(memory)
    distiller({"body": network.body(batch["image"])}, batch)
    changed = (banks(memory) != before).any(dim=2)
    assert changed.equal(torch.tensor([[False, True, False, True, False]] * 2))


# --- two processes ----------------------------------------------------------------------------------------------------


def _steps():
    """Two batches of 8 that share images, within and between the processes."""
    generator = torch.Generator().manual_seed(0)
    for index in ([0, 1, 2, 2, 4, 2, 7, 0], [7, 6, 7, 5, 5, 4, 2, 7]):
        student, teacher = (torch.randn(8, channels, generator=generator) for channels in (3, 5))
        yield student, teacher, torch.tensor(index)


def _losses():
    torch.manual_seed(0)
    memory = make()
    return ClassContrastiveLoss(memory, 2, 6), CategoricalRelationLoss(memory)


def _remember(losses, share=slice(None)):
    values = []
    for student, teacher, index in _steps():
        label = torch.tensor(LABELS)[index]
        values.append(losses[0](student[share], teacher[share], label[share], index[share]))
        values.append(losses[1](student[share], teacher[share]))
    return {**losses[0].state_dict(), "losses": torch.stack(values).detach()}


def _process(rank, folder):
    torch.set_num_threads(1)
    torch.save(_remember(_losses(), slice(4 * rank, 4 * rank + 4)), f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_processes_remember_what_one_does(tmp_path, in_processes):
    expected = _remember(_losses())
    in_processes(_process)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    losses = [one.pop("losses") for one in found]
    torch.testing.assert_close(sum(losses) / 2, expected.pop("losses"))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)


def test_processes_do_not_gather_items_of_which_each_may_have_another_number(monkeypatch):
    monkeypatch.setattr("monai_kd.losses.contrast_memory.processes", lambda: 2)
    memory = make()
    with alone(), pytest.raises(ValueError, match=r"images count they may differ\. Leave that key out"):
        memory.update(torch.tensor([0]), torch.zeros(1, 4), torch.zeros(1, 4))


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_other_channels_than_the_memorys_are_refused(side):
    memory = ContrastMemory([0, 1], student_channels=8, teacher_channels=6)
    shapes = {"student": (2, 8), "teacher": (2, 6), side: (2, 5, 3, 3)}
    with pytest.raises(ValueError, match=rf"channels of the {side}, got features \(2, 5\): set {side}_channels"):
        memory.embed(torch.rand(shapes["student"]), torch.rand(shapes["teacher"]))
