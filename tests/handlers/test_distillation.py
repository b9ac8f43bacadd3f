from __future__ import annotations

import copy
import inspect
import logging
import re

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import CheckpointSaver, StatsHandler, ValidationHandler
from torch import nn

from monai_kd.adapters import ProjectionAdapter
from monai_kd.distiller import DistillationTerm, Distiller
from monai_kd.handlers import DistillationHandler, LabelledItemsHandler, NonFiniteTermError, log_terms
from monai_kd.losses import DKDLoss, HintLoss, SoftTargetLoss
from monai_kd.schedules import starts_at
from monai_kd.teachers import FrozenTeacher
from monai_kd.testing import assert_unchanged

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SIZE = 6

# MONAI's amp autocasts "cuda" and warns on a machine without one; its branch runs all the same.
pytestmark = pytest.mark.filterwarnings("ignore")
both_branches = pytest.mark.parametrize("amp", [False, True], ids=["plain", "amp"])
needs_accumulation = pytest.mark.skipif(
    "accumulation_steps" not in inspect.signature(SupervisedTrainer.__init__).parameters, reason="needs MONAI 1.6"
)


def plain(dims=2, channels=4):
    """A network whose items do not see each other: batches may be split and joined."""
    convolution = CONVOLUTIONS[dims]
    return nn.Sequential(convolution(1, channels, 3, padding=1), nn.Tanh(), convolution(channels, 3, 1))


def normed(dims=2, channels=4):
    """Batch statistics and dropout: what a wrong mode or a touched random state would change."""
    convolution = CONVOLUTIONS[dims]
    return nn.Sequential(
        convolution(1, channels, 3, padding=1),
        NORMS[dims](channels),
        nn.ReLU(),
        nn.Dropout(0.5),
        convolution(channels, 3, 1),
    )


def items(count, dims=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (1, *[SIZE] * dims)
    return [
        {
            "image": torch.randn(shape, generator=generator),
            "label": torch.randint(0, 3, shape, generator=generator),
        }
        for _ in range(count)
    ]


def batches(count, size=2, dims=2, seed=0):
    """``count`` batches of ``size`` items, always the same."""
    all_items = items(count * size, dims, seed)
    return [join(all_items[i * size : (i + 1) * size]) for i in range(count)]


def join(parts):
    return {key: torch.stack([part[key] for part in parts]) for key in parts[0]}


def cross_entropy(prediction, label):
    return nn.functional.cross_entropy(prediction, label[:, 0])


def soft(**kwargs):
    return DistillationTerm("soft", SoftTargetLoss(), **kwargs)


def hint(adapter=ProjectionAdapter, **kwargs):
    return DistillationTerm("hint", HintLoss(), "0", "0", adapter=adapter, **kwargs)


def distiller_for(student, teacher, terms, dims=2):
    return Distiller(student, FrozenTeacher(teacher), terms, input_shape=(2, 1, *[SIZE] * dims))


def trainer_for(
    student, loader, handlers=(), distiller=None, epochs=1, lr=0.5, loss=cross_entropy, optimizer=None, **kwargs
):
    parameters = [*student.parameters(), *(distiller.parameters() if distiller is not None else ())]
    optimizer = optimizer or torch.optim.SGD(parameters, lr=lr)
    return SupervisedTrainer("cpu", epochs, loader, student, optimizer, loss, train_handlers=list(handlers), **kwargs)


def train(student, loader, teacher, terms, dims=2, task_weight=1.0, unlabelled_loader=None, handlers=(), **kwargs):
    """A copy of the student after training, and the trainer."""
    student = copy.deepcopy(student)
    torch.manual_seed(0)  # adapters alike
    distiller = distiller_for(student, copy.deepcopy(teacher), terms, dims)
    handler = DistillationHandler(distiller, task_weight=task_weight, unlabelled_loader=unlabelled_loader)
    trainer = trainer_for(student, loader, [handler, *handlers], distiller, **kwargs)
    trainer.run()
    return student, trainer


def weights(net):
    return torch.cat([value.detach().flatten().float() for value in net.state_dict().values()])


def hooks_on(net):
    return [name for name, module in net.named_modules() if module._forward_hooks]


def collect(trainer, event, read):
    """What ``read(engine)`` gives at every ``event``."""
    found = []
    trainer.add_event_handler(event, lambda engine: found.append(read(engine)))
    return found


# --- the update -----------------------------------------------------------------------------------------------------


@both_branches
@pytest.mark.parametrize("dims", [2, 3])
def test_reaches_the_update(dims, amp):
    student, teacher = plain(dims), plain(dims)
    before = weights(student)
    trained, _ = train(student, batches(1, dims=dims), teacher, [soft()], dims, task_weight=0.0, amp=amp)
    assert not torch.equal(weights(trained), before)
    same, _ = train(student, batches(1, dims=dims), teacher, [soft(weight=0.0)], dims, task_weight=0.0, amp=amp)
    assert torch.equal(weights(same), before)


@both_branches
@pytest.mark.parametrize("dims", [2, 3])
def test_one_step_is_the_step_of_the_weighted_sum(dims, amp):
    student, teacher, batch = plain(dims), plain(dims, 8), batches(1, dims=dims)[0]
    trained, trainer = train(
        student,
        [batch],
        teacher,
        [soft(weight=0.5), hint(weight=2.0)],
        dims,
        task_weight=0.25,
        amp=amp,
        decollate=False,
    )
    expected = copy.deepcopy(student)
    torch.manual_seed(0)
    adapter = distiller_for(expected, copy.deepcopy(teacher), [hint()], dims).terms["hint"].adapter
    task = cross_entropy(expected(batch["image"]), batch["label"])
    term = SoftTargetLoss()(expected(batch["image"]), teacher(batch["image"]))
    feature = HintLoss()(adapter(expected[0](batch["image"])), teacher[0](batch["image"]))
    total = 0.25 * task + 0.5 * term + 2.0 * feature
    total.backward()
    torch.optim.SGD(expected.parameters(), lr=0.5).step()
    torch.testing.assert_close(weights(trained), weights(expected))

    output = trainer.state.output
    for key, value in {"loss": total, "task_loss": task, "soft": term, "hint": feature}.items():
        torch.testing.assert_close(output[key].detach(), value.detach())
    assert not any(output[key].requires_grad for key in ("task_loss", "soft", "hint"))


def test_adapters_are_trained():
    student, teacher = plain(), plain(channels=8)
    distiller = distiller_for(student, teacher, [hint()])
    before = distiller.terms["hint"].adapter.projection.weight.clone()
    trainer_for(student, batches(1), [DistillationHandler(distiller)], distiller).run()
    assert not torch.equal(distiller.terms["hint"].adapter.projection.weight, before)


@both_branches
@pytest.mark.parametrize("dims", [2, 3])
def test_leaves_the_teacher_alone(dims, amp):
    student, teacher = normed(dims), normed(dims)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    distiller = distiller_for(student, teacher, [soft(), hint()], dims)
    trainer_for(student, batches(3, dims=dims), [DistillationHandler(distiller)], distiller, epochs=2, amp=amp).run()
    assert_unchanged(teacher, before)


@both_branches
def test_terms_of_weight_0_leave_training_bit_identical(amp):
    def run(distilled):
        torch.manual_seed(0)
        student = normed()
        teacher_state = torch.get_rng_state()
        teacher = normed(channels=8)
        torch.set_rng_state(teacher_state)
        loader = DataLoader(Dataset(items(12)), batch_size=3, shuffle=True)
        handlers, distiller = [], None
        if distilled:
            distiller = distiller_for(student, teacher, [soft(weight=0.0), hint(weight=0.0)])
            handlers = [DistillationHandler(distiller, task_weight=1.0)]
        optimizer = torch.optim.Adam([*student.parameters(), *(distiller.parameters() if distilled else [])], lr=0.01)
        trainer_for(student, loader, handlers, distiller, epochs=3, optimizer=optimizer, amp=amp).run()
        return student

    with_handler, without = run(True).state_dict(), run(False).state_dict()
    assert all(torch.equal(with_handler[key], value) for key, value in without.items())


@needs_accumulation
@both_branches
def test_accumulation_equals_one_big_batch(amp):
    student, teacher, terms = plain(), plain(channels=8), [soft(), hint()]
    small, big = batches(2, size=2), batches(1, size=4)
    accumulated, _ = train(student, small, teacher, copy.deepcopy(terms), accumulation_steps=2, amp=amp)
    at_once, _ = train(student, big, teacher, copy.deepcopy(terms), amp=amp)
    torch.testing.assert_close(weights(accumulated), weights(at_once))
    not_accumulated, _ = train(student, small, teacher, copy.deepcopy(terms), amp=amp)
    assert not torch.allclose(weights(not_accumulated), weights(at_once))


@both_branches
def test_compiled_training_is_training(amp):
    torch.compiler.reset()
    student, teacher = plain(), plain(channels=8)
    compiled, trainer = train(
        student,
        batches(3),
        teacher,
        [soft(), hint()],
        epochs=2,
        compile=True,
        compile_kwargs={"backend": "eager"},
        amp=amp,
    )
    eager, _ = train(student, batches(3), teacher, [soft(), hint()], epochs=2, amp=amp)
    torch.testing.assert_close(weights(compiled), weights(eager))
    assert trainer.network is not compiled
    assert hooks_on(compiled) == []


def test_a_compiled_trainer_runs_twice_with_validation_between():
    torch.compiler.reset()

    def run(**kwargs):
        torch.manual_seed(0)
        student = plain()
        distiller = distiller_for(student, plain(channels=8), [soft(), hint()])
        trainer = trainer_for(student, batches(2), [DistillationHandler(distiller)], distiller, **kwargs)
        trainer.run()
        SupervisedEvaluator("cpu", batches(1), trainer.network).run()
        trainer.run()
        return weights(student)

    torch.testing.assert_close(run(compile=True, compile_kwargs={"backend": "eager"}), run())


@both_branches
def test_meta_tensor_batches_give_the_same(amp):
    student, teacher = plain(), plain(channels=8)
    loader = batches(2)
    wrapped = [{key: MetaTensor(value) for key, value in batch.items()} for batch in loader]
    terms = [soft(), hint(), DistillationTerm("dkd", DKDLoss(), batch={"label": "label"})]
    with_meta, trainer = train(student, wrapped, teacher, copy.deepcopy(terms), amp=amp)
    without, _ = train(student, loader, teacher, copy.deepcopy(terms), amp=amp)
    torch.testing.assert_close(weights(with_meta), weights(without))
    assert isinstance(trainer.state.output[0]["pred"], MetaTensor)


@both_branches
def test_classification(amp):
    student = nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, 3))
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, 8), nn.Tanh(), nn.Linear(8, 3))
    loader = [{"image": batch["image"], "label": torch.tensor([0, 2])} for batch in batches(2)]
    features = DistillationTerm("features", HintLoss(), "1", "1", adapter=ProjectionAdapter)
    terms = [soft(), features, DistillationTerm("dkd", DKDLoss(), batch={"label": "label"})]
    trained, trainer = train(student, loader, teacher, terms, task_weight=0.0, loss=nn.CrossEntropyLoss(), amp=amp)
    assert not torch.equal(weights(trained), weights(student))
    assert set(log_terms(trainer.state.output)) == {"loss", "task_loss", "soft", "features", "dkd"}


def test_tuple_batches_need_nothing_but_image_and_label():
    student, teacher = plain(), plain()
    pairs = [(batch["image"], batch["label"]) for batch in batches(2)]
    from_pairs, _ = train(student, pairs, teacher, [soft()])
    from_dicts, _ = train(student, batches(2), teacher, [soft()])
    assert torch.equal(weights(from_pairs), weights(from_dicts))


# --- what is logged -------------------------------------------------------------------------------------------------


@both_branches
def test_every_term_is_in_the_output_and_in_the_log(amp, caplog):
    stats = StatsHandler(iteration_log=True, epoch_log=False, output_transform=log_terms)
    stats.logger = logging.getLogger("stats")  # MONAI's own does not propagate to where the test listens
    terms = [soft(), hint(weight=3.0)]
    with caplog.at_level(logging.INFO):
        _, trainer = train(plain(), batches(1), plain(channels=8), terms, handlers=[stats], amp=amp)
    values = log_terms(trainer.state.output)
    assert list(values) == ["loss", "task_loss", "soft", "hint"]
    assert values["loss"] == pytest.approx(values["task_loss"] + values["soft"] + 3.0 * values["hint"])
    line = next(record.message for record in caplog.records if "task_loss: " in record.message)
    assert all(f"{key}: {value:.4f}" in line for key, value in values.items())


@both_branches
def test_the_first_batch_says_value_weight_and_gradient_norm(amp, caplog):
    student, teacher, batch = plain(), plain(), batches(1)[0]
    terms = [soft(weight=0.5), hint(adapter=None, weight=starts_at(1, 20.0))]
    with caplog.at_level(logging.INFO):
        train(student, [batch] * 3, teacher, terms, task_weight=0.25, epochs=2, amp=amp)
    lines = [record.message for record in caplog.records if record.message.startswith("first batch: ")]

    image = batch["image"]
    expected = {
        "task_loss": (cross_entropy(student(image), batch["label"]), 0.25),
        "soft": (SoftTargetLoss()(student(image), teacher(image).detach()), 0.5),
        "hint": (HintLoss()(student[0](image), teacher[0](image).detach()), 20.0),
    }
    assert len(lines) == len(expected)  # once, not in every iteration
    for line, (name, (value, weight)) in zip(lines, expected.items()):
        student.zero_grad()
        (weight * value).backward()
        norm = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]).norm()
        found = re.fullmatch(
            rf"first batch: {name} (\S+), weight (\S+), weighted gradient norm at the student (\S+)", line
        )
        assert [float(x) for x in found.groups()] == pytest.approx([value.item(), weight, norm.item()], rel=2e-3)


def test_a_term_without_gradient_is_seen_in_the_first_batch(caplog):
    dead = DistillationTerm("dead", lambda student, teacher: (student.detach() - teacher).square().mean())
    with caplog.at_level(logging.INFO, "scales"):
        student = plain()
        handler = DistillationHandler(distiller_for(student, plain(), [dead]), name="scales")
        trainer_for(student, batches(1), [handler]).run()
    assert [r.message for r in caplog.records if r.name == "scales"][1].endswith("student 0 (no gradient)")


# --- modes, hooks, runs ---------------------------------------------------------------------------------------------


@both_branches
def test_validation_between_epochs_disturbs_nothing(amp):
    student, teacher = normed(), normed()
    distiller = distiller_for(student, teacher, [soft(), hint()])
    during = []

    def inferer(inputs, network):
        during.append((network.training, hooks_on(network)))
        return network(inputs)

    evaluator = SupervisedEvaluator("cpu", batches(2, seed=1), student, inferer=inferer)
    handlers = [DistillationHandler(distiller), ValidationHandler(1, evaluator)]
    trainer = trainer_for(student, batches(3), handlers, distiller, epochs=3, amp=amp)
    seen = collect(trainer, IterationEvents.LOSS_COMPLETED, lambda engine: (student.training, teacher.training))
    after = collect(trainer, Events.ITERATION_COMPLETED, lambda engine: hooks_on(student))
    trainer.run()
    assert seen == [(True, False)] * 9
    assert after == [[]] * 9
    assert during == [(False, [])] * 6
    assert hooks_on(student) == hooks_on(teacher) == []


def test_copies_that_run_while_training_disturb_nothing():
    def run(copying):
        torch.manual_seed(0)
        student = plain()
        distiller = distiller_for(student, plain(channels=8), [hint()])
        trainer = trainer_for(student, batches(3), [DistillationHandler(distiller)], distiller)
        if copying:  # an average of the weights, say, while the taps are open
            trainer.add_event_handler(
                IterationEvents.FORWARD_COMPLETED,
                lambda engine: copy.deepcopy(student)(torch.ones(2, 1, SIZE, SIZE)),
            )
        trainer.run()
        return weights(student)

    assert torch.equal(run(copying=True), run(copying=False))


def test_the_trainer_can_run_twice(caplog):
    student, teacher = plain(), plain(channels=8)
    torch.manual_seed(0)
    distiller = distiller_for(student, teacher, [soft(), hint()])
    start = [copy.deepcopy(student), copy.deepcopy(distiller)]
    trainer = trainer_for(student, batches(2), [DistillationHandler(distiller)], distiller)
    trainer.run()
    trainer.run()
    once = trainer_for(start[0], batches(2), [DistillationHandler(start[1])], start[1], epochs=2)
    once.run()
    torch.testing.assert_close(weights(student), weights(start[0]))


def test_a_run_after_a_failed_run_is_like_any_other():
    class FailsOnce(nn.Sequential):
        failed = False

        def forward(self, x):
            x = self[0](x)
            if not self.failed:
                self.failed = True
                raise RuntimeError("out of memory")
            return self[2](self[1](x))

    student, teacher = plain(), plain()
    expected, _ = train(student, batches(2), teacher, [soft(), hint(adapter=None)])
    failing = FailsOnce(*student)
    distiller = Distiller(failing, FrozenTeacher(teacher), [soft(), hint(adapter=None)])
    handler = DistillationHandler(distiller)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer_for(failing, batches(2), [handler], distiller).run()
    trainer_for(failing, batches(2), [handler], distiller).run()
    assert torch.equal(weights(failing), weights(expected))
    assert hooks_on(failing) == []


@pytest.mark.parametrize("skip_completed", [False, True])
def test_a_stopped_run_leaves_no_hooks(skip_completed):
    student = plain()
    distiller = distiller_for(student, plain(), [hint(adapter=None)])
    trainer = trainer_for(student, batches(5), [DistillationHandler(distiller)], distiller)
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED(once=3), lambda: trainer.terminate(skip_completed))
    trainer.run()
    assert trainer.state.iteration == 3
    assert hooks_on(student) == []


def test_two_trainers_in_one_process_do_not_meet():
    def make(seed):
        torch.manual_seed(seed)
        student = plain()
        distiller = distiller_for(student, plain(channels=8), [soft(), hint()])
        return student, trainer_for(student, batches(2), [DistillationHandler(distiller)], distiller)

    alone = []
    for seed in (1, 2):
        student, trainer = make(seed)
        trainer.run()
        alone.append(weights(student))
    (first, outer), (second, inner) = make(1), make(2)
    outer.add_event_handler(
        IterationEvents.FORWARD_COMPLETED, lambda engine: inner.run() if engine.state.iteration == 1 else None
    )
    outer.run()
    assert torch.equal(weights(first), alone[0])
    assert torch.equal(weights(second), alone[1])


def test_the_students_checkpoint_loads_strictly_into_a_plain_network(tmp_path):
    student, teacher = normed(), normed(channels=8)
    distiller = distiller_for(student, teacher, [soft(), hint()])
    saver = CheckpointSaver(str(tmp_path), {"model": student}, save_final=True, final_filename="model.pt")
    trainer_for(student, batches(2), [DistillationHandler(distiller), saver], distiller).run()
    fresh = normed()
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    image = batches(1)[0]["image"]
    assert torch.equal(fresh.eval()(image), student.eval()(image))


# --- schedules ------------------------------------------------------------------------------------------------------


@both_branches
def test_a_scheduled_term_acts_from_its_epoch_on(amp):
    student, teacher = plain(), plain()
    late, trainer = train(student, batches(1), teacher, [soft(weight=starts_at(3))], task_weight=0.0, epochs=2, amp=amp)
    assert torch.equal(weights(late), weights(student))
    assert log_terms(trainer.state.output)["soft"] > 0  # the value is logged before its weight rises
    late, _ = train(student, batches(1), teacher, [soft(weight=starts_at(3))], task_weight=0.0, epochs=3, amp=amp)
    now, _ = train(student, batches(1), teacher, [soft()], task_weight=0.0, epochs=1, amp=amp)
    assert torch.equal(weights(late), weights(now))


# --- non-finite terms -----------------------------------------------------------------------------------------------


@both_branches
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_term_stops_the_run_before_it_reaches_the_weights(value, amp):
    student, teacher = plain(), plain()
    with torch.no_grad():
        teacher[0].bias[0] = value
    broken = DistillationTerm("broken", lambda s, t: (s - t).square().mean(), "0", "0")
    sound = DistillationTerm("sound", lambda student, teacher: student.square().mean())
    distiller = distiller_for(student, teacher, [sound, broken])
    trainer = trainer_for(student, batches(2), [DistillationHandler(distiller)], amp=amp)
    before = weights(student)
    with pytest.raises(NonFiniteTermError, match="term 'broken' is not finite in epoch 1, iteration 1"):
        trainer.run()
    assert torch.equal(weights(student), before)
    assert hooks_on(student) == []


def test_a_term_that_breaks_later_is_found_then_even_at_weight_0():
    student, calls = plain(), []

    def loss(student, teacher):
        calls.append(1)
        return student.mean() * (float("nan") if len(calls) == 4 else 1.0)  # the dry run is the first call

    distiller = distiller_for(student, plain(), [DistillationTerm("late", loss, weight=0.0)])
    trainer = trainer_for(student, batches(2), [DistillationHandler(distiller)], epochs=3)
    with pytest.raises(NonFiniteTermError, match="term 'late' is not finite in epoch 2, iteration 3"):
        trainer.run()
    assert torch.isfinite(weights(student)).all()


# --- unlabelled images ----------------------------------------------------------------------------------------------


@both_branches
@pytest.mark.parametrize("dims", [2, 3])
def test_an_unlabelled_batch_gives_the_gradient_of_one_mixed_batch(dims, amp):
    student, teacher = plain(dims), plain(dims, 8)
    four = items(4, dims)
    mixed = {**join(four), "has_label": torch.tensor([True, True, False, False])}
    terms = [soft(), hint(), DistillationTerm("dkd", DKDLoss(), batch={"label": "label"})]
    together, _ = train(
        student, [mixed], teacher, copy.deepcopy(terms), dims, handlers=[LabelledItemsHandler()], amp=amp
    )
    apart, _ = train(
        student,
        [join(four[:2])],
        teacher,
        copy.deepcopy(terms),
        dims,
        unlabelled_loader=[{"image": join(four[2:])["image"]}],
        amp=amp,
    )
    torch.testing.assert_close(weights(apart), weights(together))
    labelled_only, _ = train(student, [join(four[:2])], teacher, copy.deepcopy(terms), dims, amp=amp)
    assert not torch.allclose(weights(labelled_only), weights(together))


def test_batches_of_different_sizes_are_averaged_over_images():
    student, teacher, four = plain(), plain(), items(4)
    mixed = {**join(four), "has_label": torch.tensor([True, False, False, False])}
    together, _ = train(student, [mixed], teacher, [soft()], handlers=[LabelledItemsHandler()])
    apart, _ = train(student, [join(four[:1])], teacher, [soft()], unlabelled_loader=[join(four[1:])["image"]])
    torch.testing.assert_close(weights(apart), weights(together))


def test_a_shuffled_unlabelled_loader_begins_with_each_epoch_and_again_where_it_ends():
    seen = []

    class Seen(Dataset):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    loader = DataLoader(Seen([{"image": item["image"]} for item in items(3)]), batch_size=1, shuffle=True)
    train(plain(), batches(4), plain(), [soft()], unlabelled_loader=loader, epochs=3)
    assert len(seen) == 12
    assert all(sorted(seen[i : i + 3]) == [0, 1, 2] for i in range(0, 12, 4))
    assert len({tuple(seen[i : i + 3]) for i in range(0, 12, 4)}) > 1  # shuffled anew


def test_the_sampler_of_the_unlabelled_loader_learns_its_epoch():
    class Sampler(torch.utils.data.SequentialSampler):
        epochs = []  # noqa: RUF012

        def set_epoch(self, epoch):
            self.epochs.append(epoch)

    data = Dataset([{"image": item["image"]} for item in items(2)])
    train(plain(), batches(5), plain(), [soft()], unlabelled_loader=DataLoader(data, sampler=Sampler(data)), epochs=2)
    assert Sampler.epochs == [1, 2, 3, 2, 3, 4]


def test_an_empty_unlabelled_loader_is_refused():
    with pytest.raises(ValueError, match="loader of unlabelled images is empty"):
        train(plain(), batches(1), plain(), [soft()], unlabelled_loader=[])


def test_unlabelled_batches_without_images_are_refused():
    with pytest.raises(KeyError, match=r"needs the batch keys \['image'\]; the batch has \['picture'\]"):
        train(plain(), batches(1), plain(), [soft()], unlabelled_loader=[{"picture": torch.zeros(2, 1, SIZE, SIZE)}])


# --- refusals -------------------------------------------------------------------------------------------------------


def test_adapters_missing_from_the_optimizer_are_refused():
    student = plain()
    distiller = distiller_for(student, plain(channels=8), [hint()])
    trainer = trainer_for(student, batches(1), [DistillationHandler(distiller)], distiller=None)
    with pytest.raises(
        ValueError, match=r"2 parameters of the distiller are not in the optimizer \(terms.hint.adapter"
    ):
        trainer.run()


def test_an_engine_without_the_event_is_refused():
    handler = DistillationHandler(distiller_for(plain(), plain(), [soft()]))
    with pytest.raises(TypeError, match=r"this Engine does not know IterationEvents.LOSS_COMPLETED"):
        handler.attach(Engine(lambda engine, batch: None))


def test_something_that_is_no_distiller_is_refused():
    with pytest.raises(TypeError, match="expected a Distiller, got Sequential"):
        DistillationHandler(plain())


@pytest.mark.parametrize("task_weight", [-1.0, float("nan")])
def test_a_task_weight_that_makes_no_sense_is_refused(task_weight):
    with pytest.raises(ValueError, match="task_weight must not be negative"):
        DistillationHandler(distiller_for(plain(), plain(), [soft()]), task_weight=task_weight)


@both_branches
def test_a_missing_batch_key_is_named(amp):
    masked = DistillationTerm("masked", SoftTargetLoss(), batch={"mask": "valid"})
    with pytest.raises(KeyError, match=r"needs the batch keys \['valid'\]; the batch has \['image', 'label'\]"):
        train(plain(), batches(1), plain(), [masked], amp=amp)


def test_a_trainer_of_another_network_is_refused():
    distiller = distiller_for(plain(), plain(), [DistillationTerm("hint", HintLoss(), "2", "2")])
    trainer = trainer_for(nn.Sequential(nn.Conv2d(1, 3, 1)), batches(1), [DistillationHandler(distiller)])
    with pytest.raises(ValueError, match="no layer named '2'"):
        trainer.run()


# --- two processes --------------------------------------------------------------------------------------------------


# Which items are labelled: in the second step the processes have unequal numbers of them, in the third one has none.
LABELLED = ([True, True, True, True], [True, True, False, True], [True, False, False, False])


def _two_process_networks():
    torch.manual_seed(0)
    return plain(), plain(channels=8)


def _two_process_terms():
    return [soft(), hint(), DistillationTerm("dkd", DKDLoss(), batch={"label": "label"})]


def _two_process_batches():
    return [{**batch, "has_label": torch.tensor(flags)} for batch, flags in zip(batches(3, size=4), LABELLED)]


def _process(rank, folder):
    student, teacher = _two_process_networks()
    distiller = distiller_for(student, teacher, _two_process_terms())
    loader = [{key: value[2 * rank : 2 * rank + 2] for key, value in batch.items()} for batch in _two_process_batches()]
    wrapped = nn.parallel.DistributedDataParallel(student)

    bare = trainer_for(wrapped, loader, [DistillationHandler(distiller)], distiller)
    with pytest.raises(ValueError, match="several processes run: wrap it in DistributedDataParallel"):
        bare.run()

    handler = DistillationHandler(nn.parallel.DistributedDataParallel(distiller))
    trainer_for(wrapped, loader, [handler], distiller, epochs=2).run()
    torch.save([weights(student), weights(distiller)], f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_processes_train_student_and_adapters_like_one(tmp_path, in_processes):
    student, teacher = _two_process_networks()
    distiller = distiller_for(student, teacher, _two_process_terms())
    start = weights(distiller)
    trainer_for(student, _two_process_batches(), [DistillationHandler(distiller)], distiller, epochs=2).run()
    assert not torch.allclose(weights(distiller), start)
    in_processes(_process)
    for rank in range(2):
        for found, expected in zip(torch.load(tmp_path / f"{rank}.pt"), [weights(student), weights(distiller)]):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
