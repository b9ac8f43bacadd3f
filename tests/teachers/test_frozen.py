from __future__ import annotations

import copy
import hashlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_kd.checkpoints import CheckpointError
from monai_kd.distiller import DistillationTerm, Distiller
from monai_kd.losses import HintLoss, SoftTargetLoss
from monai_kd.taps import FeatureTaps
from monai_kd.teachers import FrozenTeacher, Teacher
from monai_kd.testing import assert_unchanged

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def network(dims=2):
    """Everything that a train mode would disturb: batch statistics and dropout."""
    return nn.Sequential(CONVOLUTIONS[dims](1, 4, 3), NORMS[dims](4), nn.Dropout(0.5), CONVOLUTIONS[dims](4, 2, 1))


def images(dims=2, batch=2):
    return torch.randn(batch, 1, *[6] * dims)


def copies(net):
    return {key: value.clone() for key, value in net.state_dict().items()}


def modes(net):
    return {module.training for module in net.modules()}


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("dims", [2, 3])
def test_answers_are_those_of_the_network_in_eval_mode(dims):
    net, x = network(dims).train(), images(dims)
    reference = copy.deepcopy(net).eval()
    answer = FrozenTeacher(net)({"image": x}, ["0", "output"])
    torch.testing.assert_close(answer["output"], reference(x))
    torch.testing.assert_close(answer["0"], reference[0](x))


def test_it_keeps_the_protocol():
    assert isinstance(FrozenTeacher(network()), Teacher)
    assert not isinstance(network(), Teacher)


def test_it_stays_in_eval_mode_whatever_train_is_called_on():
    teacher = FrozenTeacher(network())
    distiller = Distiller(network(), teacher, [DistillationTerm("soft", SoftTargetLoss())])
    for holder in (teacher, distiller, nn.Sequential(teacher), nn.ModuleDict({"distiller": distiller})):
        holder.train()
        assert not teacher.training
        assert modes(teacher.network) == {False}
    assert distiller.training


@pytest.mark.usefixtures("process_group")
def test_it_stays_in_eval_mode_below_distributed_data_parallel():
    teacher = FrozenTeacher(network())
    term = DistillationTerm("hint", HintLoss(), "0", "0", adapter=nn.Conv2d(4, 4, 1))
    student = network()
    wrapped = nn.parallel.DistributedDataParallel(Distiller(student, teacher, [term]))
    wrapped.train()
    assert modes(teacher.network) == {False}
    before, x = copies(teacher.network), images()
    with FeatureTaps(student, ["0"]) as taps:
        wrapped({"output": student(x), **taps.outputs()}, {"image": x})["hint"].backward()
    assert_unchanged(teacher.network, before)
    assert student[0].weight.grad.any()


@pytest.mark.parametrize("part", [lambda net: net, lambda net: net[1]], ids=["the network", "one layer"])
def test_train_on_the_network_itself_does_not_reach_the_answers(part):
    net, x = network(), images()
    teacher = FrozenTeacher(net)
    before, expected = copies(net), teacher({"image": x}, ["output"])["output"]
    part(net).train()
    torch.testing.assert_close(teacher({"image": x}, ["output"])["output"], expected)
    assert_unchanged(net, before)


@pytest.mark.parametrize("dims", [2, 3])
def test_an_epoch_of_distillation_leaves_it_bit_equal(dims):
    net, student = network(dims).train(), network(dims)
    before = copies(net)
    term = DistillationTerm("soft", SoftTargetLoss())
    distiller = Distiller(student, FrozenTeacher(net), [term], input_shape=(2, 1, *[6] * dims)).train()
    optimizer = torch.optim.SGD([*student.parameters(), *distiller.parameters()], lr=0.1, weight_decay=0.1)
    start = copies(student)
    for _ in range(4):
        x = images(dims)
        optimizer.zero_grad()
        distiller.total(distiller({"output": student.train()(x)}, {"image": x}), 1).backward()
        optimizer.step()
    assert_unchanged(net, before)
    assert all(p.grad is None for p in net.parameters())
    assert not torch.equal(student[0].weight, start["0.weight"])


def test_it_is_in_no_parameters_and_no_state_dict():
    teacher = FrozenTeacher(network())
    assert list(teacher.parameters()) == []
    assert list(teacher.buffers()) == []
    assert teacher.state_dict() == {}
    assert not any(p.requires_grad for p in teacher.network.parameters())


def test_unfreezing_the_holder_does_not_unfreeze_it():
    teacher = FrozenTeacher(network())
    nn.Sequential(teacher).requires_grad_(True)
    assert not any(p.requires_grad for p in teacher.network.parameters())


def test_it_follows_dtype_and_device():
    teacher = FrozenTeacher(network())
    holder = nn.ModuleDict({"teacher": teacher}).double()
    assert teacher.network[0].weight.dtype == torch.float64
    assert teacher.network[1].running_mean.dtype == torch.float64
    assert teacher({"image": images().double()}, ["output"])["output"].dtype == torch.float64
    holder.to("meta")
    assert teacher.network[0].weight.device.type == "meta"
    assert teacher.network[1].running_mean.device.type == "meta"
    assert not teacher.network[0].weight.requires_grad


def test_no_graph_leads_to_it():
    x = images().requires_grad_()
    teacher = FrozenTeacher(network())
    teacher.network.requires_grad_(True)  # even then
    answer = teacher({"image": x}, ["0", "output"])
    assert not any(value.requires_grad for value in answer.values())


def test_hooks_are_gone_after_an_answer_and_after_an_error():
    teacher = FrozenTeacher(network())
    teacher({"image": images()}, ["0", "3"])
    with pytest.raises(RuntimeError):
        teacher({"image": torch.zeros(1, 3, 6, 6)}, ["0"])
    assert not any(module._forward_hooks for module in teacher.network.modules())


def test_it_reads_its_own_images():
    teacher, batch = FrozenTeacher(network(), input_key="thin_slices"), {"image": images(), "thin_slices": images()}
    assert teacher.input_key == "thin_slices"
    torch.testing.assert_close(teacher(batch, ["output"])["output"], teacher.network(batch["thin_slices"]))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_transform_acts_on_its_images_only(dims):
    teacher, batch = (
        FrozenTeacher(network(dims), transform=lambda x: F.interpolate(x, scale_factor=2)),
        {"image": images(dims)},
    )
    before = batch["image"].clone()
    assert teacher(batch, ["0"])["0"].shape == (2, 4, *[10] * dims)
    assert torch.equal(batch["image"], before)


def test_only_what_is_asked_for_is_recorded():
    assert set(FrozenTeacher(network())({"image": images()}, ["0"])) == {"output", "0"}


def test_a_wrong_tap_names_the_teacher():
    with pytest.raises(ValueError, match=r"the teacher 'large' \(Sequential\) has no layer named 'zero'"):
        FrozenTeacher(network()).check(["output", "0", "zero"], "large")


def test_a_copy_is_a_teacher_of_its_own():
    teacher = FrozenTeacher(network())
    twin = copy.deepcopy(teacher)
    with torch.no_grad():
        twin.network[0].weight.zero_()
    assert teacher.network[0].weight.any()


def test_the_checkpoint_is_loaded(tmp_path):
    source = network()
    torch.save({"model": source.state_dict()}, tmp_path / "teacher.pt")
    teacher = FrozenTeacher(network(), tmp_path / "teacher.pt")
    assert_unchanged(teacher.network, copies(source))


def test_a_refused_checkpoint_leaves_the_network_as_it_was(tmp_path):
    torch.save(network(3).state_dict(), tmp_path / "teacher.pt")
    net = network(2).train()
    before = copies(net)
    with pytest.raises(CheckpointError, match=r"teacher.pt' does not fit Sequential"):
        FrozenTeacher(net, tmp_path / "teacher.pt")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert modes(net) == {True}
    assert all(p.requires_grad for p in net.parameters())


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        FrozenTeacher(network(), tmp_path / "none.pt")


def test_a_teacher_that_fails_to_load_names_itself(tmp_path):
    torch.save(network(3).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"^teacher 'first': .*weights.pt' does not fit"):
        FrozenTeacher(network(2), tmp_path / "weights.pt", name="first")
    with pytest.raises(FileNotFoundError, match=r"^teacher 'second': no checkpoint at"):
        FrozenTeacher(network(2), tmp_path / "none.pt", name="second")


def test_something_that_is_no_network_is_refused():
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got str"):
        FrozenTeacher("teacher.pt")


def test_its_file_is_held_against_a_digest(tmp_path):
    path, net = tmp_path / "teacher.pt", network()
    torch.save(net.state_dict(), path)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert FrozenTeacher(network(), path, sha256=expected).network[0].weight.equal(net[0].weight)
    with pytest.raises(CheckpointError, match=r"teacher 'a': .* is not the file that sha256 names"):
        FrozenTeacher(network(), path, name="a", sha256="0" * 64)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        FrozenTeacher(network(), path, sha256=expected[1:])
    with pytest.raises(ValueError, match="the checkpoint is a NoneType"):
        FrozenTeacher(network(), sha256=expected)
