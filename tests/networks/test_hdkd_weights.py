from __future__ import annotations

import doctest

import pytest
import torch
import torch.nn.functional as F

from monai_kd.checkpoints import CheckpointError
from monai_kd.networks import HDKDStudent, HDKDTeacher, hdkd_weights, load_hdkd_weights

POSITIONS = "DFLT_module.pos_embedding"


def student(img_size=32, dims=2, **kwargs):
    return HDKDStudent(dims, 1, 3, img_size, (4, 4, 4, 8), (1, 1, 1, 1), 2, 4, **kwargs)


@pytest.mark.parametrize("distill_token", [True, False])
@pytest.mark.parametrize(("dims", "old", "new"), [(2, 64, 96), (2, 64, (96, 32)), (3, 32, 48), (3, 32, (16, 32, 48))])
def test_positions_are_interpolated_and_all_else_is_kept(dims, old, new, distill_token):
    source, target = (student(size, dims, distill_token=distill_token) for size in (old, new))
    assert load_hdkd_weights(target, source.state_dict()) is target
    before, after = source.state_dict(), target.state_dict()
    special = 2 if distill_token else 1
    assert torch.equal(after[POSITIONS][:, :special], before[POSITIONS][:, :special])
    grid = before[POSITIONS][0, special:].T.reshape(1, 8, *[old // 16] * dims)
    expected = F.interpolate(grid, target.DFLT_module.grid, mode="bicubic" if dims == 2 else "trilinear")
    torch.testing.assert_close(after[POSITIONS][0, special:].T, expected.flatten(2)[0])
    assert all(torch.equal(after[name], before[name]) for name in before if name != POSITIONS)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_position_that_is_the_same_everywhere_stays(dims):
    source, target = student(32, dims), student(64, dims)
    state = source.state_dict()
    state[POSITIONS][:, 2:] = torch.arange(8.0)
    load_hdkd_weights(target, state)
    torch.testing.assert_close(
        target.DFLT_module.pos_embedding[0, 2:].detach(), torch.arange(8.0).expand(4**dims, 8), rtol=1e-5, atol=1e-5
    )


def test_one_size_is_loaded_as_it_is(tmp_path):
    source, target = student(), student()
    torch.save({"model": source.state_dict()}, tmp_path / "student.pt")
    load_hdkd_weights(target, tmp_path / "student.pt")
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(source.eval()(x), target.eval()(x))


def test_images_that_were_not_square_need_their_size():
    source, target = student((32, 96)), student(64)
    with pytest.raises(CheckpointError, match=r"12 patches, not the 3 x 3 of square images; give img_size"):
        load_hdkd_weights(target, source.state_dict())
    with pytest.raises(CheckpointError, match=r"12 patches, not the 4 x 4 of img_size 64"):
        load_hdkd_weights(target, source.state_dict(), img_size=64)
    load_hdkd_weights(target, source.state_dict(), img_size=(32, 96))
    grid = source.DFLT_module.pos_embedding[0, 2:].T.reshape(1, 8, 2, 6)
    expected = F.interpolate(grid, (4, 4), mode="bicubic").flatten(2)[0].T
    torch.testing.assert_close(target.DFLT_module.pos_embedding[0, 2:], expected)


def test_a_turned_grid_of_equal_length_is_interpolated_when_its_size_is_said():
    source, target = student((32, 64)), student((64, 32))
    load_hdkd_weights(target, source.state_dict(), img_size=(32, 64))
    assert not torch.equal(target.DFLT_module.pos_embedding, source.DFLT_module.pos_embedding)
    assert torch.equal(target.DFLT_module.pos_embedding[:, :2], source.DFLT_module.pos_embedding[:, :2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(POSITIONS), f"missing in the file: {POSITIONS}"),
        (lambda s: s.pop("head_distill.bias"), "missing in the file: head_distill.bias"),
        (lambda s: s.pop("DFLT_module.distill_token"), "missing in the file: DFLT_module.distill_token"),
        (lambda s: s.update({"extra": torch.ones(1)}), "unknown to the network: extra"),
        (lambda s: s.update({POSITIONS: torch.ones(1, 6, 9)}), "pos_embedding"),
        (lambda s: s.update({POSITIONS: torch.ones(1, 1, 8)}), r"pos_embedding: file \(1, 1, 8\)"),
        (lambda s: s.update({POSITIONS: torch.ones(1, 2, 8)}), r"pos_embedding: file \(1, 2, 8\)"),
        (lambda s: s.update({"head_cls.bias": torch.ones(4)}), r"head_cls.bias: file \(4,\), network \(3,\)"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(change, message):
    source, target = student(32), student(64)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = source.state_dict()
    change(state)
    with pytest.raises(CheckpointError, match=message):
        load_hdkd_weights(target, state)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_other_networks_are_refused():
    with pytest.raises(CheckpointError, match=r"unknown to the network: DFLT_module\.distill_token"):
        load_hdkd_weights(student(64, distill_token=False), student().state_dict())
    teacher = HDKDTeacher(2, 1, 3, (4, 4, 4), (1, 1, 1))
    with pytest.raises(TypeError, match="expected an HDKDStudent, got HDKDTeacher"):
        load_hdkd_weights(teacher, teacher.state_dict())
    with pytest.raises(FileNotFoundError):
        load_hdkd_weights(student(), "nowhere.pt")


def test_examples_run():
    result = doctest.testmod(hdkd_weights)
    assert result.failed == 0
    assert result.attempted > 0
