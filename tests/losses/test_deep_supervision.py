from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.losses import DeepSupervisionLoss, DiceCELoss
from monai.networks.nets import BasicUNetPlusPlus, DynUNet

from monai_kd.distiller import DistillationTerm, Distiller
from monai_kd.handlers import DistillationHandler, log_terms
from monai_kd.losses import SoftTargetLoss
from monai_kd.losses.deep_supervision import DeepSupervisionDistillationLoss, StackedDeepSupervisionLoss
from monai_kd.networks import encoder_decoder_taps
from monai_kd.teachers import FrozenTeacher
from monai_kd.testing import assert_unchanged

SIZES = (16, 8, 4, 2)
both_dims = pytest.mark.parametrize("dims", [2, 3])


def heads(dims, count=3, seed=0, sizes=SIZES):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, *[size] * dims, generator=generator) for size in sizes[:count]]


def label_of(dims, dtype=torch.float32, size=16):
    generator = torch.Generator().manual_seed(9)
    return torch.randint(0, 3, (2, 1, *[size] * dims), generator=generator).to(dtype)


def dice_ce():
    return DiceCELoss(to_onehot_y=True, softmax=True)


# --- against the label ----------------------------------------------------------------------------------------------


@both_dims
@pytest.mark.parametrize("wrap", [torch.Tensor, MetaTensor])
def test_the_stack_of_dynunet_is_its_list(dims, wrap):
    items = [F.interpolate(head, [16] * dims) for head in heads(dims)]
    label = wrap(label_of(dims))
    actual = StackedDeepSupervisionLoss(dice_ce())(wrap(torch.stack(items, dim=1)), label)
    parts = [dice_ce()(item, label) for item in items]
    torch.testing.assert_close(float(actual), float(parts[0] + parts[1] / 2 + parts[2] / 4))


@both_dims
@pytest.mark.parametrize("mode", ["exp", "two", "same"])
def test_lists_and_single_heads_are_monais(dims, mode):
    ours, theirs = (kind(dice_ce(), weight_mode=mode) for kind in (StackedDeepSupervisionLoss, DeepSupervisionLoss))
    label = label_of(dims)
    assert torch.equal(ours(heads(dims), label), theirs(heads(dims), label))
    assert torch.equal(ours(heads(dims)[0], label), theirs(heads(dims)[0], label))


@pytest.mark.parametrize("dtype", [torch.long, torch.uint8, torch.int32])
def test_integer_labels_give_the_same(dtype):
    loss = StackedDeepSupervisionLoss(dice_ce())
    torch.testing.assert_close(loss(heads(3), label_of(3, dtype)), loss(heads(3), label_of(3)))


# --- against the teacher --------------------------------------------------------------------------------------------


@both_dims
@pytest.mark.parametrize(("mode", "weights"), [("exp", (1, 0.5, 0.25)), ("two", (1, 0.5, 0.5)), ("same", (1, 1, 1))])
def test_each_head_learns_from_the_head_of_its_size(dims, mode, weights):
    student, teacher = heads(dims), heads(dims, 4, seed=1)
    loss = SoftTargetLoss()
    expected = sum(weight * loss(student[i], teacher[i]) for i, weight in enumerate(weights))
    distilled = DeepSupervisionDistillationLoss(loss, weight_mode=mode)
    torch.testing.assert_close(distilled(student, teacher), expected)
    torch.testing.assert_close(distilled(student[::-1], teacher[::-1]), expected)  # in any order


def test_one_head_is_the_loss_itself():
    student, teacher = heads(2, 1), heads(2, 3, seed=1)
    expected = SoftTargetLoss()(student[0], teacher[0])
    loss = DeepSupervisionDistillationLoss(SoftTargetLoss())
    assert torch.equal(loss(student, teacher), expected)
    assert torch.equal(loss(student[0], teacher[0]), expected)


def test_of_several_heads_of_one_size_the_first_teaches():
    student, teacher = heads(2, sizes=(16, 16)), heads(2, sizes=(16, 16), seed=1)
    loss = SoftTargetLoss()
    expected = loss(student[0], teacher[0]) + 0.5 * loss(student[1], teacher[0])
    actual = DeepSupervisionDistillationLoss(loss)(heads(2, sizes=(16, 16)), teacher)
    torch.testing.assert_close(actual, expected)


def test_gradients_reach_every_head_of_the_student_and_none_of_the_teacher():
    student, teacher = ([head.requires_grad_() for head in heads(2, seed=seed)] for seed in (0, 1))
    DeepSupervisionDistillationLoss(lambda one, other: (one - other).square().mean())(student, teacher).backward()
    assert all(head.grad.abs().sum() > 0 for head in student)
    assert all(head.grad is None for head in teacher)


def test_half_precision_computes_in_float32():
    student, teacher = ([head.half() for head in heads(2, seed=seed)] for seed in (0, 1))
    loss = DeepSupervisionDistillationLoss(lambda one, other: (one - other).square().mean())
    expected = loss([head.float() for head in student], [head.float() for head in teacher])
    assert loss(student, teacher).dtype == torch.float32
    assert torch.equal(loss(student, teacher), expected)


@both_dims
def test_a_head_without_a_teacher_is_refused(dims):
    size = ", ".join(["4"] * dims)
    loss = DeepSupervisionDistillationLoss(SoftTargetLoss())
    with pytest.raises(ValueError, match=rf"no head of the teacher has the size \({size}\): student .*Leave such"):
        loss(heads(dims), heads(dims, 2))


@pytest.mark.parametrize(("student", "teacher", "owner"), [([], heads(2), "student"), (heads(2), [], "teacher")])
def test_a_side_without_heads_is_refused(student, teacher, owner):
    with pytest.raises(ValueError, match=f"the {owner} has no head"):
        DeepSupervisionDistillationLoss(SoftTargetLoss())(student, teacher)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"weight_mode must be one of \('exp', 'two', 'same'\), got 'linear'"):
        DeepSupervisionDistillationLoss(SoftTargetLoss(), weight_mode="linear")
    with pytest.raises(TypeError, match="must be callable, got str"):
        DeepSupervisionDistillationLoss("SoftTargetLoss")


# --- in training ----------------------------------------------------------------------------------------------------


def dynunet(dims, count, seed):
    torch.manual_seed(seed)
    return DynUNet(
        dims,
        1,
        3,
        kernel_size=[3] * 4,
        strides=[1, 2, 2, 2],
        upsample_kernel_size=[2] * 3,
        filters=[4, 6, 8, 10],
        deep_supervision=True,
        deep_supr_num=count,
    )


def head_term(student, teacher, **kwargs):
    return DistillationTerm(
        "soft_target_heads",
        DeepSupervisionDistillationLoss(SoftTargetLoss(), **kwargs),
        student=list(encoder_decoder_taps(student).heads),
        teacher=list(encoder_decoder_taps(teacher).heads),
    )


@both_dims
def test_reaches_the_update_of_every_head(dims):
    student, teacher = dynunet(dims, 1, seed=0), dynunet(dims, 2, seed=1)
    teacher_state = {name: value.clone() for name, value in teacher.state_dict().items()}
    x = torch.randn(2, 1, *[16] * dims, generator=torch.Generator().manual_seed(0))
    distiller = Distiller(student, FrozenTeacher(teacher), [head_term(student, teacher)], input_shape=tuple(x.shape))
    before = {name: value.clone() for name, value in student.named_parameters()}
    with torch.no_grad():
        # DynUNet keeps its heads in both modes, and instance normalisation is the same in both.
        ours, theirs = [student.eval()(x), student.heads[0]], [teacher.eval()(x), *teacher.heads]
        loss = SoftTargetLoss()
        expected = loss(ours[0], theirs[0]) + 0.5 * loss(ours[1], theirs[1])
    batch = {"image": x, "label": label_of(dims, torch.long)}
    trainer = SupervisedTrainer(
        "cpu",
        1,
        [batch],
        student,
        torch.optim.SGD(student.parameters(), lr=0.1),
        StackedDeepSupervisionLoss(dice_ce()),
        train_handlers=[DistillationHandler(distiller, task_weight=0.0)],
    )
    trainer.run()
    assert log_terms(trainer.state.output)["soft_target_heads"] == pytest.approx(expected.item(), rel=1e-5)
    moved = {name for name, value in student.named_parameters() if not torch.equal(value, before[name])}
    for head in ("output_block", "deep_supervision_heads.0", "bottleneck"):
        assert any(name.startswith(head) for name in moved)
    assert_unchanged(teacher, teacher_state)


def test_a_student_deeper_than_its_teacher_is_refused_at_construction():
    student, teacher = dynunet(2, 2, seed=0), dynunet(2, 1, seed=1)
    with pytest.raises(ValueError, match=r"'soft_target_heads' does not fit.*teacher has the size \(4, 4\)"):
        Distiller(student, FrozenTeacher(teacher), [head_term(student, teacher)], input_shape=(2, 1, 16, 16))


def test_across_architectures():
    student = BasicUNetPlusPlus(2, 1, 3, (2, 3, 4, 5, 6, 4), deep_supervision=True, norm="batch")
    teacher = dynunet(2, 2, seed=1)
    x = torch.randn(2, 1, 16, 16)
    distiller = Distiller(student, FrozenTeacher(teacher), [head_term(student, teacher)], input_shape=tuple(x.shape))
    outputs = student(x)
    taps = dict(zip(encoder_decoder_taps(student).heads, outputs[::-1]))
    distiller({"output": outputs, **taps}, {"image": x})["soft_target_heads"].backward()
    assert all(student.get_submodule(head).weight.grad.abs().sum() > 0 for head in taps)
