"""A teacher's export is verified, whole, and of the teacher that is asked for."""

import copy
import json

import pytest
import torch
from torch import nn

from monai_kd.checkpoints import CheckpointError
from monai_kd.distiller import DistillationTerm
from monai_kd.export import VerificationError, export_teacher, serve_teacher, teacher
from monai_kd.losses import HintLoss, SoftTargetLoss

pytest.importorskip("openvino")

SOFT = DistillationTerm("soft", SoftTargetLoss())
HINT = DistillationTerm("hint", HintLoss(), "0", "0")


def network(seed=0, inplace=False):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=inplace), nn.Conv2d(4, 2, 1))


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def said(folder):
    return json.loads((folder / "teacher.json").read_text(encoding="utf-8"))


def test_it_says_what_was_verified(tmp_path):
    net = network().train()
    before = copy.deepcopy(net.state_dict())
    folder = export_teacher(net, tmp_path / "a" / "teacher", [(1, 8, 8), (1, 4, 6), (1, 8, 8)], ["1", "output"])
    assert files(folder) == ["teacher.bin", "teacher.json", "teacher.xml"]
    assert files(folder.parent) == ["teacher"]
    content = said(folder)
    assert content["taps"] == {"output": 0, "1": 1}
    assert content["shapes"] == [[1, 8, 8], [1, 4, 6]]
    assert [(row["tap"], row["shape"]) for row in content["verification"]] == [
        (tap, shape) for shape in content["shapes"] for tap in ("output", "1")
    ]
    assert max(row["relative_max"] for row in content["verification"]) < 1e-5
    # The network is as it was.
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_outputs_are_named(tmp_path):
    import openvino

    folder = export_teacher(network(), tmp_path / "teacher", [(1, 8, 8)], ["1"])
    model = openvino.Core().read_model(folder / "teacher.xml")
    assert [output.get_names() for output in model.outputs] == [{"output"}, {"1"}]
    assert model.input(0).get_names() == {"image"}


@pytest.mark.parametrize("earlier", [False, True])
def test_one_that_differs_is_not_kept(tmp_path, monkeypatch, earlier):
    folder = tmp_path / "teacher"
    if earlier:
        export_teacher(network(), folder, [(1, 8, 8)])
    kept = said(folder) if earlier else None
    write = teacher._write

    def of_other_weights(tapped, sizes, where):
        other = copy.deepcopy(tapped)
        with torch.no_grad():
            other.network[2].weight.mul_(1.01)
        write(other, sizes, where)
        tapped(torch.zeros(1, *sizes[0]))

    monkeypatch.setattr(teacher, "_write", of_other_weights)
    with pytest.raises(VerificationError, match=r"'output' of the exported teacher differs .* \(1, 8, 8\) in f32"):
        export_teacher(network(), folder, [(1, 8, 8)], ["1"])
    assert files(tmp_path) == (["teacher"] if earlier else [])
    if earlier:
        assert said(folder) == kept


class OneSize(nn.Module):
    """Tracing takes a size for good that is read as a number."""

    def forward(self, x):
        return x * float(x.shape[3])


def test_a_network_bound_to_one_size_is_served_for_one(tmp_path):
    export_teacher(OneSize(), tmp_path / "one", [(1, 8, 8)])
    with pytest.raises(VerificationError, match="exported teacher"):
        export_teacher(OneSize(), tmp_path / "two", [(1, 8, 8), (1, 4, 4)])
    assert files(tmp_path) == ["one"]


def test_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the teacher \(Sequential\) has no layer named '7'"):
        export_teacher(network(), tmp_path / "t", [(1, 8, 8)], ["7"])
    with pytest.raises(ValueError, match=r"shapes are \(C, \*spatial\)"):
        export_teacher(network(), tmp_path / "t", [(1, 8, 8), (1, 8, 8, 8)])
    with pytest.raises(ValueError, match="unknown precision 'int8'"):
        export_teacher(network(), tmp_path / "t", [(1, 8, 8)], precision="int8")
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got str"):
        export_teacher("teacher.pt", tmp_path / "t", [(1, 8, 8)])
    with pytest.raises((ValueError, RuntimeError), match="overwritten in place"):
        export_teacher(network(inplace=True), tmp_path / "t", [(1, 8, 8)], ["0"])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something other"):
        export_teacher(network(), tmp_path / "notes", [(1, 8, 8)])
    assert files(tmp_path) == ["notes"]


# --- serve_teacher ----------------------------------------------------------------------------------------------------


@pytest.fixture
def count(monkeypatch):
    """How often a teacher was exported."""
    calls, export = [], teacher.export_teacher
    monkeypatch.setattr(teacher, "export_teacher", lambda *args: calls.append(args) or export(*args))
    return calls


def test_exported_once_and_again_when_stale(tmp_path, count):
    folder, shapes = tmp_path / "teacher", [(1, 8, 8), (1, 4, 4)]

    def exports(net=None, shapes=shapes, terms=(SOFT, HINT), **kwargs):
        before = len(count)
        served = serve_teacher(net or network(), folder, shapes, terms, num_threads=1, **kwargs)
        assert served({"image": torch.zeros(1, *shapes[0])}, ["output"])
        return len(count) - before

    assert exports() == 1
    assert exports() == 0
    assert exports(terms=[SOFT]) == exports(shapes=shapes[1:]) == 0  # less is asked
    changed = network()
    with torch.no_grad():
        changed[0].weight[0, 0, 0, 0] += 1e-6
    assert [exports(changed), exports(changed)] == [1, 0]
    assert [exports(), exports(shapes=[*shapes, (1, 6, 8)])] == [1, 1]
    assert exports(terms=[SOFT, DistillationTerm("late", HintLoss(), "0", "1")]) == 1
    content = bytearray((folder / "teacher.bin").read_bytes())
    content[0] ^= 1
    (folder / "teacher.bin").write_bytes(content)
    assert [exports(), exports()] == [1, 0]


def test_weights_come_from_the_checkpoint(tmp_path):
    torch.save(network(seed=3).state_dict(), tmp_path / "teacher.pt")
    served = serve_teacher(network(), tmp_path / "t", [(1, 8, 8)], [SOFT], tmp_path / "teacher.pt", num_threads=1)
    x = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(served({"image": x}, ["output"])["output"], network(seed=3)(x).detach())
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="does not fit Sequential"):
        serve_teacher(network(), tmp_path / "t", [(1, 8, 8)], [SOFT], tmp_path / "other.pt")


def test_taps_are_those_of_the_teachers_name(tmp_path):
    terms = [
        SOFT.__class__("own", SoftTargetLoss(), teacher="big:output"),
        DistillationTerm("hint", HintLoss(), ["0", "1"], ["big:0[1]", "small:2"]),
    ]
    assert teacher.taps_of_teacher(terms, "big") == ["0"]
    assert teacher.taps_of_teacher(terms, "small") == ["2"]
    assert teacher.taps_of_teacher([SOFT, HINT]) == ["0"]


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_exports(tmp_path, count, monkeypatch, rank):
    """Here is one of two; the other does its part while this one waits."""
    arguments = (tmp_path / "teacher", [(1, 8, 8)], ["0"])
    waits = []

    def wait():
        others_turn = len(waits) != rank
        if others_turn and not teacher._is_of(arguments[0], network(), *arguments[1:], "f32"):
            teacher.export_teacher(network(), *arguments)
        waits.append(rank)

    monkeypatch.setattr(teacher, "processes", lambda: 2)
    monkeypatch.setattr(teacher, "rank", lambda: rank)
    monkeypatch.setattr(teacher.dist, "barrier", wait)
    serve_teacher(network(), *arguments[:2], [SOFT, HINT], num_threads=1)
    assert len(waits) == 2
    assert len(count) == 1
