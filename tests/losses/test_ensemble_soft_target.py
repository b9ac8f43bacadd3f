from __future__ import annotations

import math

import pytest
import torch

from monai_kd import testing
from monai_kd.losses import EnsembleSoftTargetLoss, SoftTargetLoss
from monai_kd.losses.ensemble_soft_target import ensemble_logits

SHAPES = [(4, 3), (4, 3, 5, 4), (4, 3, 4, 3, 2)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["classification", "2D", "3D"])
both_forms = pytest.mark.parametrize("sigmoid", [False, True], ids=["softmax", "sigmoid"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def softmax(z):
    total = sum(math.exp(v) for v in z)
    return [math.exp(v) / total for v in z]


def naive(student, teachers, temperature, weights, sigmoid):
    """Probabilities, their mean, then the divergence, position by position."""
    total, count = 0.0, 0
    tables = [x.movedim(1, -1).reshape(-1, x.shape[1]).tolist() for x in (student, *teachers)]
    for s, *ts in zip(*tables):
        s, *ts = ([v / temperature for v in z] for z in (s, *ts))
        questions = [([0.0, s[c]], [[0.0, t[c]] for t in ts]) for c in range(len(s))] if sigmoid else [(s, ts)]
        for ours, theirs in questions:
            p, qs = softmax(ours), [softmax(t) for t in theirs]
            q = [sum(w * one[c] for w, one in zip(weights, qs)) / sum(weights) for c in range(len(p))]
            total += sum(b * math.log(b / a) for a, b in zip(p, q))
            count += 1
    return total / count * temperature**2


@both_forms
@every_shape
@pytest.mark.parametrize("weights", [None, (3.0, 1.0, 2.0)])
def test_matches_the_formula(shape, sigmoid, weights):
    student, *teachers = 2 * torch.randn(4, *shape)
    value = EnsembleSoftTargetLoss(2.0, weights, sigmoid)(student, teachers).item()
    assert value == pytest.approx(naive(student, teachers, 2.0, weights or (1, 1, 1), sigmoid), rel=1e-4)


@both_forms
@every_shape
def test_one_teacher_or_equal_ones_give_soft_targets(shape, sigmoid):
    student, teacher = torch.randn(2, *shape)
    expected = SoftTargetLoss(4.0, sigmoid)(student, teacher)
    for teachers in (teacher, [teacher], [teacher] * 3):
        torch.testing.assert_close(EnsembleSoftTargetLoss(4.0, sigmoid=sigmoid)(student, teachers), expected)
    value = EnsembleSoftTargetLoss(4.0, [1, 0], sigmoid)(student, [teacher, torch.randn(shape)])
    torch.testing.assert_close(value, expected)


@both_forms
@every_shape
def test_the_order_of_teachers_does_not_count(shape, sigmoid):
    student, a, b, c = torch.randn(4, *shape)
    torch.testing.assert_close(
        EnsembleSoftTargetLoss(weights=[1, 2, 5], sigmoid=sigmoid)(student, [a, b, c]),
        EnsembleSoftTargetLoss(weights=[5, 1, 2], sigmoid=sigmoid)(student, [c, a, b]),
    )


@both_forms
@every_shape
def test_gradient_is_the_mean_over_single_teachers(shape, sigmoid):
    student, *teachers = torch.randn(4, *shape, dtype=torch.float64)
    student.requires_grad_()
    weights = [0.5, 0.2, 0.3]
    mean = sum(w * SoftTargetLoss(3.0, sigmoid)(student, t) for w, t in zip(weights, teachers))
    ensemble = EnsembleSoftTargetLoss(3.0, weights, sigmoid)(student, teachers)
    torch.testing.assert_close(torch.autograd.grad(ensemble, student), torch.autograd.grad(mean, student))
    assert ensemble < mean  # by how much the teachers differ
    assert torch.autograd.gradcheck(
        lambda x: EnsembleSoftTargetLoss(3.0, weights, sigmoid)(x, [t[:1] for t in teachers]), student[:1].detach()
        .requires_grad_()
    )  # fmt: skip


@both_forms
def test_logits_have_the_mean_probability(sigmoid):
    teachers = [*torch.randn(3, 2, 3, 4)]
    answer = (lambda z: (z / 2).sigmoid()) if sigmoid else (lambda z: (z / 2).softmax(1))
    expected = sum(w * answer(t) for w, t in zip((0.1, 0.3, 0.6), teachers))
    torch.testing.assert_close(answer(ensemble_logits(teachers, 2.0, (0.1, 0.3, 0.6), sigmoid)), expected)


@both_forms
@every_shape
def test_laws(shape, sigmoid):
    """Of two teachers, one of which stays as it is."""
    loss = EnsembleSoftTargetLoss(sigmoid=sigmoid)
    student, teacher = torch.randn(2, *shape)
    testing.check_loss(loss, student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        testing.check_loss(loss, student, teacher)

    def two(student, teacher, **batch):
        return loss(student, [teacher, 2 * teacher.flip(1)], **batch)

    testing.assert_gradient_reaches_student(two, student, teacher)
    testing.assert_no_gradient_to_teacher(two, student, teacher)
    testing.assert_half_precision_safe(two, student, teacher)
    testing.assert_finite_on_extremes(two, student, teacher)
    testing.assert_batch_average(two, student, teacher)
    testing.assert_spatial_permutation_invariant(two, student, teacher)
    testing.assert_finite_on_empty_mask(two, student, teacher)
    testing.assert_masked_positions_ignored(two, student, teacher)


@both_forms
def test_teachers_that_contradict_each_other_are_finite(sigmoid):
    sure = torch.tensor([[300.0, -300.0]])
    student = torch.zeros(1, 2, requires_grad=True)
    value = EnsembleSoftTargetLoss(1.0, sigmoid=sigmoid)(student, [sure, -sure])
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    value = EnsembleSoftTargetLoss(1.0, sigmoid=sigmoid)(student + sure, [sure, -sure])
    value.backward()
    assert value > 100
    assert student.grad.isfinite().all()


def test_takes_teachers_run_in_inference_mode():
    student = torch.randn(2, 3, requires_grad=True)
    with torch.inference_mode():
        teachers = [*torch.randn(2, 2, 3)]
    EnsembleSoftTargetLoss()(student, teachers).backward()
    assert student.grad.any()


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -0.5], [math.nan, 1.0], [math.inf, 1.0]])
def test_weights_are_checked(weights):
    with pytest.raises(ValueError, match="weights must be 0 or more"):
        EnsembleSoftTargetLoss(weights=weights)


def test_messages():
    student, *teachers = torch.randn(4, 2, 3)
    with pytest.raises(ValueError, match="got 3 teachers and 2 weights"):
        EnsembleSoftTargetLoss(weights=[1, 1])(student, teachers)
    with pytest.raises(ValueError, match="got 0 teachers and no weights"):
        EnsembleSoftTargetLoss()(student, [])
    with pytest.raises(ValueError, match=r"student \(2, 3\), teacher \(2, 4\)"):
        EnsembleSoftTargetLoss()(student, [teachers[0], torch.randn(2, 4)])
    with pytest.raises(ValueError, match=r"teachers' logits differ in shape: \[\(2, 3\), \(2, 4\)\]"):
        ensemble_logits([student, torch.randn(2, 4)])
    with pytest.raises(ValueError, match="sigmoid=True"):
        EnsembleSoftTargetLoss()(student[:, :1], [t[:, :1] for t in teachers])
    with pytest.raises(ValueError, match="temperature must be positive"):
        EnsembleSoftTargetLoss(0.0)
