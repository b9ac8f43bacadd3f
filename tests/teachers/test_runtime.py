"""A teacher in OpenVINO is the eager teacher to a term, to 1e-5 of the largest value in f32."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.networks.nets import DynUNet
from torch import nn

from monai_kd.adapters import ProjectionAdapter
from monai_kd.distiller import DistillationTerm, Distiller
from monai_kd.handlers import DistillationHandler
from monai_kd.losses import HintLoss, SoftTargetLoss
from monai_kd.runtime import ExportError
from monai_kd.taps import FeatureTaps
from monai_kd.teachers import CachedTeacher, FrozenTeacher, RuntimeTeacher, Teacher

pytest.importorskip("openvino")
from monai_kd.export import export_teacher
from monai_kd.export.openvino_ir import computes_bf16

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
TAPS = ["0", "1", "output"]


def network(dims=2, channels=4, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        CONVOLUTIONS[dims](1, channels, 3, padding=1),
        NORMS[dims](channels),
        nn.Dropout(0.5),
        CONVOLUTIONS[dims](channels, 3, 1),
    )
    net[1].running_mean.normal_()
    return net


def shape(dims, size=8):
    return (1, *[size] * dims)


def images(dims=2, batch=3, size=8):
    return torch.randn(batch, *shape(dims, size), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=[2, 3])
def dims(request):
    return request.param


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Exported once for 2D and 3D, for two sizes each."""
    root = tmp_path_factory.mktemp("teachers")
    precision = "bf16" if computes_bf16() else "f32"
    return {
        dims: export_teacher(network(dims), root / str(dims), [shape(dims), shape(dims, 6)], TAPS, precision)
        for dims in (2, 3)
    }


@pytest.fixture
def served(folders, dims):
    return RuntimeTeacher(folders[dims], "f32", num_threads=1)


def close(found, expected, limit=1e-5):
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= limit * expected.abs().max()


@pytest.mark.parametrize(("batch", "size"), [(1, 8), (3, 8), (2, 6)])
def test_answers_are_the_eager_teachers(served, dims, batch, size):
    x = {"image": images(dims, batch, size)}
    found, expected = served(x, TAPS), FrozenTeacher(network(dims))(x, TAPS)
    assert found.keys() == expected.keys()
    for tap in TAPS:
        close(found[tap], expected[tap])


def step(teacher, dims):
    """Losses of one step and the student's gradient."""
    student, x = network(dims, channels=2, seed=1).eval(), images(dims)
    torch.manual_seed(2)
    terms = [
        DistillationTerm("soft", SoftTargetLoss()),
        DistillationTerm("hint", HintLoss(), "0", "1", adapter=ProjectionAdapter),
    ]
    distiller = Distiller(student, teacher, terms, input_shape=(2, *shape(dims, 6)))
    with FeatureTaps(student, distiller.student_taps) as taps:
        losses = distiller({"output": student(x), **taps.outputs()}, {"image": x})
    distiller.total(losses, 1).backward()
    return losses, student[0].weight.grad, distiller.state_dict().keys()


def test_losses_gradients_and_state_are_the_eager_teachers(served, dims):
    found, expected = step(served, dims), step(FrozenTeacher(network(dims)), dims)
    for name, value in expected[0].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-5, atol=1e-6)
    assert expected[1].any()
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-6)
    assert found[2] == expected[2]


def test_an_unmodified_trainer_learns_the_same(folders):
    def learned(teacher):
        student = network(channels=2, seed=1)
        distiller = Distiller(student, teacher, [DistillationTerm("soft", SoftTargetLoss())], input_shape=(2, 1, 8, 8))
        optimizer = torch.optim.SGD(student.parameters(), 0.1)
        batches = [{"image": MetaTensor(images()), "label": torch.zeros(3, 1, 8, 8)}] * 3
        handlers = [DistillationHandler(distiller, task_weight=0.0)]
        SupervisedTrainer(
            "cpu", 1, batches, student, optimizer, lambda pred, label: pred.mean(), train_handlers=handlers
        ).run()
        return student

    torch.manual_seed(0)
    found = learned(RuntimeTeacher(folders[2], "f32", 1))
    torch.manual_seed(0)
    expected = learned(FrozenTeacher(network()))
    assert not torch.equal(expected[0].weight, network(channels=2, seed=1)[0].weight)
    for one, other in zip(found.parameters(), expected.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not computes_bf16(), reason="this CPU does not compute in bf16")
def test_bf16_is_near_and_is_what_was_asked_for(folders, dims):
    x = {"image": images(dims)}
    half, expected = RuntimeTeacher(folders[dims], num_threads=1), FrozenTeacher(network(dims))(x, TAPS)
    assert half.precision == "bf16"
    found = half(x, TAPS)
    for tap in TAPS:
        close(found[tap], expected[tap], limit=0.05)
        assert (found[tap] - expected[tap]).abs().max() > 1e-5 * expected[tap].abs().max()


def test_it_is_a_teacher_of_which_nothing_is_saved_or_trained(served, dims):
    assert isinstance(served, Teacher)
    assert list(served.parameters()) == list(served.buffers()) == []
    assert served.state_dict() == {}
    assert not nn.Sequential(served).train()[0].training
    answer = served({"image": images(dims).requires_grad_()}, TAPS)
    assert not any(value.requires_grad for value in answer.values())


def test_only_what_is_asked_for_comes(served, dims):
    assert served({"image": images(dims)}, ["1"]).keys() == {"output", "1"}


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, MetaTensor])
def test_any_kind_of_images(served, dims, kind):
    x = images(dims).half()
    given = MetaTensor(x.float()) if kind is MetaTensor else x.to(kind)
    found = served({"image": given}, ["output"])["output"]
    assert type(found) is torch.Tensor
    close(found, FrozenTeacher(network(dims))({"image": x.float()}, ["output"])["output"])


def test_images_of_its_own_and_a_transform(folders):
    served = RuntimeTeacher(folders[2], "f32", 1, input_key="thick", transform=lambda x: x.repeat(1, 1, 2, 2))
    x = images(2, size=4)
    expected = FrozenTeacher(network())({"image": x.repeat(1, 1, 2, 2)}, ["output"])["output"]
    assert served.input_key == "thick"
    close(served({"image": images(), "thick": x}, ["output"])["output"], expected)


def test_answers_are_the_callers_own(served, dims):
    x = {"image": images(dims)}
    first = served(x, ["output"])["output"]
    kept = first.clone()
    first.zero_()
    served({"image": 2 * x["image"]}, ["output"])
    assert torch.equal(served(x, ["output"])["output"], kept)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])  # noqa: S301
def test_copies_answer_too(served, dims, again):
    x = {"image": images(dims)}
    assert torch.equal(again(served)(x, TAPS)["1"], served(x, TAPS)["1"])


def test_heads_of_a_dynunet(tmp_path):
    """The layers that deep supervision trains, and what the network returns in eval mode."""
    strides = [1, 2, 2]
    torch.manual_seed(0)
    net = DynUNet(3, 1, 3, [3] * 3, strides, strides[1:], filters=[4, 8, 8], deep_supervision=True, deep_supr_num=1)
    taps = ["output_block", "downsamples.0", "bottleneck", "upsamples.1"]
    served = RuntimeTeacher(export_teacher(net, tmp_path / "t", [(1, 16, 16, 16)], taps), num_threads=1)
    x = {"image": images(3, 2, 16)}
    found, expected = served(x, taps), FrozenTeacher(net)(x, taps)
    for tap in [*taps, "output"]:
        close(found[tap], expected[tap], 1e-4)


class Several(nn.Module):
    """Layers that return a list, that run twice, and that return what another did."""

    def __init__(self):
        super().__init__()
        self.levels = Levels()
        self.twice = nn.Conv2d(2, 2, 1)
        self.same = nn.Identity()

    def forward(self, x):
        a, b = self.levels(x)
        return self.same(self.twice(self.twice(a) + b))


class Levels(nn.Module):
    def forward(self, x):
        return x.repeat(1, 2, 1, 1), 2 * x


def test_lists_and_shared_tensors(tmp_path):
    net, taps = Several(), ["levels", "twice", "same"]
    served = RuntimeTeacher(export_teacher(net, tmp_path / "t", [(1, 4, 4)], taps), num_threads=1)
    x = {"image": images(size=4)}
    found, expected = served(x, taps), FrozenTeacher(net)(x, taps)
    for tap in ("levels", "twice"):
        assert [len(found[tap]), len(expected[tap])] == [2, 2]
        for one, other in zip(found[tap], expected[tap]):
            close(one, other)
    close(found["same"], expected["same"])
    close(found["output"], expected["output"])


def test_its_answers_can_be_cached(folders, tmp_path):
    x = {"image": images()}
    cached = CachedTeacher(RuntimeTeacher(folders[2], "f32", 1), tmp_path)
    expected = cached(x, TAPS)
    again = CachedTeacher(RuntimeTeacher(folders[2], "f32", 1), tmp_path)
    assert all(torch.equal(again(x, TAPS)[tap], expected[tap]) for tap in TAPS)
    assert again.misses == 0


# --- refused ----------------------------------------------------------------------------------------------------------


def test_a_missing_tap_names_what_there_is(served, dims):
    message = r"the teacher 'big' \(Sequential, '.*'\) was exported without '3'; it has 'output', '0', '1'\. Export it "
    with pytest.raises(ValueError, match=message):
        served.check(["output", "3"], "big")
    with pytest.raises(ValueError, match="was exported without '3'"):
        served({"image": images(dims)}, ["3"])
    term = DistillationTerm("hint", HintLoss(), "0", "large:3")
    with pytest.raises(ValueError, match=r"the teacher 'large' .* was exported without '3'"):
        Distiller(network(dims), {"large": served}, [term])


def test_shapes_that_do_not_fit_a_loss_are_found_by_the_dry_run(served, dims):
    term = DistillationTerm("hint", HintLoss(), "0", "output")
    with pytest.raises(ValueError, match="term 'hint' does not fit"):
        Distiller(network(dims), served, [term], input_shape=(2, *shape(dims)))


@pytest.mark.parametrize("bad", [(3, 1, 7, 7), (3, 2, 8, 8), (3, 1, 8, 6), (0, 1, 8, 8)])
def test_images_of_other_shapes_are_refused(folders, bad):
    served = RuntimeTeacher(folders[2], "f32", 1)
    with pytest.raises(ValueError, match=r"for images of shape .* = \(1, 8, 8\), \(1, 6, 6\); got a batch of"):
        served({"image": torch.zeros(bad)}, ["output"])


@pytest.fixture(scope="module")
def exported_once(tmp_path_factory):
    return export_teacher(network(), tmp_path_factory.mktemp("once") / "teacher", [shape(2)])


@pytest.fixture
def exported(exported_once, tmp_path):
    return Path(shutil.copytree(exported_once, tmp_path / "teacher"))


@pytest.mark.parametrize("name", ["teacher.xml", "teacher.bin"])
def test_a_changed_or_missing_file_is_refused(exported, name):
    content = bytearray((exported / name).read_bytes())
    content[-1] ^= 1
    (exported / name).write_bytes(content)
    with pytest.raises(ExportError, match=rf"{name}' is not the file that was exported"):
        RuntimeTeacher(exported)
    (exported / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}' is missing"):
        RuntimeTeacher(exported)


@pytest.mark.parametrize(("key", "value"), [("format", "2"), ("taps", None), ("shapes", 3)])
def test_an_unreadable_description_is_refused(exported, key, value):
    content = json.loads((exported / "teacher.json").read_text(encoding="utf-8"))
    (exported / "teacher.json").write_text(json.dumps(content | {key: value}))
    with pytest.raises(ExportError, match=r"teacher.json' cannot be read .*; export it again"):
        RuntimeTeacher(exported)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no exported teacher at"):
        RuntimeTeacher(tmp_path)


def test_only_a_verified_precision_is_served(exported):
    with pytest.raises(ExportError, match=r"was verified in f32, not in bf16; export it again"):
        RuntimeTeacher(exported, "bf16")
    with pytest.raises(ValueError, match="unknown precision 'int8'"):
        RuntimeTeacher(exported, "int8")
    for threads in (0, True, 1.5):
        with pytest.raises(ValueError, match="num_threads must be a positive number"):
            RuntimeTeacher(exported, num_threads=threads)


def test_it_says_what_it_is(served):
    assert "Sequential at" in repr(served)
    assert "f32, 1 threads" in repr(served)
