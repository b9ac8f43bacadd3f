from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from monai.engines import SupervisedEvaluator
from monai.networks.nets import DenseNet
from torch import nn

from monai_kd.distiller import DistillationTerm, Distiller
from monai_kd.losses import HintLoss, SoftTargetLoss
from monai_kd.teachers import EMATeacher, Teacher

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
EVERY_MODE = pytest.mark.parametrize("buffers", ["own", "copy", "ema"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def network(dims=2, channels=4):
    """Weights, and statistics that are numbers and counters."""
    return nn.Sequential(CONVOLUTIONS[dims](1, channels, 3), NORMS[dims](channels), CONVOLUTIONS[dims](channels, 2, 1))


def images(dims=2, batch=2):
    return torch.randn(batch, 1, *[6] * dims)


def copies(net):
    return {key: value.clone() for key, value in net.state_dict().items()}


def assert_same_bits(net, state):
    found = net.state_dict()
    assert found.keys() == state.keys()
    assert [key for key, value in found.items() if not torch.equal(value, state[key])] == []


@torch.no_grad()
def disturb(net, seed=0):
    """What a training step may do: every weight and every statistic changes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter += torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer += torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype)
        elif buffer.dtype != torch.bool:
            buffer += 1


def soft(**kwargs):
    return DistillationTerm("soft", SoftTargetLoss(), **kwargs)


# --- the average ----------------------------------------------------------------------------------------------------


@EVERY_MODE
@pytest.mark.parametrize("dims", [2, 3])
def test_the_first_update_copies_every_bit(dims, buffers):
    student = network(dims)
    teacher = EMATeacher(student, buffers=buffers)
    disturb(student)
    assert not torch.equal(teacher.network[0].weight, student[0].weight)
    teacher.update(student)
    for name, weight in student.named_parameters():
        assert torch.equal(teacher.network.get_buffer(name), weight)
    assert teacher.updates == 1


@pytest.mark.parametrize("decay", [0.99, 0.9, 0.5, 0.0])
def test_the_decay_is_the_papers(decay):
    """a = min(1 - 1 / (t + 1), decay): the plain mean until the decay is reached, with 0.99 for 100 steps."""
    student = nn.Linear(3, 2).double()
    teacher = EMATeacher(student, decay)
    values = torch.randn(150, 6, dtype=torch.float64)
    expected = torch.full((6,), torch.nan, dtype=torch.float64)
    for t, value in enumerate(values):
        with torch.no_grad():
            student.weight.copy_(value.reshape(2, 3))
        teacher.update(student)
        a = min(1 - 1 / (t + 1), decay)
        expected = a * expected + (1 - a) * value if a else value
        torch.testing.assert_close(teacher.network.weight.flatten(), expected, rtol=1e-12, atol=1e-12)
        if a < decay:
            torch.testing.assert_close(expected, values[: t + 1].mean(dim=0), rtol=1e-12, atol=1e-12)
    assert teacher.updates == 150


def test_without_decay_it_is_always_the_student():
    student = network()
    teacher = EMATeacher(student, decay=0.0, buffers="ema")
    for seed in range(3):
        disturb(student, seed)
        teacher.update(student)
        assert_same_bits(teacher.network, student.state_dict())


def test_single_precision_follows_double_precision():
    single = network()
    double = copy.deepcopy(single).double()
    teachers = [EMATeacher(net, buffers="ema") for net in (single, double)]
    for seed in range(150):
        disturb(single, seed)
        with torch.no_grad():
            for ours, theirs in zip(double.state_dict().values(), single.state_dict().values()):
                ours.copy_(theirs)
        for teacher, net in zip(teachers, (single, double)):
            teacher.update(net)
    for ours, theirs in zip(*(teacher.network.state_dict().values() for teacher in teachers)):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-5)


def test_no_update_touches_the_student():
    student = network().train()
    teacher = EMATeacher(student, buffers="copy")
    disturb(student)
    before, needs_gradient = copies(student), [p.requires_grad for p in student.parameters()]
    for _ in range(3):
        teacher.update(student)
        teacher({"image": images()}, ["output"])
    assert_same_bits(student, before)
    assert [p.requires_grad for p in student.parameters()] == needs_gradient == [True] * 6
    assert all(module.training for module in student.modules())


class Tied(nn.Module):
    """One weight under two names, and one layer under two names."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
        self.head.weight = self.embed.weight
        self.norm = self.again = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.head(self.again(self.norm(self.embed(x))))


@EVERY_MODE
def test_tied_weights_are_averaged_once(buffers):
    student = Tied().double()
    teacher = EMATeacher(student, decay=0.5, buffers=buffers)
    assert teacher.network.head.weight is teacher.network.embed.weight
    expected = None
    for t in range(4):
        disturb(student, t)
        teacher.update(student)
        weight = student.embed.weight.detach()
        expected = weight.clone() if expected is None else expected.lerp(weight, 0.5)
        torch.testing.assert_close(teacher.network.embed.weight, expected)
        assert torch.equal(teacher.network.head.weight, teacher.network.embed.weight)
    if buffers == "copy":
        assert torch.equal(teacher.network.norm.running_mean, student.norm.running_mean)
    teacher.float()
    disturb(student.float(), 4)
    teacher.update(student)
    torch.testing.assert_close(teacher.network.head.weight, expected.float().lerp(student.head.weight, 0.5))
    assert torch.equal(teacher.network.head.weight, teacher.network.embed.weight)


# --- statistics -----------------------------------------------------------------------------------------------------


def test_own_statistics_come_from_its_own_images_alone():
    student = network()
    teacher = EMATeacher(student, buffers="own", input_key="other")
    reference, batch = copy.deepcopy(student).train(), {"image": images(), "other": images()}
    for seed in range(3):
        disturb(student, seed)
        teacher.update(student)
        with torch.no_grad():
            for name, parameter in reference.named_parameters():
                parameter.copy_(teacher.network.get_buffer(name))
            reference(batch["other"])
        teacher(batch, ["output"])
    assert teacher.network[1].num_batches_tracked == 3
    assert_same_bits(teacher.network, reference.state_dict())


def test_copied_statistics_are_the_students():
    student = network()
    teacher = EMATeacher(student, buffers="copy")
    for seed in range(3):
        disturb(student, seed)
        teacher({"image": images()}, ["output"])  # gathers some of its own in between
        teacher.update(student)
        for name, value in student.named_buffers():
            assert torch.equal(teacher.network.get_buffer(name), value)


def test_averaged_statistics_are_averaged_as_the_weights_and_counters_copied():
    student = network().double()
    teacher = EMATeacher(student, decay=0.5, buffers="ema", train_mode=False)
    expected = None
    for seed in range(4):
        disturb(student, seed)
        teacher.update(student)
        value = student[1].running_var.clone()
        expected = value if expected is None else expected.lerp(value, 0.5)
        torch.testing.assert_close(teacher.network[1].running_var, expected)
        assert teacher.network[1].num_batches_tracked == student[1].num_batches_tracked == seed + 1


@EVERY_MODE
def test_no_storage_is_shared_with_the_student(buffers):
    student = network()
    teacher = EMATeacher(student, buffers=buffers)
    for _ in range(2):
        teacher.update(student)
        before = copies(teacher.network)
        disturb(student)
        assert_same_bits(teacher.network, before)
        ours = {value.data_ptr() for value in student.state_dict().values()}
        assert not ours & {value.data_ptr() for value in teacher.network.state_dict().values()}


# --- no parameters, but a state ---------------------------------------------------------------------------------------


def test_nothing_of_it_can_be_trained():
    student = network()
    teacher = EMATeacher(student)
    teacher.requires_grad_(True)
    assert list(teacher.parameters()) == list(teacher.network.parameters()) == []
    assert not any(value.requires_grad for value in teacher.buffers())
    assert all(parameter.requires_grad for parameter in student.parameters())
    distiller = Distiller(student, teacher, [soft()])
    assert list(distiller.parameters()) == []
    loss = distiller({"output": student(images())}, {"image": images()})["soft"]
    loss.backward()
    assert student[0].weight.grad.any()
    assert all(value.grad is None for value in teacher.buffers())


def test_no_graph_leads_to_it():
    answer = EMATeacher(network())({"image": images().requires_grad_()}, ["0", "output"])
    assert not any(value.requires_grad for value in answer.values())


def test_its_state_is_the_students_names_and_the_number_of_updates():
    student = network()
    teacher = EMATeacher(student)
    for _ in range(3):
        teacher.update(student)
    state = teacher.state_dict()
    assert set(state) == {f"network.{name}" for name in student.state_dict()} | {"_extra_state"}
    assert state["_extra_state"] == 3


def test_its_network_loads_strictly_into_a_plain_one():
    student, plain = network(), network()
    teacher = EMATeacher(student, decay=0.5, buffers="ema")
    for seed in range(3):
        disturb(student, seed)
        teacher.update(student)
    plain.load_state_dict(teacher.network.state_dict(), strict=True)
    x = images()
    assert torch.equal(plain.eval()(x), teacher.network.eval()(x))
    teacher.network.load_state_dict(network().state_dict(), strict=True)  # and the other way


@EVERY_MODE
def test_a_resumed_one_goes_on_bit_identically(buffers, tmp_path):
    student, x = network(), images()
    first = EMATeacher(student, buffers=buffers)

    def go_on(teacher, net):
        answers = []
        for seed in range(3):
            disturb(net, seed)
            teacher.update(net)
            answers.append(teacher({"image": x}, ["output"])["output"])
        return answers

    go_on(first, student)
    torch.save(first.state_dict(), tmp_path / "teacher.pt")
    other, second = copy.deepcopy(student), EMATeacher(network(), buffers=buffers)
    second.load_state_dict(torch.load(tmp_path / "teacher.pt", weights_only=True), strict=True)
    assert second.updates == 3
    assert all(torch.equal(a, b) for a, b in zip(go_on(first, student), go_on(second, other), strict=True))
    assert_same_bits(second, first.state_dict())


def test_a_state_without_the_number_of_updates_is_refused():
    teacher = EMATeacher(network())
    state = teacher.state_dict()
    del state["_extra_state"]
    with pytest.raises(RuntimeError, match="_extra_state"):
        teacher.load_state_dict(state, strict=True)


# --- modes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
def test_it_answers_as_the_student_in_train_mode(dims):
    student, x = network(dims).eval(), images(dims)
    answer = EMATeacher(student)({"image": x}, ["0", "output"])
    reference = copy.deepcopy(student).train()
    assert torch.equal(answer["output"], reference(x))
    assert torch.equal(answer["0"], reference[0](x))
    assert not torch.equal(answer["output"], copy.deepcopy(student)(x))
    assert not student.training


@pytest.mark.parametrize("train_mode", [True, False])
def test_it_stays_in_its_mode_whatever_train_and_eval_are_called_on(train_mode):
    student, x = network(), images()
    disturb(student)  # its statistics are not those of a batch
    teacher = EMATeacher(student, buffers="copy", train_mode=train_mode)
    distiller = Distiller(student, teacher, [soft()])
    expected = copy.deepcopy(student).train(train_mode)(x)
    for holder in (teacher, distiller, nn.Sequential(teacher)):
        for mode in (True, False):
            holder.train(mode)
            assert {module.training for module in teacher.modules()} == {train_mode}
    for part in (teacher.network, teacher.network[1]):  # someone may reach the network itself
        part.train(not train_mode)
        assert torch.equal(teacher({"image": x}, ["output"])["output"], expected)


def test_a_validation_of_it_does_not_change_its_answers():
    student, x = network(), images()
    teacher, untouched = EMATeacher(student), EMATeacher(student)
    SupervisedEvaluator("cpu", [{"image": x, "label": x}], teacher.network).run()
    teacher.network.eval()
    answers = [one({"image": x}, ["output"])["output"] for one in (teacher, untouched)]
    assert torch.equal(*answers)
    assert_same_bits(teacher, untouched.state_dict())


@pytest.mark.parametrize("buffers", ["copy", "ema"])
def test_in_eval_mode_it_is_the_averaged_network_in_eval_mode(buffers):
    student, x = network(), images()
    teacher = EMATeacher(student, decay=0.5, buffers=buffers, train_mode=False)
    for seed in range(2):
        disturb(student, seed)
        teacher.update(student)
    plain, before = network(), copies(teacher)
    plain.load_state_dict(teacher.network.state_dict())
    assert torch.equal(teacher({"image": x}, ["output"])["output"], plain.eval()(x))
    assert_same_bits(teacher, before)


def test_statistics_that_would_never_change_are_refused():
    with pytest.raises(ValueError, match=r"would stay as they are now: choose buffers='copy' or 'ema'"):
        EMATeacher(network(), buffers="own", train_mode=False)
    EMATeacher(nn.Linear(2, 2), buffers="own", train_mode=False)  # has none


# --- what it is asked -------------------------------------------------------------------------------------------------


def test_it_keeps_the_protocol():
    assert isinstance(EMATeacher(network()), Teacher)


def test_it_reads_its_own_images_through_its_transform():
    teacher = EMATeacher(network(), input_key="other", transform=lambda x: F.interpolate(x, scale_factor=2))
    batch = {"image": images(), "other": images()}
    before = batch["other"].clone()
    reference = copy.deepcopy(teacher.network)
    answer = teacher(batch, ["0", "output"])
    assert teacher.input_key == "other"
    assert set(answer) == {"0", "output"}
    assert torch.equal(answer["output"], reference(F.interpolate(before, scale_factor=2)))
    assert torch.equal(batch["other"], before)


def test_hooks_are_gone_after_an_answer_and_after_an_error():
    teacher = EMATeacher(network())
    teacher({"image": images()}, ["0", "2"])
    with pytest.raises(RuntimeError):
        teacher({"image": torch.zeros(1, 3, 6, 6)}, ["0"])
    assert not any(module._forward_hooks for module in teacher.network.modules())


def test_a_wrong_tap_names_the_teacher():
    with pytest.raises(ValueError, match=r"the teacher 'mean' \(Sequential\) has no layer named 'zero'"):
        EMATeacher(network()).check(["output", "0", "zero"], "mean")


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_makes_no_sense_is_refused(decay):
    with pytest.raises(ValueError, match="decay must be 0 or more and below 1"):
        EMATeacher(network(), decay)


def test_arguments_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"buffers must be 'own', 'copy' or 'ema', got 'none'"):
        EMATeacher(network(), buffers="none")
    with pytest.raises(TypeError, match=r"copies a torch.nn.Module, got OrderedDict"):
        EMATeacher(network().state_dict())


@pytest.mark.parametrize(
    ("other", "first"),
    [
        (nn.Linear(2, 2), "0.bias"),
        (network(channels=1), "0.weight"),  # would broadcast
        (network()[:2], "2.bias"),
    ],
    ids=["other names", "other shapes", "a part"],
)
def test_another_network_is_refused_and_changes_nothing(other, first):
    teacher = EMATeacher(network())
    before = copies(teacher)
    with pytest.raises(ValueError, match=rf"a teacher of another network than this .*'{first}' the first"):
        teacher.update(other)
    assert_same_bits(teacher, before)


# --- networks of others -----------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 4, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)
        self.register_buffer("mask", torch.eye(5, dtype=torch.bool), persistent=False)
        self.position = nn.ParameterList([nn.Parameter(torch.randn(5, 4))])

    def forward(self, x):
        x = x + self.position[0]
        return self.head(self.attention(x, x, x, attn_mask=self.mask)[0].mean(dim=1))


def dense(dims):
    return DenseNet(dims, 1, 3, init_features=4, growth_rate=2, block_config=(1, 1), bn_size=1)


NETWORKS = {
    "2D": (network, (2, 1, 6, 6)),
    "3D": (lambda: network(3), (2, 1, 6, 6, 6)),
    "DenseNet 2D": (lambda: dense(2), (2, 1, 16, 16)),
    "DenseNet 3D": (lambda: dense(3), (2, 1, 16, 16, 16)),
    "LSTM": (Recurrent, (2, 6, 5)),
    "MultiheadAttention": (Attentive, (2, 5, 4)),
    "weight norm": (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))), (2, 4)),
    "frozen layer": (lambda: nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 3)), (2, 4)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network(name):
    """It answers as the network whose weights it has, before and after updates and a change of precision."""
    assert_close = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-6)  # attention rounds otherwise in training
    make, shape = NETWORKS[name]
    student, x = make(), torch.randn(shape)
    teacher, plain = EMATeacher(student, decay=0.5, buffers="ema"), copy.deepcopy(student).train()
    assert list(teacher.parameters()) == []
    assert_close(teacher({"image": x}, ["output"])["output"], copy.deepcopy(plain)(x))
    for seed in range(2):
        disturb(student, seed)
        teacher.update(student)
    plain.load_state_dict(teacher.network.state_dict(), strict=True)
    answer = teacher({"image": x}, ["output"])["output"]
    assert_close(answer, copy.deepcopy(plain)(x))

    plain.load_state_dict(teacher.network.state_dict(), strict=True)
    teacher.to(torch.float64)
    assert {value.dtype for value in teacher.buffers() if value.is_floating_point()} == {torch.float64}
    double = plain.double()(x.double())
    assert_close(teacher({"image": x.double()}, ["output"])["output"], double)
    disturb(student.double(), 3)
    teacher.update(student)
    assert not torch.allclose(teacher({"image": x.double()}, ["output"])["output"], double)


def test_a_copy_is_a_teacher_of_its_own():
    student = network()
    teacher = EMATeacher(student)
    twin, before = copy.deepcopy(teacher), copies(teacher)
    disturb(student)
    twin.update(student)
    assert twin.updates == 1
    assert_same_bits(teacher, before)


# --- wrappers and the distiller ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("process_group")
def test_a_student_in_distributed_data_parallel_is_unwrapped():
    student = network()
    wrapped = nn.parallel.DistributedDataParallel(student)
    teacher = EMATeacher(wrapped)
    assert set(teacher.network.state_dict()) == set(student.state_dict())
    disturb(student)
    teacher.update(wrapped)
    assert torch.equal(teacher.network[0].weight, student[0].weight)
    teacher.update(student)
    assert teacher.updates == 2


def test_a_compiled_student_is_unwrapped():
    student = network()
    compiled = torch.compile(student, backend="eager")
    teacher = EMATeacher(compiled)
    disturb(student)
    teacher.update(compiled)
    assert torch.equal(teacher.network[0].weight, student[0].weight)


@pytest.mark.usefixtures("process_group")
def test_it_works_in_a_distiller_in_distributed_data_parallel():
    student, x = network(), images()
    teacher = EMATeacher(student)
    term = DistillationTerm("hint", HintLoss(), "output", "output", adapter=nn.Conv2d(2, 2, 1))
    wrapped = nn.parallel.DistributedDataParallel(Distiller(student, teacher, [term])).train()
    optimizer = torch.optim.SGD([*student.parameters(), *wrapped.parameters()], lr=0.5)
    for step in range(3):
        optimizer.zero_grad()
        wrapped({"output": student(x)}, {"image": x})["hint"].backward()
        optimizer.step()
        teacher.update(student)
        assert teacher.network[1].num_batches_tracked == step + 1
    assert teacher.updates == 3
    assert student[0].weight.grad.any()
    assert not torch.equal(teacher.network[0].weight, student[0].weight)
