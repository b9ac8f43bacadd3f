from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_kd import testing
from monai_kd.losses import (
    FusionHintLoss,
    FusionSoftTargetLoss,
    FusionTaskLoss,
    MultiTeacherAttentionFusion,
    NormalizedHintLoss,
    SoftTargetLoss,
)

CHANNELS, CLASSES = (6, 4), 3
both_queries = pytest.mark.parametrize("query", ["teachers", "student"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def fusion_for(query="teachers"):
    return MultiTeacherAttentionFusion(CHANNELS, CLASSES, dimension=8, num_heads=2, positions=(2, 3), query=query)


def inputs(count=4):
    """The student's map and logits, the teachers' maps, the label; all ask for a gradient that can."""
    student = [torch.randn(count, 8, 2, 3), torch.randn(count, CLASSES)]
    teachers = [torch.randn(count, c, 2, 3) for c in CHANNELS]
    return [x.requires_grad_() for x in student], [x.requires_grad_() for x in teachers], torch.arange(count) % CLASSES


def losses_of(fusion, student, teachers, label):
    return {
        "task": FusionTaskLoss(fusion)(student[0], teachers, label),
        "hint": FusionHintLoss(fusion)(student[0], teachers),
        "soft_target": FusionSoftTargetLoss(fusion, 2.0)(student, teachers),
    }


@both_queries
@pytest.mark.parametrize("count", [1, 4])
def test_values(query, count):
    fusion = fusion_for(query)
    student, teachers, label = inputs(count)
    losses = losses_of(fusion, student, teachers, label)
    fused = fusion(student[0], teachers)
    q = fusion.head(fused.mean((2, 3)))
    torch.testing.assert_close(losses["task"], F.cross_entropy(q, label))
    torch.testing.assert_close(losses["hint"], NormalizedHintLoss()(student[0], fused))
    torch.testing.assert_close(losses["soft_target"], SoftTargetLoss(2.0)(student[1], q))


@both_queries
def test_who_learns(query):
    """The fusion from its task alone, the student from the other two alone, the teachers from nothing."""
    reached = {"task": ["fusion"], "hint": ["features"], "soft_target": ["logits"]}
    for name, expected in reached.items():
        fusion = fusion_for(query)
        student, teachers, label = inputs()
        losses_of(fusion, student, teachers, label)[name].backward()
        assert [x.grad for x in teachers] == [None, None]
        got = {"fusion": fusion.head.weight.grad, "features": student[0].grad, "logits": student[1].grad}
        assert [key for key, gradient in got.items() if gradient is not None and gradient.any()] == expected
        learning = {p.grad is not None and bool(p.grad.any()) for p in fusion.parameters()}
        assert learning == {name == "task"}


def test_targets_of_the_student_keep_no_graph():
    fusion, graphs = fusion_for(), []
    fusion.attention.register_forward_hook(lambda *_: graphs.append(torch.is_grad_enabled()))
    losses_of(fusion, *inputs())
    assert graphs == [True, False, False]


def test_the_fusion_learns_its_task():
    """Only the second teacher knows the class, at one position."""
    fusion, count = fusion_for(), 12
    label = torch.arange(count) % CLASSES
    teachers = [torch.randn(count, c, 2, 3) for c in CHANNELS]
    teachers[1][:, :CLASSES, 1, 2] += 6 * F.one_hot(label, CLASSES)
    loss, optimizer = FusionTaskLoss(fusion), torch.optim.Adam(fusion.parameters(), 0.02)
    values = []
    for _ in range(40):
        value = loss(torch.zeros(count, 8, 2, 3), teachers, label)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.1 * values[0]


def test_the_trainers_own_loss_can_train_the_fusion():
    fusion = fusion_for()
    (features, _), teachers, _ = inputs()
    label = torch.randint(2, (4, CLASSES)).float()
    value = FusionTaskLoss(fusion, nn.BCEWithLogitsLoss())(features, teachers, label)
    expected = F.binary_cross_entropy_with_logits(fusion.logits(fusion(None, teachers)), label)
    torch.testing.assert_close(value, expected)


def test_float32_under_autocast():
    fusion = fusion_for()
    student, teachers, label = inputs()
    expected = losses_of(fusion, student, teachers, label)
    with torch.autocast("cpu", torch.bfloat16):
        values = losses_of(fusion, student, teachers, label)
    for name, value in values.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name])
    testing.assert_half_precision_safe(lambda s, t: FusionHintLoss(fusion)(s, [t, teachers[1]]),
                                       student[0].detach(), teachers[0].detach())  # fmt: skip


@pytest.mark.parametrize("shape", [(4, 8, 4, 6), (4, 9, 2, 3)])
def test_the_student_must_have_the_fusions_shape(shape):
    _, teachers, _ = inputs()
    with pytest.raises(ValueError, match=r"\('B', 8, 2, 3\), got \(4, .*'positions', or give the term an adapter"):
        FusionHintLoss(fusion_for())(torch.randn(shape), teachers)


def test_temperature_is_checked():
    with pytest.raises(ValueError, match="temperature must be positive"):
        FusionSoftTargetLoss(fusion_for(), 0.0)
