from __future__ import annotations

import copy
import inspect
import logging
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointSaver, ValidationHandler
from torch import nn

from monai_kd import DistillationTerm, Distiller
from monai_kd.handlers import DistillationHandler, EMAUpdateHandler
from monai_kd.losses import SoftTargetLoss
from monai_kd.teachers import EMATeacher, FrozenTeacher

# MONAI's amp autocasts "cuda" and warns on a machine without one; its branch runs all the same.
pytestmark = pytest.mark.filterwarnings("ignore")
both_branches = pytest.mark.parametrize("amp", [False, True], ids=["plain", "amp"])
needs_accumulation = pytest.mark.skipif(
    "accumulation_steps" not in inspect.signature(SupervisedTrainer.__init__).parameters, reason="needs MONAI 1.6"
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def network():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def batches(count):
    return [{"image": torch.randn(3, 4), "label": torch.randint(0, 3, (3,))} for _ in range(count)]


def trainer_for(student, loader, handlers=(), epochs=1, make=torch.optim.SGD, **kwargs):
    optimizer = make(student.parameters(), lr=0.1)
    loss = nn.CrossEntropyLoss()
    return SupervisedTrainer("cpu", epochs, loader, student, optimizer, loss, train_handlers=list(handlers), **kwargs)


def train(student, loader, decay=0.9, **kwargs):
    """The mean teacher of a training, and the trainer."""
    teacher = EMATeacher(student, decay)
    trainer = trainer_for(student, loader, [EMAUpdateHandler(teacher)], **kwargs)
    trainer.run()
    return teacher, trainer


def follow(trainer, teacher):
    """The number of updates at the end of each iteration."""
    found = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: found.append(teacher.updates))
    return found


def hooks_on(optimizer):
    return len(optimizer._optimizer_step_post_hooks)


def same_weights(teacher, student):
    return all(torch.equal(teacher.network.get_buffer(name), value) for name, value in student.named_parameters())


@both_branches
def test_the_first_iteration_ends_with_a_copy_of_the_new_student(amp):
    student = network()
    before = student[0].weight.detach().clone()
    teacher, _ = train(student, batches(1), amp=amp)
    assert not torch.equal(student[0].weight, before)
    assert same_weights(teacher, student)
    assert teacher.updates == 1


@both_branches
@pytest.mark.parametrize("meta", [False, True])
def test_it_averages_the_students_after_each_step(amp, meta):
    student, loader, decay = network(), batches(3), 0.6
    if meta:
        loader = [{**batch, "image": MetaTensor(batch["image"])} for batch in loader]
    teacher = EMATeacher(student, decay)
    trainer = trainer_for(student, loader, [EMAUpdateHandler(teacher)], epochs=2, amp=amp)
    weights = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: weights.append(student[0].weight.detach().clone().double())
    )
    trainer.run()
    expected = weights[0]
    for t, weight in enumerate(weights[1:], 1):
        a = min(1 - 1 / (t + 1), decay)
        expected = a * expected + (1 - a) * weight
    torch.testing.assert_close(teacher.network[0].weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert teacher.updates == len(weights) == 6


def test_training_is_the_same_with_and_without_it():
    student, loader = network(), batches(3)
    twin = copy.deepcopy(student)
    train(student, loader, epochs=2)
    trainer_for(twin, loader, epochs=2).run()
    assert all(torch.equal(a, b) for a, b in zip(student.state_dict().values(), twin.state_dict().values()))


@needs_accumulation
@both_branches
def test_it_updates_once_a_step_when_gradients_accumulate(amp):
    """Five iterations an epoch, two a step; the last step of an epoch has one only."""
    student = network()
    teacher = EMATeacher(student)
    trainer = trainer_for(student, batches(5), [EMAUpdateHandler(teacher)], epochs=2, accumulation_steps=2, amp=amp)
    found = follow(trainer, teacher)
    trainer.run()
    assert found == [0, 1, 1, 2, 3, 3, 4, 4, 5, 6]


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_is_no_update(fused):
    """A fused optimiser skips within its step, another one is not called."""
    student, loader = network(), batches(4)
    loader[1]["image"][0, 0] = torch.inf
    teacher, starts, ends = EMATeacher(student), [], []
    trainer = trainer_for(
        student,
        loader,
        [EMAUpdateHandler(teacher)],
        make=lambda parameters, lr: torch.optim.SGD(parameters, lr, fused=fused),
        amp=True,
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)  # MONAI makes one of "cuda" when the run begins
    trainer.add_event_handler(Events.STARTED, lambda: setattr(trainer, "scaler", scaler))
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: starts.append(student[0].weight.detach().clone()))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: ends.append(student[0].weight.detach().clone()))
    found = follow(trainer, teacher)
    trainer.run()
    assert [torch.equal(before, after) for before, after in zip(starts, ends)] == [False, True, False, False]
    assert found == [1, 1, 2, 3]
    assert teacher.network[0].weight.isfinite().all()


def test_two_runs_of_one_trainer_update_once_a_step():
    student = network()
    teacher, trainer = train(student, batches(2), epochs=2)
    assert teacher.updates == 4
    assert hooks_on(trainer.optimizer) == 0
    trainer.run()  # from its first epoch again
    assert teacher.updates == 8
    trainer.state.max_epochs = 5
    trainer.run()
    assert hooks_on(trainer.optimizer) == 0
    assert teacher.updates == 2 * (2 + 2 + 3)


@pytest.mark.parametrize("other_trainer", [False, True])
def test_a_run_after_a_failed_one_updates_once_a_step(other_trainer):
    student, loader, calls = network(), batches(3), []

    def inferer(inputs, net):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return net(inputs)

    teacher = EMATeacher(student)
    handler = EMAUpdateHandler(teacher)
    failing = trainer_for(student, loader, [handler], inferer=inferer)
    with pytest.raises(RuntimeError, match="out of memory"):
        failing.run()
    assert teacher.updates == 2
    again = trainer_for(student, loader, [handler], inferer=inferer) if other_trainer else failing
    again.run()
    if not other_trainer:
        again.run()  # the run that follows an error in the same engine does nothing in ignite
    assert hooks_on(failing.optimizer) == hooks_on(again.optimizer) == 0
    assert len(calls) > 3
    assert teacher.updates == len(calls) - 1


@pytest.mark.parametrize("skip_completed", [False, True])
def test_a_stopped_run_leaves_no_hook(skip_completed):
    student = network()
    teacher = EMATeacher(student)
    trainer = trainer_for(student, batches(5), [EMAUpdateHandler(teacher)])
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED(once=3), lambda: trainer.terminate(skip_completed))
    trainer.run()
    assert trainer.state.iteration == teacher.updates == 3
    assert hooks_on(trainer.optimizer) == 0


def test_two_trainers_in_one_process_do_not_meet():
    students = [network(), network()]
    teachers = [EMATeacher(student) for student in students]
    first, second = (
        trainer_for(student, batches(count), [EMAUpdateHandler(teacher)])
        for student, teacher, count in zip(students, teachers, (2, 3))
    )
    first.add_event_handler(Events.ITERATION_STARTED(once=1), lambda: second.run())
    first.run()
    assert [teacher.updates for teacher in teachers] == [2, 3]


def test_a_compiled_student_is_followed():
    torch.compiler.reset()
    student = network()
    teacher, trainer = train(student, batches(1), compile=True, compile_kwargs={"backend": "eager"})
    assert trainer.network is not student
    assert same_weights(teacher, student)


def test_the_teacher_is_validated_and_saved_while_training(tmp_path):
    student = network()
    teacher = EMATeacher(student)
    modes = []

    def inferer(inputs, net):
        modes.append(net.training)
        return net(inputs)

    evaluator = SupervisedEvaluator("cpu", batches(1), teacher.network, inferer=inferer)
    saver = CheckpointSaver(str(tmp_path), {"model": teacher.network}, save_final=True, final_filename="model.pt")
    trainer_for(
        student, batches(2), [EMAUpdateHandler(teacher), ValidationHandler(1, evaluator), saver], epochs=3
    ).run()
    assert modes == [False] * 3
    assert teacher.updates == 6
    plain = network()
    plain.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    assert all(torch.equal(value, teacher.network.state_dict()[key]) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("other", [lambda: FrozenTeacher(network()), network], ids=["FrozenTeacher", "Sequential"])
def test_something_that_is_no_mean_teacher_is_refused(other, request):
    with pytest.raises(TypeError, match=rf"expected an EMATeacher, got {request.node.callspec.id}"):
        EMAUpdateHandler(other())


def test_a_teacher_of_another_network_is_refused_at_the_first_step():
    trainer = trainer_for(network(), batches(1), [EMAUpdateHandler(EMATeacher(nn.Linear(4, 3)))])
    with pytest.raises(ValueError, match="a teacher of another network"):
        trainer.run()


def test_processes_validate_the_statistics_of_the_first_one(monkeypatch):
    """Here this process stands for any other one, and those of the first are all 7."""
    others = SimpleNamespace(broadcast=lambda buffer, source: buffer.fill_(7) if source == 0 else None)
    monkeypatch.setattr("monai_kd.handlers.ema_update.dist", others)
    monkeypatch.setattr("monai_kd.handlers.ema_update.processes", lambda: 2)
    student = network()
    teacher, seen = EMATeacher(student), []
    evaluator = SupervisedEvaluator("cpu", batches(1), teacher.network)
    evaluator.add_event_handler(
        Events.STARTED, lambda: seen.extend(value for buffer in teacher.network.buffers() for value in buffer.flatten())
    )
    handlers = [EMAUpdateHandler(teacher), ValidationHandler(1, evaluator)]
    trainer_for(student, batches(2), handlers, epochs=2).run()
    assert len(seen) > 20
    assert {int(value) for value in seen} == {7}


@pytest.mark.parametrize("attached", [True, False])
def test_a_teacher_that_nobody_updates_is_reported(attached, caplog):
    student = network()
    teacher = EMATeacher(student)
    distiller = Distiller(student, teacher, [DistillationTerm("consistency", SoftTargetLoss(1.0))])
    handlers = [DistillationHandler(distiller, name="distillation"), *[EMAUpdateHandler(teacher)] * attached]
    with caplog.at_level(logging.INFO, "distillation"):
        trainer_for(student, batches(2), handlers, epochs=2).run()
    warnings = [record.message for record in caplog.records if "give the trainer an EMAUpdateHandler" in record.message]
    assert len(warnings) == (0 if attached else 1)
