"""Every loss under every law, in classification, 2D and 3D, in float32 and under bfloat16 autocast."""

from __future__ import annotations

import contextlib
import copy
import inspect
import pickle
from typing import NamedTuple

import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from monai_kd import losses, testing

SHAPES = {"classification": (4, 3), "2d": (4, 3, 5, 6), "3d": (4, 3, 3, 4, 5)}


class Case(NamedTuple):
    loss: nn.Module
    positions_needed: bool = False
    label_needed: bool = False
    between_items: bool = False


CASES = {
    "attention_transfer": Case(losses.AttentionTransferLoss(), positions_needed=True),
    "channel_wise": Case(losses.ChannelWiseLoss(), positions_needed=True),
    "dist": Case(losses.DISTLoss(), between_items=True),
    "dist_sigmoid": Case(losses.DISTLoss(sigmoid=True), between_items=True),
    "dkd": Case(losses.DKDLoss(), label_needed=True),
    "dkd_sigmoid": Case(losses.DKDLoss(sigmoid=True), label_needed=True),
    "hint": Case(losses.HintLoss()),
    "importance_map": Case(losses.ImportanceMapLoss(), positions_needed=True),
    "normalized_hint": Case(losses.NormalizedHintLoss()),
    "prediction_map": Case(losses.PredictionMapLoss()),
    "rkd": Case(losses.RKDLoss(), between_items=True),
    "similarity_preserving": Case(losses.SimilarityPreservingLoss(), between_items=True),
    "soft_target": Case(losses.SoftTargetLoss()),
    "soft_target_sigmoid": Case(losses.SoftTargetLoss(sigmoid=True)),
    "teacher_dice": Case(losses.TeacherDiceLoss()),
    "teacher_dice_foreground": Case(losses.TeacherDiceLoss(include_background=False)),
    "teacher_dice_sigmoid": Case(losses.TeacherDiceLoss(sigmoid=True)),
}
EVERY = [
    pytest.param(case, shape, id=f"{name}-{kind}")
    for name, case in CASES.items()
    for kind, shape in SHAPES.items()
    if not (case.positions_needed and kind == "classification")
]


def inputs(case, shape, masked=False):
    student, teacher = torch.randn(2, *shape)
    batch = {}
    if case.label_needed:
        batch["label"] = torch.randint(shape[1], (shape[0], *shape[2:]))
    if masked and "mask" in inspect.signature(case.loss.forward).parameters:
        batch["mask"] = torch.randint(2, (shape[0], 1, *shape[2:]))
    return student, teacher, batch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize(("case", "shape"), EVERY)
def test_laws(case, shape, autocast):
    student, teacher, batch = inputs(case, shape)
    with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
        testing.check_loss(case.loss, student, teacher, mean_over_items=not case.between_items, **batch)


SIZES = [(8, 8), (16, 16), (24, 12), (8, 8, 8), (16, 8, 16)]


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("rkd", "similarity_preserving")])
def test_one_weight_fits_every_patch_size(name):
    case = CASES[name]
    testing.assert_same_on_any_patch_size(case.loss, lambda size: inputs(case, (4, 3, *size)), SIZES)


@pytest.mark.parametrize("name", CASES)
def test_one_weight_fits_every_resolution(name):
    """The same picture on a finer grid: the value is the same, also for relations between items."""
    case = CASES[name]
    student, teacher, batch = inputs(case, (4, 3, 4, 6))
    fine = [torch.kron(x, torch.ones(3, 2)) for x in (student, teacher)]
    batch_fine = {k: v.repeat_interleave(3, dim=1).repeat_interleave(2, dim=2) for k, v in batch.items()}
    value, value_fine = case.loss(student, teacher, **batch), case.loss(*fine, **batch_fine)
    torch.testing.assert_close(value_fine, value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("case", "shape"), EVERY)
def test_double_precision_stays(case, shape):
    student, teacher, batch = inputs(case, shape)
    assert case.loss(student.double(), teacher.double(), **batch).dtype == torch.float64


@pytest.mark.parametrize(("case", "shape"), EVERY)
def test_takes_monai_tensors(case, shape):
    student, teacher, batch = inputs(case, shape, masked=True)
    meta = [MetaTensor(x.clone()) for x in (student, teacher)]
    value = case.loss(*meta, **{k: MetaTensor(v.float()) for k, v in batch.items()})
    assert type(value) is torch.Tensor
    torch.testing.assert_close(value, case.loss(student, teacher, **batch))


@pytest.mark.parametrize(("case", "shape"), EVERY)
def test_takes_a_teacher_run_in_inference_mode(case, shape):
    student, teacher, batch = inputs(case, shape)
    with torch.inference_mode():
        teacher = teacher.clone()
    case.loss(student.requires_grad_(), teacher, **batch).backward()
    assert student.grad.isfinite().all()


class _Synchronisations(TorchDispatchMode):
    """Names the operations that make the host wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indexed = args[1] if name in ("index", "index_put", "index_put_") else []
        by_mask = any(i is not None and i.dtype == torch.bool for i in indexed)
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("case", "shape"), EVERY)
def test_never_waits_for_the_device(case, shape):
    student, teacher, batch = inputs(case, shape, masked=True)
    student.requires_grad_()
    with _Synchronisations() as waits:
        case.loss(student, teacher, **batch).backward()
    assert waits.found == []


def test_the_synchronisation_check_works():
    x = torch.randn(4)
    with _Synchronisations() as waits:
        x[x > 0].sum()
        x.sum().item()
    assert waits.found == ["index", "_local_scalar_dense"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_copies_and_holds_no_state(case):
    student, teacher, batch = inputs(case, SHAPES["2d"])
    expected = case.loss(student, teacher, **batch)
    for other in (copy.deepcopy(case.loss), pickle.loads(pickle.dumps(case.loss))):  # noqa: S301
        torch.testing.assert_close(other(student, teacher, **batch), expected)
    assert not case.loss.state_dict()


def test_every_loss_is_held_to_the_laws():
    stated_elsewhere = {
        "AttentionSupervisionLoss",
        "CRDLoss",
        "CategoricalRelationLoss",
        "ClassContrastiveLoss",
        "ContrastMemory",
        "DeepSupervisionDistillationLoss",
        "StackedDeepSupervisionLoss",
        "EnsembleSoftTargetLoss",
        "FocalDiceLoss",
        "FusionHintLoss",
        "FusionSoftTargetLoss",
        "FusionTaskLoss",
        "HardTargetLoss",
        "MultiTeacherAttentionFusion",
        "StructureLoss",
        "SymmetricalGuidingLoss",
        "WeightedCrossEntropyLoss",
    }
    held = {type(case.loss).__name__ for case in CASES.values()}
    assert held == set(losses.__all__) - stated_elsewhere


@pytest.mark.parametrize("name", CASES)
def test_in_several_processes_each_sees_its_own_items_and_valid_positions(name, monkeypatch):
    """As the documentation says of comparisons between items and of masks: nobody is asked."""
    case = CASES[name]
    student, teacher, batch = inputs(case, SHAPES["2d"], masked=True)
    student.requires_grad_()
    alone = case.loss(student, teacher, **batch)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    assert torch.equal(case.loss(student, teacher, **batch), alone)
