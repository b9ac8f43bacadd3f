from __future__ import annotations

import copy

import pytest
import torch

from monai_kd.checkpoints import CheckpointError
from monai_kd.networks import PVT_V2_PRESETS, PolypPVT, PVTv2, load_backbone, pvt_v2

TINY = {"embed_dims": (8, 16, 20, 32), "depths": (1, 2, 1, 1)}

# One name of every kind in the released layout.
RELEASED_KEYS = {
    "patch_embed1.proj.weight": (32, 3, 7, 7),
    "patch_embed1.proj.bias": (32,),
    "patch_embed1.norm.weight": (32,),
    "patch_embed4.proj.weight": (256, 160, 3, 3),
    "block1.0.norm1.weight": (32,),
    "block1.0.attn.q.weight": (32, 32),
    "block1.0.attn.q.bias": (32,),
    "block1.0.attn.kv.weight": (64, 32),
    "block1.0.attn.kv.bias": (64,),
    "block1.0.attn.proj.weight": (32, 32),
    "block1.1.attn.sr.weight": (32, 32, 8, 8),
    "block2.0.attn.sr.weight": (64, 64, 4, 4),
    "block3.0.attn.sr.weight": (160, 160, 2, 2),
    "block3.0.attn.norm.bias": (160,),
    "block1.0.norm2.bias": (32,),
    "block1.0.mlp.fc1.weight": (256, 32),
    "block4.1.mlp.fc1.weight": (1024, 256),
    "block1.0.mlp.dwconv.dwconv.weight": (256, 1, 3, 3),
    "block1.0.mlp.dwconv.dwconv.bias": (256,),
    "block1.0.mlp.fc2.weight": (32, 256),
    "norm1.weight": (32,),
    "norm4.bias": (256,),
}


def released_classifier() -> dict[str, torch.Tensor]:
    weights = {name: torch.randn_like(value) for name, value in pvt_v2("b0").state_dict().items()}
    return {**weights, "head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}


def test_keeps_the_released_names():
    state = pvt_v2("b0").state_dict()
    assert {name: tuple(state[name].shape) for name in RELEASED_KEYS} == RELEASED_KEYS
    assert len(state) == 176
    assert "block4.0.attn.sr.weight" not in state


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("b0", 3_409_760),
        ("b1", 13_496_000),
        ("b2", 24_849_856),
        ("b3", 44_725_696),
        ("b4", 62_043_072),
        ("b5", 81_443_008),
    ],
)
def test_parameter_counts(name, parameters):
    with torch.device("meta"):
        network = pvt_v2(name)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_presets_are_the_published_ones():
    assert list(PVT_V2_PRESETS) == ["b0", "b1", "b2", "b3", "b4", "b5"]
    assert PVT_V2_PRESETS["b4"]["depths"] == (3, 8, 27, 3)


@pytest.mark.parametrize("in_channels", [1, 3])
def test_four_stages_at_their_strides(in_channels):
    stages = PVTv2(**TINY, in_channels=in_channels)(torch.randn(2, in_channels, 64, 96))
    assert [tuple(stage.shape) for stage in stages] == [(2, 8, 16, 24), (2, 16, 8, 12), (2, 20, 4, 6), (2, 32, 2, 3)]


def test_the_tapped_norms_are_the_outputs():
    network, tapped = PVTv2(**TINY), []
    for i in range(1, 5):
        network.get_submodule(f"norm{i}").register_forward_hook(lambda module, args, output: tapped.append(output))
    for stage, tap in zip(network(torch.randn(1, 3, 64, 64)), tapped):
        assert stage is tap


def test_epsilons_and_drop_path():
    network = pvt_v2("b0", drop_path_rate=0.7)
    eps = {name: module.eps for name, module in network.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    small = {name for name, value in eps.items() if value == 1e-6}
    assert {name for name in eps if ".attn." in name or "patch_embed" in name} == set(eps) - small
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for i in range(1, 5) for b in network.get_submodule(f"block{i}")]
    assert rates == pytest.approx([0.1 * i for i in range(8)])


def test_drop_path_rests_in_evaluation():
    network = PVTv2(**TINY, drop_path_rate=0.9)
    x = torch.randn(1, 3, 64, 64)
    assert not torch.equal(network(x)[3], network(x)[3])
    network.eval()
    torch.testing.assert_close(network(x), network(x), rtol=0, atol=0)


def test_initialisation():
    torch.manual_seed(0)
    network = pvt_v2("b0")
    assert network.block1[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert network.patch_embed3.proj.weight.std().item() == pytest.approx((2 / (9 * 160)) ** 0.5, rel=0.05)
    assert network.block3[0].mlp.dwconv.dwconv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert not any(p.any() for name, p in network.named_parameters() if name.endswith("bias"))


def test_every_parameter_learns():
    network = PVTv2(**TINY, drop_path_rate=0.0)
    sum((stage * torch.randn_like(stage)).sum() for stage in network(torch.randn(2, 3, 64, 64))).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_copies_are_independent():
    network = PVTv2(**TINY).eval()
    twin, x = copy.deepcopy(network), torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(twin(x), network(x), rtol=0, atol=0)
    with torch.no_grad():
        twin.norm4.weight.zero_()
    assert network.norm4.weight.all()


def test_released_classifier_loads_without_its_head():
    released, network = released_classifier(), pvt_v2("b0")
    load_backbone(network, released)
    for name, value in network.state_dict().items():
        assert torch.equal(value, released[name])


def test_unexpected_weights_are_refused_by_name():
    network, released = pvt_v2("b0"), released_classifier()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"unknown to the network: head2\.weight"):
        load_backbone(network, {**released, "head2.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"norm1\.weight: file \(64,\), network \(32,\)"):
        load_backbone(network, {**released, "norm1.weight": torch.zeros(64)})
    del released["norm2.bias"]
    with pytest.raises(CheckpointError, match=r"missing in the file: norm2\.bias"):
        load_backbone(network, released)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_backbone_of_a_whole_network_is_filled():
    released = released_classifier()
    network = load_backbone(PolypPVT("b0"), released)
    assert torch.equal(network.backbone.norm4.weight, released["norm4.weight"])
    with pytest.raises(TypeError, match="PVTv2"):
        load_backbone(torch.nn.Linear(2, 2), released)


def test_messages():
    with pytest.raises(ValueError, match="unknown PVTv2 size 'b9', expected one of b0, b1"):
        pvt_v2("b9")
    with pytest.raises(ValueError, match="depths needs one entry for each of the 4 stages"):
        PVTv2(embed_dims=(8, 16, 20, 32), depths=(1, 1, 1))
    with pytest.raises(ValueError, match="num_heads must divide embed_dims"):
        PVTv2(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"expected an image of shape \(B, 3, H, W\), got \(1, 1, 64, 64\)"):
        PVTv2(**TINY)(torch.randn(1, 1, 64, 64))
