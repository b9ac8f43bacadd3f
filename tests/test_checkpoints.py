from __future__ import annotations

import hashlib
import pickle

import pytest
import torch
from monai.networks.nets import DenseNet, UNet
from torch import nn

from monai_kd.checkpoints import CheckpointError, load_weights, read_state_dict
from monai_kd.export import serve_teacher
from monai_kd.networks import HDKDStudent, load_backbone, load_densenet_weights, load_hdkd_weights, pvt_v2


def network(channels=4, **kwargs):
    return nn.Sequential(nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.Conv2d(channels, 2, 1, **kwargs))


def copies(net):
    return {key: value.clone() for key, value in net.state_dict().items()}


def same(net, state):
    return net.state_dict().keys() == state.keys() and all(
        torch.equal(v, state[k]) for k, v in net.state_dict().items()
    )


@pytest.fixture
def source():
    net = network()
    net(torch.randn(4, 1, 8, 8))  # statistics of its own
    return net


@pytest.fixture
def refused():
    """Checks that a checkpoint is refused, that the network stays as it was, and gives the message."""

    def check(checkpoint, net=None, error=CheckpointError, **how):
        net = net or network()
        before = copies(net)
        with pytest.raises(error) as caught:
            load_weights(net, checkpoint, **how)
        assert same(net, before)
        return str(caught.value)

    return check


LAYOUTS = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state},
    "module.": lambda state: {f"module.{key}": value for key, value in state.items()},
    "model and module.": lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("from_file", [True, False])
def test_every_layout_loads_bit_equal(layout, from_file, source, tmp_path):
    checkpoint = LAYOUTS[layout](source.state_dict())
    if from_file:
        torch.save(checkpoint, tmp_path / "model.pt")
        checkpoint = str(tmp_path / "model.pt")
    net = network()
    assert load_weights(net, checkpoint) is net
    assert same(net, copies(source))


def test_another_key_is_read_when_named(source, tmp_path):
    torch.save({"student": source.state_dict(), "model": {}}, tmp_path / "all.pt")
    assert same(load_weights(network(), tmp_path / "all.pt", key="student"), copies(source))


def test_read_state_dict_gives_the_tensors_by_name(source):
    state = read_state_dict({"model": {f"module.{key}": value for key, value in source.state_dict().items()}})
    assert list(state) == list(source.state_dict())


def test_another_width_is_refused_with_both_shapes(source, refused):
    message = refused(source.state_dict(), network(channels=8))
    assert "the state dict does not fit Sequential: 2 of 9 entries agree" in message
    assert "0.weight: file (4, 1, 3, 3), network (8, 1, 3, 3)" in message
    assert "2.weight" not in message  # seven lines would be too many
    assert message.count("more") == 1


def test_missing_and_unknown_names_are_refused_and_listed(source, refused):
    state = source.state_dict()
    state["2.scale"] = state.pop("2.bias")
    message = refused(state)
    assert "missing in the file: 2.bias" in message
    assert "unknown to the network: 2.scale" in message


def test_a_subset_is_refused(source, refused):
    assert "missing in the file: 2.bias" in refused({k: v for k, v in source.state_dict().items() if k != "2.bias"})


def test_a_superset_is_refused(source, refused):
    assert "unknown to the network: 2.bias" in refused(source.state_dict(), network(bias=False))


@pytest.mark.parametrize("dims", [2, 3])
def test_another_architecture_is_refused(dims, refused, source):
    message = refused(source.state_dict(), UNet(dims, 1, 2, (2, 4), (2,)))
    assert "does not fit UNet: 0 of" in message
    assert "Build the network with the arguments it was trained with" in message


def test_a_2d_checkpoint_is_refused_by_a_3d_network(refused):
    assert "other shape" in refused(UNet(2, 1, 2, (2, 4), (2,)).state_dict(), UNet(3, 1, 2, (2, 4), (2,)))


def test_a_missing_file_is_named(refused, tmp_path):
    assert str(tmp_path / "none.pt") in refused(tmp_path / "none.pt", error=FileNotFoundError)


def test_a_folder_is_no_file(refused, tmp_path):
    assert f"no checkpoint at '{tmp_path}'" in refused(tmp_path, error=FileNotFoundError)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_file_is_refused(share, legacy, refused, source, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(source.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    message = refused(path)
    assert "not a whole checkpoint of tensors" in message
    assert str(path) in message


@pytest.mark.parametrize(
    "content",
    [b"not a checkpoint\n", b"\x00" * 64, b"PK\x03\x04" + b"\x00" * 64, b"{}", b"\x80\x02}q\x00.", b"<html></html>"],
)
def test_any_other_file_is_refused(content, refused, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert str(path) in refused(path)


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickled_object_is_refused_and_not_executed(save, refused, tmp_path):
    save({"model": Touch(str(tmp_path / "executed"))}, tmp_path / "model.pt")
    assert "Only state dicts are read" in refused(tmp_path / "model.pt")
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def no_checksums():
    torch.serialization.set_crc32_options(False)
    yield
    torch.serialization.set_crc32_options(True)


@pytest.mark.usefixtures("no_checksums")
def test_a_file_without_checksums_is_refused_with_its_cure(refused, source, tmp_path):
    torch.save(source.state_dict(), tmp_path / "model.pt")
    message = refused(tmp_path / "model.pt")
    assert "was saved without checksums" in message
    assert "torch.serialization.set_crc32_options(True)" in message


def test_a_whole_pickled_network_is_refused(refused, source, tmp_path):
    torch.save(source, tmp_path / "model.pt")
    assert "torch.save(network.state_dict(), path)" in refused(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"model": {}}, [torch.zeros(2)], torch.zeros(2), 3])
def test_a_checkpoint_without_a_state_dict_is_refused(content, refused, tmp_path):
    torch.save(content, tmp_path / "model.pt")
    assert "holds no state dict" in refused(tmp_path / "model.pt")


def test_the_loaded_network_shares_no_memory_with_a_state_dict(source):
    net = load_weights(network(), source.state_dict())
    with torch.no_grad():
        net[0].weight.zero_()
    assert source[0].weight.any()


# Digests.


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def saved(source, tmp_path):
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


@pytest.mark.parametrize("spelt", [str.lower, str.upper])
def test_the_file_that_the_digest_names_is_loaded(source, saved, spelt):
    assert same(load_weights(network(), saved, sha256=spelt(digest(saved))), copies(source))


def test_another_file_is_refused_with_both_digests(refused, saved):
    expected = digest(saved)
    with saved.open("r+b") as file:
        file.seek(-100, 2)  # in the zip's directory, behind all tensors
        byte = file.read(1)
        file.seek(-100, 2)
        file.write(bytes([byte[0] ^ 1]))
    message = refused(saved, sha256=expected)
    assert expected in message
    assert digest(saved) in message
    assert "Fetch it again" in message


def test_nothing_of_another_file_is_unpickled(tmp_path, monkeypatch):
    """Whatever a reader would make of it, a file of another digest does not reach it."""
    path = tmp_path / "weights.pt"
    path.write_bytes(b"anything")

    def read(*args, **kwargs):
        raise AssertionError("the file was opened by torch")

    monkeypatch.setattr(torch, "load", read)
    with pytest.raises(CheckpointError, match="was not opened"):
        load_weights(network(), path, sha256="0" * 64)


@pytest.mark.parametrize("wrong", ["", "abc", "g" * 64, "0" * 63, " " + "0" * 63, 5, "sha256:" + "0" * 64])
def test_what_is_no_digest_is_refused_before_the_file_is_looked_for(wrong):
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        load_weights(network(), "nowhere.pt", sha256=wrong)


def test_a_state_dict_has_no_digest(source):
    with pytest.raises(ValueError, match="the checkpoint is a"):
        read_state_dict(source.state_dict(), sha256="0" * 64)


DOORS = {
    "load_backbone": lambda path: load_backbone(pvt_v2("b0"), path, "0" * 64),
    "load_densenet_weights": lambda path: load_densenet_weights(DenseNet(2, 3, 2, 4, 2, (1, 1)), path, "0" * 64),
    "load_hdkd_weights": lambda path: load_hdkd_weights(
        HDKDStudent(2, 1, 2, 32, (4, 4, 4, 8), (1, 1, 1, 1), 1, 4), path, sha256="0" * 64
    ),
    "serve_teacher": lambda path: serve_teacher(
        nn.Conv2d(1, 1, 1), path.with_name("exported"), [(1, 8, 8)], [], path, sha256="0" * 64
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_loader_holds_its_file_against_the_digest(door, saved):
    with pytest.raises(CheckpointError, match="is not the file that sha256 names"):
        DOORS[door](saved)
