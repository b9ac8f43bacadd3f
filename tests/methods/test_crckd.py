from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from monai.networks.nets import DenseNet
from torch import nn

from monai_kd import DistillationHandler, Distiller, FeatureTaps
from monai_kd.handlers import EMAUpdateHandler, LabelledItemsHandler
from monai_kd.methods import crckd_terms
from monai_kd.schedules import weight_at
from monai_kd.teachers import EMATeacher

# MONAI's amp autocasts "cuda" and warns on a machine without one; its branch runs all the same.
pytestmark = pytest.mark.filterwarnings("ignore")
both_branches = pytest.mark.parametrize("amp", [False, True], ids=["plain", "amp"])

TAP, CHANNELS = "class_layers.flatten", 16
LABELS = [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
ORDER = [0, 5, 9, 1, 6, 10, 2, 7, 11, 3, 8, 4]
NAMES = ["consistency", "class_contrast", "categorical_relation"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def network():
    return DenseNet(2, 1, 3, init_features=8, growth_rate=4, block_config=(2, 2))


def batch_of(rows, seed=0):
    """The images ``rows`` of a data set: a pattern of the class and noise, another noise for the teacher."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(3, 1, 16, 16, generator=generator)
    noise = torch.randn(2, len(LABELS), 1, 16, 16, generator=generator)
    label = torch.tensor(LABELS)
    images = patterns[label] + 0.5 * noise
    index = torch.tensor(rows)
    return {"image": images[0, index], "teacher_image": images[1, index], "label": label[index], "index": index}


def batches(size=4):
    return [batch_of(ORDER[start : start + size]) for start in range(0, len(ORDER), size)]


def unlabelled_batch(count=2):
    images = torch.randn(2, count, 1, 16, 16, generator=torch.Generator().manual_seed(7))
    return {"image": images[0], "teacher_image": images[1], "index": torch.full((count,), -1)}


def terms_for(**kwargs):
    return crckd_terms(LABELS, TAP, CHANNELS, **{"dimension": 8, "first_epoch": 1, "ramp_length": 1, **kwargs})


def distiller_for(student, **kwargs):
    teacher = EMATeacher(student, decay=0.9, input_key="teacher_image")
    return Distiller(student, teacher, terms_for(**kwargs), input_shape=(2, 1, 16, 16))


def trainer_for(
    student, distiller=None, loader=None, epochs=1, task_weight=1.0, handlers=(), unlabelled=None, **kwargs
):
    parameters, handlers = list(student.parameters()), list(handlers)
    if distiller is not None:
        parameters += [p for p in distiller.parameters() if p.requires_grad]
        handlers = [
            DistillationHandler(distiller, task_weight=task_weight, unlabelled_loader=unlabelled),
            EMAUpdateHandler(distiller.teachers["teacher"]),
            *handlers,
        ]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    return SupervisedTrainer(
        "cpu",
        epochs,
        batches() if loader is None else loader,
        student,
        optimizer,
        nn.CrossEntropyLoss(),
        train_handlers=handlers,
        decollate=False,
        **kwargs,
    )


def memory_of(distiller):
    return next(term.loss.memory for term in distiller.terms.values() if hasattr(term.loss, "memory"))


def losses_of(student, distiller, batch):
    """The terms of a batch as a trainer computes them."""
    with FeatureTaps(student, distiller.student_taps) as taps:
        prediction = student.train()(batch["image"])
        return distiller({"output": prediction, **taps.outputs()}, batch)


def copies(net):
    return {key: value.clone() for key, value in net.state_dict().items()}


def differing(net, state):
    found = net.state_dict()
    assert found.keys() == state.keys()
    return [key for key, value in found.items() if not torch.equal(value, state[key])]


# --- names and weights ----------------------------------------------------------------------------------------------


def test_the_terms_are_those_of_the_paper():
    terms = {term.name: term for term in crckd_terms(LABELS, TAP, CHANNELS)}
    assert list(terms) == NAMES
    consistency, contrast, relation = terms.values()
    assert consistency.student_taps == consistency.teacher_taps == ["output"]
    for term in (contrast, relation):
        assert term.student_taps == term.teacher_taps == [TAP]
    assert [term.batch for term in terms.values()] == [{}, {"label": "label", "index": "index"}, {}]
    assert [term.needs_label for term in terms.values()] == [False, True, False]
    assert (contrast.loss.positives, contrast.loss.negatives, contrast.loss.noise) == (20, 4096, "uniform")
    assert consistency.loss.temperature == 1.0
    assert contrast.loss.temperature == relation.loss.temperature == 0.07
    assert contrast.loss.memory.momentum == 0.5
    assert contrast.loss.memory.student_rows.shape == (len(LABELS), 128)
    assert relation.loss.rectify
    assert not relation.loss.writes


def test_the_weights_of_every_epoch():
    """Consistency enters in the 21st epoch, on a ramp over 30; the contrast keeps 0.1; relations are there from 21."""
    consistency, contrast, relation = (term.weight for term in crckd_terms(LABELS, TAP, CHANNELS))
    for epoch in range(1, 81):
        passed = min(epoch - 1, 30)
        ramp = math.exp(-5 * (1 - passed / 30) ** 2) if epoch >= 21 else 0.0
        assert weight_at(consistency, epoch) == pytest.approx(ramp, rel=1e-12)
        assert weight_at(contrast, epoch) == 0.1
        assert weight_at(relation, epoch) == (1.0 if epoch >= 21 else 0.0)
    known = {1: 0.0, 20: 0.0, 21: 0.57375, 26: 0.87032, 30: 0.99446, 31: 1.0, 80: 1.0}
    assert {epoch: round(weight_at(consistency, epoch), 5) for epoch in known} == known
    assert weight_at(consistency, 31) == 1.0


def test_other_weights_and_epochs():
    terms = terms_for(consistency_weight=3.0, contrast_weight=0.5, relation_weight=2.0, first_epoch=2, ramp_length=4)
    found = [[weight_at(term.weight, epoch) for epoch in (1, 2, 4, 5)] for term in terms]
    ramp = [3.0 * math.exp(-5 * (1 - passed / 4) ** 2) for passed in (1, 3)]
    assert found[0] == [0.0, *(pytest.approx(value) for value in ramp), 3.0]
    assert found[1:] == [[0.5] * 4, [0.0, 2.0, 2.0, 2.0]]


@pytest.mark.parametrize("missing", [[name] for name in NAMES] + [NAMES[:2], NAMES[1:], NAMES[::2]])
def test_a_weight_of_0_leaves_its_term_out(missing):
    arguments = {"consistency": "consistency_weight", "class_contrast": "contrast_weight"}
    zeros = {arguments.get(name, "relation_weight"): 0.0 for name in missing}
    distiller = distiller_for(network(), **zeros)
    assert list(distiller.terms) == [name for name in NAMES if name not in missing]
    needed = {"image", "teacher_image"}
    if "class_contrast" in distiller.terms:
        needed |= {"label", "index"}
    elif "categorical_relation" in distiller.terms:
        needed |= {"index"}
    assert distiller.batch_keys() == needed


def test_arguments_reach_the_memory_and_the_losses():
    _, contrast, relation = terms_for(temperature=0.5, positives=3, negatives=7, dimension=5, momentum=0.25, seed=9)
    assert (contrast.loss.positives, contrast.loss.negatives) == (3, 7)
    assert contrast.loss.temperature == relation.loss.temperature == 0.5
    assert contrast.loss.memory.momentum == 0.25
    assert contrast.loss.memory.student_rows.shape == (12, 5)
    rows = [terms_for(seed=seed)[1].loss.memory.student_rows for seed in (0, 1, 1)]
    assert torch.equal(rows[1], rows[2])
    assert not torch.equal(rows[0], rows[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"consistency_weight": 0, "contrast_weight": 0, "relation_weight": 0}, "at least one weight above 0"),
        ({"consistency_weight": -1.0}, "not negative"),
        ({"contrast_weight": -1.0}, "not negative"),
        ({"relation_weight": -1.0}, "not negative"),
        ({"relation_weight": math.nan, "first_epoch": 21}, "not negative"),
        ({"first_epoch": 0}, "counted from 1"),
        ({"ramp_length": 0}, "at least 1 epoch"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"positives": 0}, "1 or more"),
        ({"momentum": 1.0}, "momentum"),
        ({"dimension": 0}, "dimension"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        crckd_terms(LABELS, TAP, CHANNELS, **{"first_epoch": 3, **arguments})


# --- one memory -----------------------------------------------------------------------------------------------------


def test_contrast_and_relation_share_one_memory():
    distiller = distiller_for(network())
    contrast, relation = (distiller.terms[name].loss for name in NAMES[1:])
    assert contrast.memory is relation.memory
    heads = [contrast.memory.student_head, contrast.memory.teacher_head]
    assert {id(p) for p in distiller.parameters()} == {id(p) for head in heads for p in head.parameters()}
    assert len(list(distiller.parameters())) == 4
    distiller.double()
    assert contrast.memory is relation.memory
    assert contrast.memory.student_rows.dtype == torch.float64


def test_two_lists_of_terms_share_nothing():
    first, second = terms_for(), terms_for()
    assert first[1].loss.memory is not second[1].loss.memory


def test_construction_writes_nothing():
    student = network()
    distiller = distiller_for(student)
    fresh = terms_for()[1].loss
    assert torch.equal(memory_of(distiller).student_rows, fresh.memory.student_rows)
    assert distiller.terms["class_contrast"].loss.log_partition.isnan().all()
    assert differing(distiller.teachers["teacher"].network, student.state_dict()) == []


# --- the values -----------------------------------------------------------------------------------------------------


def test_the_loss_of_a_batch_is_the_formula():
    student = network()
    distiller = distiller_for(student, positives=3, negatives=5)
    teacher, batch = copy.deepcopy(distiller.teachers["teacher"].network), batches()[1]
    with torch.no_grad():
        teacher.class_layers.out.weight += torch.randn(3, CHANNELS)
        distiller.teachers["teacher"].network.class_layers.out.weight.copy_(teacher.class_layers.out.weight)
    memory, before = memory_of(distiller), copy.deepcopy(memory_of(distiller))
    twin = copy.deepcopy(student).train()
    with FeatureTaps(twin, [TAP]) as ours, FeatureTaps(teacher.train(), [TAP]) as theirs:
        p, q = twin(batch["image"]), teacher(batch["teacher_image"])
        g, h = before.student_head(ours.outputs()[TAP]), before.teacher_head(theirs.outputs()[TAP])
    g, h = F.normalize(g, dim=1), F.normalize(h, dim=1)
    losses = losses_of(student, distiller, batch)

    expected = F.kl_div(p.log_softmax(1), q.softmax(1), reduction="batchmean")
    torch.testing.assert_close(losses["consistency"], expected)

    labels, n, k = torch.tensor(LABELS), len(LABELS), 5
    rows = torch.eye(n)[batch["index"]]
    same = (labels == batch["label"][:, None]).float()
    positive = 2 / 3 * same / same.sum(1, keepdim=True) + rows / 3
    negative = k * (1 - same) / (1 - same).sum(1, keepdim=True)
    drawn = 3 * positive + negative  # how often a row is compared with the anchor, of 3 + 5
    expected = 0
    for anchors, bank in ((g, before.teacher_rows), (h, before.student_rows)):
        x = (anchors @ bank.T / 0.07).exp()
        x = x / (n * (drawn * x).detach().sum() / drawn.sum())
        expected += -(positive * (x / (x + k / n)).log() + negative * (k / n / (x + k / n)).log()).sum() / len(g)
    torch.testing.assert_close(losses["class_contrast"], expected, rtol=1e-4, atol=1e-5)

    relations = []
    for anchors, bank in ((g, before.student_rows), (h, before.teacher_rows)):
        bank = bank.clone()  # as this batch leaves it
        bank[batch["index"]] = F.normalize(0.5 * bank[batch["index"]] + 0.5 * anchors.detach(), dim=1)
        centroids = F.normalize(torch.stack([bank[labels == c].relu().mean(dim=0) for c in range(3)]), dim=1)
        relations.append(anchors @ centroids.T / 0.07)
    expected = F.kl_div(relations[0].log_softmax(1), relations[1].softmax(1), reduction="batchmean")
    torch.testing.assert_close(losses["categorical_relation"], expected, rtol=1e-4, atol=1e-6)
    assert not torch.equal(memory.student_rows, before.student_rows)


def test_a_batch_of_one():
    """Every term of one image is what it is worth in a batch, up to batch statistics."""
    student, one = network(), batch_of([5])
    distiller = distiller_for(student)
    losses = losses_of(student, distiller, one)
    assert list(losses) == NAMES
    assert all(value.ndim == 0 and value.isfinite() and value > 0 for value in losses.values())
    distiller.total(losses, 1).backward()
    assert student.features.conv0.weight.grad.any()
    memory, again = memory_of(distiller), memory_of(distiller_for(network()))
    moved = (memory.student_rows != again.student_rows).any(dim=1)
    assert moved.tolist() == [row == 5 for row in range(len(LABELS))]
    trainer_for(student, distiller, loader=[one, batch_of([0])]).run()
    assert distiller.teachers["teacher"].updates == 2


# --- training -------------------------------------------------------------------------------------------------------


@both_branches
def test_training_moves_all_that_it_should(amp):
    student = network()
    distiller = distiller_for(student)
    teacher, memory = distiller.teachers["teacher"], memory_of(distiller)
    before = {**copies(distiller), **copies(student)}
    evaluator = SupervisedEvaluator("cpu", batches(), student)
    trainer = trainer_for(
        student, distiller, epochs=2, task_weight=0.0, amp=amp, handlers=[ValidationHandler(1, evaluator)]
    )
    first = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=1),
        lambda: first.extend(
            name for name, p in student.named_parameters() if not torch.equal(p, teacher.network.get_buffer(name))
        ),
    )
    trainer.run()
    assert first == []  # the teacher of the first step is the student
    same = [name for name, p in student.named_parameters() if torch.equal(p, before[name])]
    assert same == []  # with a task weight of 0 the terms alone have moved it, its classifier too
    assert (memory.student_rows != before["terms.class_contrast.loss.memory.student_rows"]).any(dim=1).all()
    assert (memory.teacher_rows != before["terms.class_contrast.loss.memory.teacher_rows"]).any(dim=1).all()
    for rows in (memory.student_rows, memory.teacher_rows):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(LABELS)))
    for head in ("student_head", "teacher_head"):
        assert not torch.equal(getattr(memory, head).weight, before[f"terms.class_contrast.loss.memory.{head}.weight"])
    assert distiller.terms["class_contrast"].loss.log_partition.isfinite().all()
    assert teacher.updates == 6
    assert teacher.network.features.norm0.num_batches_tracked == 6
    assert not torch.equal(teacher.network.features.conv0.weight, student.features.conv0.weight)


@pytest.mark.parametrize("name", NAMES)
def test_each_term_alone_reaches_the_student(name):
    student = network()
    distiller = distiller_for(student)
    with torch.no_grad():  # at the start, the teacher of the same images has nothing to teach
        for value in distiller.teachers["teacher"].network.class_layers.out.buffers():
            value += torch.randn(value.shape)
    losses_of(student, distiller, batches()[0])[name].backward()
    assert student.features.conv0.weight.grad.any()
    heads = [head.weight.grad for head in (memory_of(distiller).student_head, memory_of(distiller).teacher_head)]
    reached = [gradient is not None and bool(gradient.any()) for gradient in heads]
    assert reached == {NAMES[0]: [False, False], NAMES[1]: [True, True], NAMES[2]: [True, False]}[name]


def test_the_partition_is_set_once():
    student = network()
    distiller = distiller_for(student)
    trainer, found = trainer_for(student, distiller, epochs=2), []
    loss = distiller.terms["class_contrast"].loss
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: found.append(loss.log_partition.clone()))
    trainer.run()
    assert found[0].isfinite().all()
    assert all(torch.equal(value, found[0]) for value in found)


@both_branches
@pytest.mark.parametrize("silent", ["weights of 0", "before the first epoch"])
def test_terms_without_weight_leave_training_bit_identical(silent, amp):
    student = network()
    twin = copy.deepcopy(student)
    arguments = {} if silent == "weights of 0" else {"contrast_weight": 0.0, "first_epoch": 3}
    distiller = distiller_for(student, **arguments)
    if silent == "weights of 0":
        for term in distiller.terms.values():
            term.weight = 0.0
    rows = memory_of(distiller).student_rows.clone()
    trainer_for(student, distiller, epochs=2, amp=amp).run()
    trainer_for(twin, epochs=2, amp=amp).run()
    assert differing(student, twin.state_dict()) == []
    assert (memory_of(distiller).student_rows != rows).any(dim=1).all()  # banks fill before they are used
    assert distiller.teachers["teacher"].updates == 6


def test_from_their_first_epoch_on_they_change_training():
    student = network()
    twin = copy.deepcopy(student)
    distiller = distiller_for(student, contrast_weight=0.0, first_epoch=3)
    trainer_for(student, distiller, epochs=3).run()
    trainer_for(twin, epochs=3).run()
    assert differing(student, twin.state_dict())


def test_relations_alone_write_the_banks_themselves():
    student = network()
    distiller = distiller_for(student, consistency_weight=0.0, contrast_weight=0.0)
    memory = memory_of(distiller)
    before = copies(memory)
    trainer_for(student, distiller, loader=batches()[:2], task_weight=0.0).run()
    written = torch.zeros(len(LABELS), dtype=torch.bool)
    written[ORDER[:8]] = True
    for name in ("student_rows", "teacher_rows"):
        assert torch.equal((getattr(memory, name) != before[name]).any(dim=1), written)
    assert not torch.equal(memory.student_head.weight, before["student_head.weight"])
    assert torch.equal(memory.teacher_head.weight, before["teacher_head.weight"])  # only the contrast trains it
    distiller.eval()
    before = copies(memory)
    losses_of(student, distiller, batches()[0])
    assert differing(memory, before) == []


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("arguments", [{}, {"contrast_weight": 0.0}], ids=["all", "without contrast"])
def test_a_distiller_in_distributed_data_parallel_trains_the_same(arguments):
    student = network()
    distiller = distiller_for(student, **arguments)
    twins = copy.deepcopy((student, distiller))
    trainer_for(*twins).run()
    wrapped = nn.parallel.DistributedDataParallel(distiller)
    parameters = [p for p in [*student.parameters(), *distiller.parameters()] if p.requires_grad]
    SupervisedTrainer(
        "cpu",
        1,
        batches(),
        nn.parallel.DistributedDataParallel(student),
        torch.optim.Adam(parameters, lr=0.01),
        nn.CrossEntropyLoss(),
        train_handlers=[DistillationHandler(wrapped), EMAUpdateHandler(distiller.teachers["teacher"])],
    ).run()
    for net, twin in zip((student, distiller), twins, strict=True):
        for value, other in zip(net.state_dict().values(), twin.state_dict().values(), strict=True):
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5)


# --- unlabelled images ----------------------------------------------------------------------------------------------


@both_branches
@pytest.mark.parametrize("arguments", [{}, {"contrast_weight": 0.0}], ids=["all", "without contrast"])
def test_unlabelled_images_count_where_no_label_is_needed(arguments, amp):
    student = network()
    distiller = distiller_for(student, **arguments)
    labelled, unlabelled = batches()[0], unlabelled_batch()
    twin, other = copy.deepcopy((student, distiller))
    trainer = trainer_for(student, distiller, loader=[labelled], unlabelled=[unlabelled], amp=amp)
    trainer.run()

    first = losses_of(twin, other, labelled)  # writes the banks; the unlabelled images meet these
    rows = copies(memory_of(other))
    second = losses_of(twin, other, {**unlabelled, "label": torch.zeros(2).long(), "has_label": [False, False]})
    assert differing(memory_of(other), rows) == []
    for name, value in first.items():
        expected = value if name == "class_contrast" else (4 * value + 2 * second[name]) / 6
        torch.testing.assert_close(trainer.state.output[name], expected.detach())
        assert name == "class_contrast" or not torch.allclose(value, expected)
    assert torch.equal(memory_of(distiller).student_rows, memory_of(other).student_rows)


def test_only_rows_of_labelled_images_are_written():
    for arguments in ({}, {"contrast_weight": 0.0}):
        student = network()
        distiller = distiller_for(student, **arguments)
        memory = memory_of(distiller)
        rows = memory.student_rows.clone()
        trainer_for(student, distiller, loader=batches()[1:2], unlabelled=[unlabelled_batch()], epochs=2).run()
        moved = (memory.student_rows != rows).any(dim=1).nonzero().flatten().tolist()
        assert moved == sorted(ORDER[4:8])


def test_a_mixed_batch_is_as_two_loaders_have_it():
    """Unlabelled items in the same batch: no label, index -1."""
    student = network()
    distiller = distiller_for(student)
    twin, other = copy.deepcopy((student, distiller))
    mixed = {
        key: torch.cat([value, unlabelled_batch().get(key, torch.tensor([0, 0]))])
        for key, value in batches()[0].items()
    }
    mixed["has_label"] = torch.tensor([True] * 4 + [False] * 2)
    trainer = trainer_for(student, distiller, loader=[mixed], handlers=[LabelledItemsHandler()])
    trainer.run()
    moved = (memory_of(distiller).student_rows != memory_of(other).student_rows).any(dim=1).nonzero().flatten()
    assert moved.tolist() == sorted(ORDER[:4])
    with FeatureTaps(twin, [TAP]) as taps:
        prediction = twin.train()(mixed["image"])
        features = taps.outputs()[TAP]
    answer = other.teachers["teacher"](mixed, [TAP])
    contrast = other.terms["class_contrast"].loss
    expected = contrast(features[:4], answer[TAP][:4], mixed["label"][:4], mixed["index"][:4])
    torch.testing.assert_close(trainer.state.output["class_contrast"], expected.detach())
    for name, (ours, theirs) in {
        "consistency": (prediction, answer["output"]),
        "categorical_relation": (features, answer[TAP]),
    }.items():
        expected = other.terms[name].loss(ours, theirs)
        torch.testing.assert_close(trainer.state.output[name], expected.detach())


# --- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"contrast_weight": 0.0}], ids=["all", "without contrast"])
def test_a_resumed_run_goes_on_bit_identically(arguments, tmp_path):
    """Banks, partition, heads and mean teacher are in the distiller's state."""

    def make(seed):
        torch.manual_seed(seed)
        student = network()
        distiller = distiller_for(student, seed=seed, **arguments)
        return student, distiller, trainer_for(student, distiller)

    whole, halves, resumed = make(0), make(0), make(1)
    whole[2].run()
    whole[2].run()
    halves[2].run()
    assert differing(resumed[1], halves[1].state_dict())
    state = {"student": halves[0], "distiller": halves[1], "optimizer": halves[2].optimizer}
    torch.save({key: value.state_dict() for key, value in state.items()}, tmp_path / "run.pt")
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    for target, key in zip((*resumed[:2], resumed[2].optimizer), state):
        target.load_state_dict(state[key])
    assert differing(resumed[1], halves[1].state_dict()) == []
    resumed[2].run()
    assert differing(resumed[0], whole[0].state_dict()) == []
    assert differing(resumed[1], whole[1].state_dict()) == []
    assert resumed[1].teachers["teacher"].updates == 6


def test_the_students_and_the_teachers_networks_load_into_plain_ones():
    student = network()
    distiller = distiller_for(student)
    trainer_for(student, distiller).run()
    for source in (student, distiller.teachers["teacher"].network):
        plain = network()
        plain.load_state_dict(source.state_dict(), strict=True)
        image = batches()[0]["image"]
        assert torch.equal(plain.eval()(image), source.eval()(image))
