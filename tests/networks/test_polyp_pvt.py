from __future__ import annotations

import copy
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_kd.networks import PolypPVT, PVTv2

TINY = {"embed_dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1)}

# Outputs of the released networks on one input, weights filled by ``hash_fill``:
# mean, standard deviation and one value of each head.
HEADS = {
    "b2": (
        (3.45777851644502, 3.8084041077539075, (0, 0), 4.939414403274572),
        (12.901332855780318, 7.464590061754168, (31, 17), 21.158912471116302),
    ),
    "b0": (
        (-10.395702727528054, 8.593875204808016, (0, 0), -0.8197484912896398),
        (52.57228949715972, 35.90107074959291, (31, 17), 17.420300365354613),
    ),
}


def hash_fill(network: torch.nn.Module) -> torch.nn.Module:
    """Weights that depend on shapes and positions only, so any implementation in the right layout must agree."""
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:
            torch.nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
            continue
        h = (747796405 * np.arange(parameter.numel(), dtype=np.uint64) + 2891336453) & 0xFFFFFFFF
        h = (((h >> ((h >> np.uint64(28)) + np.uint64(4))) ^ h) * np.uint64(277803737)) & np.uint64(0xFFFFFFFF)
        uniform = ((h >> np.uint64(22)) ^ h) / 2.0**32
        weights = (2 * uniform - 1) * math.sqrt(6 * parameter.shape[0] / parameter.numel())
        parameter.data = torch.from_numpy(weights).reshape(parameter.shape)
    return network.double().eval()


def golden() -> Path:
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("the golden files lie next to $MONAI_KD_DATA, which is not set")
    folder = Path(os.environ["MONAI_KD_DATA"]).parent / "golden"
    if not (folder / "polyp_pvt_b0.npz").is_file():
        pytest.skip(f"no golden files in {folder}")
    return folder


@pytest.mark.parametrize(("backbone", "parameters"), [("b2", 25_107_604), ("b0", 3_650_740)])
def test_parameter_counts(backbone, parameters):
    with torch.device("meta"):
        network = PolypPVT(backbone)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("backbone", ["b2", "b0"])
def test_equals_the_released_network(backbone):
    network = hash_fill(PolypPVT(backbone))
    x = torch.sin(0.01 * torch.arange(3 * 64 * 64, dtype=torch.float64)).reshape(1, 3, 64, 64)
    with torch.no_grad():
        heads = network.heads(x)
    for head, (mean, std, (row, column), value) in zip(heads, HEADS[backbone]):
        assert head.mean().item() == pytest.approx(mean, rel=1e-6)
        assert head.std().item() == pytest.approx(std, rel=1e-6)
        assert head[0, 0, row, column].item() == pytest.approx(value, rel=1e-6)


def test_loads_released_weights_and_gives_their_outputs():
    folder = golden()
    network = PolypPVT("b0").eval()
    network.load_state_dict(torch.load(folder / "polyp_pvt_b0_state_dict.pt", weights_only=True))
    expected = np.load(folder / "polyp_pvt_b0.npz")
    x = torch.from_numpy(expected["x"])
    with torch.no_grad():
        p1, p2 = network.heads(x)
        stages = network.backbone(x)
        both = network(x)
    torch.testing.assert_close(p1, torch.from_numpy(expected["prediction1"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(p2, torch.from_numpy(expected["prediction2"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both, p1 + p2)
    for i, stage in enumerate(stages, start=1):
        torch.testing.assert_close(
            stage.mean(dim=(2, 3)), torch.from_numpy(expected[f"stage{i}_mean"]), rtol=1e-4, atol=1e-5
        )


def test_keeps_the_released_names():
    state = PolypPVT("b0").state_dict()
    assert len(state) == 263
    assert {name.split(".")[0] for name in state} == {
        *("backbone", "Translayer2_0", "Translayer2_1", "Translayer3_1", "Translayer4_1"),
        *("CFM", "ca", "sa", "SAM", "out_SAM", "out_CFM"),
    }
    shapes = {
        "Translayer2_0.conv.weight": (32, 32, 1, 1),
        "Translayer4_1.bn.running_mean": (32,),
        "CFM.conv_upsample5.conv.weight": (64, 64, 3, 3),
        "CFM.conv_concat3.conv.weight": (96, 96, 3, 3),
        "CFM.conv4.bn.num_batches_tracked": (),
        "ca.fc1.weight": (2, 32, 1, 1),
        "sa.conv1.weight": (1, 2, 7, 7),
        "SAM.conv_state.bias": (16,),
        "SAM.gcn.conv1.weight": (16, 16, 1),
        "SAM.gcn.conv2.weight": (16, 16, 1),
        "SAM.conv_extend.weight": (32, 16, 1, 1),
        "out_CFM.bias": (1,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_a_list_in_training_one_tensor_in_evaluation():
    network = PolypPVT("b0", **TINY)
    x = torch.randn(2, 3, 64, 96)
    output = network(x)
    assert isinstance(output, list)
    assert [tuple(head.shape) for head in output] == [(2, 1, 64, 96)] * 2
    network.eval()
    torch.testing.assert_close(network(x), sum(network.heads(x)), rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_both_heads_can_be_tapped_in_both_modes(training):
    network = PolypPVT("b0", **TINY).train(training)
    taps = {}
    for name in network.tap_points:
        network.get_submodule(name).register_forward_hook(
            lambda _, args, output, name=name: taps.update({name: output})
        )
    output = network(torch.randn(2, 3, 64, 64))
    assert {name: tuple(tap.shape[1:]) for name, tap in taps.items()} == {
        "backbone.norm1": (8, 16, 16),
        "backbone.norm2": (16, 8, 8),
        "backbone.norm3": (20, 4, 4),
        "backbone.norm4": (32, 2, 2),
        "CFM": (32, 8, 8),
        "SAM": (32, 8, 8),
        "logits_cfm": (1, 64, 64),
        "logits_sam": (1, 64, 64),
    }
    heads = [taps["logits_cfm"], taps["logits_sam"]]
    torch.testing.assert_close(output, heads if training else heads[0] + heads[1], rtol=0, atol=0)


def test_every_parameter_learns():
    torch.manual_seed(0)
    # 8 hidden units of channel attention: the 2 of "b0" can all be at rest on random weights.
    network = PolypPVT("b0", embed_dims=(128, 16, 20, 32), drop_path_rate=0.0)
    p1, p2 = network(torch.randn(2, 3, 64, 64))
    (p1.square().mean() + p2.square().mean()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_takes_a_built_backbone():
    network = PolypPVT(PVTv2(**TINY, in_channels=1))
    assert network.ca.fc1.weight.shape == (1, 8, 1, 1)
    assert network(torch.randn(2, 1, 32, 32))[0].shape == (2, 1, 32, 32)
    with pytest.raises(ValueError, match="a built backbone takes no depths"):
        PolypPVT(PVTv2(**TINY), depths=(1, 1, 1, 1))


def test_one_image_of_the_smallest_size():
    assert PolypPVT("b0", **TINY).eval()(torch.randn(1, 3, 32, 32)).isfinite().all()


def test_bfloat16_autocast():
    network = PolypPVT("b0").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = network(x)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, rtol=0.1, atol=0.1 * expected.abs().max().item())


def test_copies_and_pickles():
    network = PolypPVT("b0", **TINY).eval()
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(copy.deepcopy(network)(x), network(x), rtol=0, atol=0)
    torch.testing.assert_close(pickle.loads(pickle.dumps(network))(x), network(x), rtol=0, atol=0)  # noqa: S301


def test_messages():
    network = PolypPVT("b0", **TINY)
    with pytest.raises(ValueError, match=r"multiples of 32, got \(100, 352\); resize or pad the image to \(128, 352\)"):
        network(torch.randn(1, 3, 100, 352))
    for wrong in [(1, 1, 64, 64), (3, 64, 64), (1, 3, 4, 64, 64)]:
        with pytest.raises(ValueError, match=r"expected an image of shape \(B, 3, H, W\)"):
            network(torch.randn(wrong))
    with pytest.raises(ValueError, match="unknown PVTv2 size 'b7'"):
        PolypPVT("b7")
