"""Broken losses, each with a failure seen in published distillation code: the law kit must fail on them."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_kd import testing
from monai_kd.losses import DISTLoss, SoftTargetLoss


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def logits():
    return torch.randn(2, 4, 3, 5, 6)


def kl(student, teacher, dim=1, reduction="none"):
    return F.kl_div(student.log_softmax(dim), teacher.log_softmax(dim), reduction=reduction, log_target=True)


def mean_kl(student, teacher, dim=1):
    return kl(student.float(), teacher.detach().float(), dim).sum(1).mean()


def make_inputs(size):
    return *torch.randn(2, 2, 3, *size), {}


SIZES = [(8, 8), (16, 16), (8, 8, 8)]


def test_a_sound_loss_passes(logits):
    testing.check_loss(SoftTargetLoss(), *logits, make_inputs=make_inputs, sizes=SIZES)
    testing.check_loss(mean_kl, *logits, make_inputs=make_inputs, sizes=SIZES)


def test_batchmean_grows_with_the_patch():
    def broken(student, teacher):
        return kl(student, teacher, reduction="batchmean")

    with pytest.raises(AssertionError, match="depends on the patch size"):
        testing.assert_same_on_any_patch_size(broken, make_inputs, SIZES)


def test_one_channel_softmax_teaches_nothing(logits):
    with pytest.raises(AssertionError, match="is 0 for items"):
        testing.assert_gradient_reaches_student(mean_kl, *logits[:, :, :1])


def test_softmax_over_width(logits):
    def broken(student, teacher):
        return mean_kl(student, teacher, dim=-1)

    with pytest.raises(AssertionError, match="order of the spatial axes"):
        testing.assert_spatial_permutation_invariant(broken, *logits)


def test_detached_student(logits):
    def broken(student, teacher):
        return mean_kl(student.detach(), teacher)

    def swapped(student, teacher):
        return mean_kl(teacher, student)

    for loss in (broken, swapped):
        with pytest.raises(AssertionError, match="no gradient reaches the student"):
            testing.assert_gradient_reaches_student(loss, *logits)


def test_items_left_out(logits):
    def broken(student, teacher):
        return mean_kl(student[:2], teacher[:2])

    with pytest.raises(AssertionError, match=r"is 0 for items \[2, 3\]"):
        testing.assert_gradient_reaches_student(broken, *logits)
    with pytest.raises(AssertionError, match="mean over its items"):
        testing.assert_batch_average(broken, *logits)


def test_gradient_to_the_teacher(logits):
    def broken(student, teacher):
        return kl(student, teacher).mean()

    with pytest.raises(AssertionError, match=r"use teacher\.detach\(\)"):
        testing.assert_no_gradient_to_teacher(broken, *logits)


def test_not_zero_at_equality(logits):
    def cross_entropy(student, teacher):
        return F.cross_entropy(student, teacher.softmax(1))

    with pytest.raises(AssertionError, match="expected 0"):
        testing.assert_zero_at_equality(cross_entropy, logits[0])


def test_sum_over_the_batch(logits):
    def broken(student, teacher):
        return mean_kl(student, teacher) * student.shape[0]

    with pytest.raises(AssertionError, match="mean over its items"):
        testing.assert_batch_average(broken, *logits)


def test_half_precision(logits):
    def no_promotion(student, teacher):
        return kl(student, teacher).sum(1).mean()

    def products_under_autocast(student, teacher):
        student, teacher = student.float().flatten(1), teacher.float().flatten(1)
        return (student @ student.T - teacher @ teacher.T).square().mean().float()

    with pytest.raises(AssertionError, match="expected float32"):
        testing.assert_half_precision_safe(no_promotion, *logits)
    with pytest.raises(AssertionError, match="does it compute in float32"):
        testing.assert_half_precision_safe(products_under_autocast, *logits)


def test_probabilities_through_a_logarithm(logits):
    def broken(student, teacher):
        p, q = student.softmax(1), teacher.softmax(1)
        return (q * (q.log() - p.log())).sum(1).mean()

    with pytest.raises(AssertionError, match="extreme and opposite"):
        testing.assert_finite_on_extremes(broken, *logits)


def test_gradient_of_a_root_at_0(logits):
    def broken(student, teacher):
        return (student - teacher).square().sum(1).sqrt().mean()

    with pytest.raises(AssertionError, match="gradient at the student is not finite"):
        testing.assert_finite_on_extremes(broken, *logits)


def test_empty_mask(logits):
    def nan(student, teacher, mask):
        return (kl(student, teacher).sum(1, keepdim=True) * mask).sum() / mask.sum()

    def unmasked(student, teacher, mask):
        return mean_kl(student, teacher)

    with pytest.raises(AssertionError, match="is nan on an empty mask"):
        testing.assert_finite_on_empty_mask(nan, *logits)
    with pytest.raises(AssertionError, match="outside the mask move the student"):
        testing.assert_finite_on_empty_mask(unmasked, *logits)
    with pytest.raises(AssertionError, match="outside the mask change the loss"):
        testing.assert_masked_positions_ignored(unmasked, *logits)


def test_check_loss_holds_masks_only_where_there_are_any(logits):
    def unmasked(student, teacher, mask=None):
        return mean_kl(student, teacher)

    with pytest.raises(AssertionError, match="outside the mask"):
        testing.check_loss(unmasked, *logits)


def test_check_loss_knows_relations_between_items(logits):
    testing.check_loss(DISTLoss(), *logits, mean_over_items=False)
    with pytest.raises(AssertionError, match="mean over its items"):
        testing.check_loss(DISTLoss(), *logits)


def test_teacher_left_in_train_mode():
    teacher = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()).eval()
    before = copy.deepcopy(teacher.state_dict())
    testing.assert_unchanged(teacher, before)
    teacher[2].train()
    with pytest.raises(AssertionError, match=r"train mode: \['2'\]"):
        testing.assert_unchanged(teacher, before)
    teacher.train()(torch.randn(2, 1, 8, 8))
    with pytest.raises(AssertionError, match=r"1\.running_mean"):
        testing.assert_unchanged(teacher.eval(), before)
    with pytest.raises(AssertionError, match="other keys"):
        testing.assert_unchanged(teacher[0], before)
