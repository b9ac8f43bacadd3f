from __future__ import annotations

import copy
import doctest
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn

from monai_kd import DistillationHandler, Distiller, FrozenTeacher
from monai_kd.methods import hdkd, hdkd_terms
from monai_kd.networks import HDKDStudent, HDKDTeacher

pytestmark = pytest.mark.filterwarnings("ignore")

STAGES = ["stage1", "stage2", "stage3"]
CLASSES, ALPHA = 3, 0.5
every_dimension = pytest.mark.parametrize("dims", [2, 3])
both_targets = pytest.mark.parametrize("targets", ["soft", "hard"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def networks(dims=2):
    student = HDKDStudent(dims, 1, CLASSES, 16, (4, 6, 8, 16), (1, 1, 2, 1), num_heads=2, dim_head=4)
    teacher = HDKDTeacher(dims, 1, CLASSES, channels=(4, 6, 8), depths=(2, 2, 1), hidden_size=5)
    for module in teacher.modules():  # statistics of another data set than this batch
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    return student.double(), teacher.double().eval()


def batch_of(dims=2, count=4):
    return {"image": torch.randn(count, 1, *[16] * dims).double(), "label": torch.arange(count) % CLASSES}


def trainer_for(student, distiller, batches, optimizer, epochs=1, **kwargs):
    return SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=batches,
        network=student,
        optimizer=optimizer,
        loss_function=nn.CrossEntropyLoss(),
        train_handlers=[DistillationHandler(distiller, task_weight=1 - ALPHA)],
        **kwargs,
    )


def count_calls(network, calls):
    for name in STAGES:
        network.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.update([name]))


def several_passes_loss(student, teacher, image, label, targets="soft", temperature=1.0):
    """HDKD's loss as it is released: each pair of stages by its own pass through all stages before it."""
    z_cls, z_distill = student.heads(image)
    with torch.no_grad():
        z_teacher = teacher(image)
    if targets == "hard":
        distillation = F.cross_entropy(z_distill, z_teacher.argmax(1))
    else:
        q, p = (z_teacher / temperature).softmax(1), (z_distill / temperature).softmax(1)
        distillation = temperature**2 * (q * (q / p).log()).sum() / z_cls.numel()
    loss = (1 - ALPHA) * F.cross_entropy(z_cls, label) + ALPHA * distillation
    for i in range(3):
        ours, theirs = image, image
        for stage in STAGES[: i + 1]:
            ours = student.get_submodule(stage)(ours)
            with torch.no_grad():
                theirs = teacher.get_submodule(stage)(theirs)
        loss = loss + 10 * (i + 1) * F.mse_loss(ours, theirs)
    return loss


@every_dimension
@both_targets
def test_one_step_is_that_of_several_passes_in_a_single_one(dims, targets):
    student, teacher = networks(dims)
    reference, reference_teacher = copy.deepcopy(student), copy.deepcopy(teacher)
    batch = batch_of(dims)

    ours, theirs = Counter(), Counter()
    count_calls(reference, ours), count_calls(reference_teacher, theirs)
    optimizer = torch.optim.AdamW(reference.parameters(), 1e-3)
    several_passes_loss(reference.train(), reference_teacher, **batch, targets=targets).backward()
    optimizer.step()
    assert ours == theirs == {"stage1": 4, "stage2": 3, "stage3": 2}

    terms = hdkd_terms(CLASSES, alpha=ALPHA, targets=targets)
    distiller = Distiller(student, FrozenTeacher(teacher), terms)
    ours, theirs = Counter(), Counter()
    count_calls(student, ours), count_calls(teacher, theirs)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    trainer_for(student, distiller, [batch], torch.optim.AdamW(student.parameters(), 1e-3)).run()
    assert ours == theirs == {"stage1": 1, "stage2": 1, "stage3": 1}

    for (name, actual), expected in zip(student.named_parameters(), reference.parameters()):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
        assert not torch.equal(actual, before[name]), name
    counters = {v.item() for k, v in student.state_dict().items() if k.endswith("num_batches_tracked")}
    assert counters == {1}  # several passes count their batch several times


def golden():
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("the golden files lie next to $MONAI_KD_DATA, which is not set")
    file = Path(os.environ["MONAI_KD_DATA"]).parent / "golden" / "hdkd.npz"
    if not file.is_file():
        pytest.skip(f"no golden file {file}")
    return {name: torch.from_numpy(value) for name, value in np.load(file).items()}


def weighted(terms, student, teacher):
    """Each term's weighted value of outputs by tap."""
    return {term.name: term.weight * term([student[term.student_taps[0]]], [teacher[term.teacher_taps[0]]])
            for term in terms}  # fmt: skip


def test_losses_of_the_released_code():
    values = golden()
    student = {"head_distill": values["student_distill"]} | {stage: values[f"student_{stage}"] for stage in STAGES}
    teacher = {"output": values["teacher_logits"]} | {stage: values[f"teacher_{stage}"] for stage in STAGES}
    task = F.cross_entropy(values["student_cls"], values["y"])
    logit = {}
    for kind, arguments in {
        "soft_tau1": {},
        "soft_tau3": {"temperature": 3.0},
        "hard": {"targets": "hard"},
    }.items():
        terms = hdkd_terms(7, **arguments, feature_weight=0)
        logit[kind] = (1 - ALPHA) * task + sum(weighted(terms, student, teacher).values())
        torch.testing.assert_close(logit[kind], values[f"logit_{kind}"], rtol=1e-5, atol=1e-5)
    feature = sum(weighted(hdkd_terms(7, alpha=0), student, teacher).values())
    torch.testing.assert_close(feature, 10 * values["feature"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logit["soft_tau1"] + feature, values["total"], rtol=1e-5, atol=1e-5)


def wave(frequency, phase):
    return 2 * torch.sin(frequency * torch.arange(21, dtype=torch.float64) + phase).reshape(3, 7)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 0.9817184272106456),
        ({"temperature": 3.0}, 1.018480887697872),
        ({"targets": "hard"}, 2.0659158583404102),
    ],
    ids=["soft", "softened", "hard"],
)
def test_logit_losses_of_the_released_code(arguments, expected):
    terms = hdkd_terms(7, **arguments, feature_weight=0)
    distillation = sum(weighted(terms, {"head_distill": wave(0.9, 0.4)}, {"output": wave(1.1, 0.2)}).values())
    task = F.cross_entropy(wave(0.7, 0.0), torch.tensor([0, 3, 6]))
    assert (0.5 * task + distillation).item() == pytest.approx(expected, rel=1e-12)


def test_soft_targets_averaged_over_items_alone():
    (term,) = hdkd_terms(CLASSES, alpha=0.3, temperature=2.0, feature_weight=0, normalization="batchmean")
    student, teacher = wave(0.9, 0.4), wave(1.1, 0.2)
    expected = F.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="batchmean")
    value = weighted([term], {"head_distill": student}, {"output": teacher})["soft_target"]
    torch.testing.assert_close(value, 0.3 * 4 * expected)


@both_targets
def test_weights_and_taps(targets):
    logit, *features = hdkd_terms(CLASSES, alpha=0.6, feature_weight=2.0, gamma=2.0, targets=targets)
    assert (logit.name, logit.student_taps, logit.teacher_taps) == (f"{targets}_target", ["head_distill"], ["output"])
    assert logit.weight == pytest.approx(0.2 if targets == "soft" else 0.6)
    assert [(term.student_taps, term.teacher_taps, term.weight) for term in features] == [
        ([stage], [stage], weight) for stage, weight in zip(STAGES, (2.0, 8.0, 18.0))
    ]


def test_stages_count_by_their_position_in_the_list():
    terms = hdkd_terms(2, ["layer.2", "layer.3"], ["stage2", "stage3"], alpha=0)
    assert [(term.name, term.teacher_taps, term.weight) for term in terms] == [
        ("feature_layer_2", ["stage2"], 10.0),
        ("feature_layer_3", ["stage3"], 20.0),
    ]


def test_a_weight_of_0_leaves_its_terms_out():
    assert [term.name for term in hdkd_terms(2, feature_weight=0)] == ["soft_target"]
    assert [term.name for term in hdkd_terms(2, alpha=0)] == ["feature_stage1", "feature_stage2", "feature_stage3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"student_stages": ["stage1"], "teacher_stages": STAGES}, r"got \['stage1'\] and \['stage1', 'stage2',"),
        ({"student_stages": "stage1"}, "a list of taps, got 'stage1' and 'stage1'"),
        ({"teacher_stages": "stage"}, "a list of taps, .* and 'stage'"),
        ({"targets": "all"}, "targets must be 'soft', 'hard' or 'none', got 'all'"),
        ({"targets": "none", "feature_weight": 0}, "nothing is left"),
        ({"normalization": "sum"}, "normalization must be 'mean' or 'batchmean', got 'sum'"),
        ({"alpha": 1.5}, r"alpha is a share, in \[0, 1\], got 1.5"),
        ({"num_classes": 0}, "num_classes must be positive"),
        ({"alpha": 0, "feature_weight": 0}, "nothing is left of HDKD"),
        ({"alpha": 0, "student_stages": []}, "nothing is left of HDKD"),
        ({"feature_weight": -1.0}, "negative"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        hdkd_terms(**{"num_classes": CLASSES, **arguments})


def test_networks_that_do_not_fit_are_found_before_training():
    student, teacher = networks()
    alone = HDKDStudent(2, 1, CLASSES, 16, (4, 6, 8, 16), (1, 1, 1, 1), 2, 4, distill_token=False)
    with pytest.raises(ValueError, match=r"'head_distill' .*closest: head_cls"):
        Distiller(alone, FrozenTeacher(teacher), hdkd_terms(CLASSES))
    wider = HDKDTeacher(2, 1, CLASSES, channels=(4, 6, 10), depths=(1, 1, 1))
    with pytest.raises(ValueError, match=r"'feature_stage3' does not fit.*\(2, 8, 2, 2\).*\(2, 10, 2, 2\)"):
        Distiller(student.float(), FrozenTeacher(wider), hdkd_terms(CLASSES), input_shape=(2, 1, 16, 16))


@pytest.mark.parametrize("amp", [False, True], ids=["plain", "amp"])
def test_trains_and_evaluates_with_monais_engines(amp):
    student, teacher = (network.float() for network in networks())
    batches = [{"image": b["image"].float(), "label": b["label"]} for b in (batch_of() for _ in range(3))]
    distiller = Distiller(student, FrozenTeacher(teacher), hdkd_terms(CLASSES), input_shape=(2, 1, 16, 16))
    trainer = trainer_for(student, distiller, batches, torch.optim.AdamW(student.parameters(), 1e-2), 10, amp=amp)
    before = distance(student, teacher, batches)
    trainer.run()
    assert distance(student, teacher, batches) < before
    evaluator = SupervisedEvaluator("cpu", batches, student)
    evaluator.run()
    with torch.no_grad():
        expected = sum(student.eval().heads(batches[-1]["image"])) / 2
    prediction = torch.stack([item["pred"] for item in evaluator.state.output])
    torch.testing.assert_close(prediction, expected)


def distance(student, teacher, batches):
    images = torch.cat([batch["image"] for batch in batches])
    student.train()
    with torch.no_grad():
        pairs = zip(copy.deepcopy(student).stages(images), teacher.stages(images))
        return sum(F.mse_loss(ours, theirs).item() for ours, theirs in pairs)


def test_examples_run():
    result = doctest.testmod(hdkd)
    assert result.failed == 0
    assert result.attempted > 0
