from __future__ import annotations

import doctest
import importlib
import itertools

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import DynUNet
from monai.networks.utils import convert_to_torchscript
from torch.utils.flop_counter import FlopCounterMode

from monai_kd.networks import SpaceToDepthDynUNet, encoder_decoder_taps
from monai_kd.taps import FeatureTaps

LEVELS = {"kernel_size": (3, 3, 3, 3), "strides": (1, 2, 2, 2), "upsample_kernel_size": (2, 2, 2)}
FILTERS = (4, 6, 8, 10)
every_dimension = pytest.mark.parametrize("dims", [2, 3])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(dims, heads=2, in_channels=1, classes=3, **more):
    deep = {"deep_supervision": heads > 0, "deep_supr_num": max(heads, 1)}
    return SpaceToDepthDynUNet(dims, in_channels, classes, **{**LEVELS, "filters": FILTERS, **deep, **more})


def images(dims, batch=2, channels=1, side=32):
    return torch.randn(batch, channels, *[side] * dims)


def to_depth(x):
    """(B, C, *spatial) to (B, C * 2^dims, *spatial / 2): the voxels of a block in the order of their offsets."""
    offsets = itertools.product((0, 1), repeat=x.ndim - 2)
    blocks = [x[(..., *(slice(offset, None, 2) for offset in found))] for found in offsets]
    return torch.stack(blocks, dim=2).flatten(1, 2)


def to_space(x):
    """Back again."""
    dims = x.ndim - 2
    found = x.new_empty(x.shape[0], x.shape[1] // 2**dims, *[2 * size for size in x.shape[2:]])
    for number, offsets in enumerate(itertools.product((0, 1), repeat=dims)):
        found[(..., *(slice(offset, None, 2) for offset in offsets))] = x[:, number :: 2**dims]
    return found


def plain_twin(network, dims, in_channels, classes):
    """A DynUNet on the coarser grid with the same weights."""
    blocks, deep = 2**dims, {"deep_supervision": True, "deep_supr_num": network.deep_supr_num}
    twin = DynUNet(dims, in_channels * blocks, classes * blocks, **LEVELS, filters=FILTERS, norm_name="batch", **deep)
    twin.load_state_dict(dict(zip(twin.state_dict(), network.state_dict().values(), strict=True)))
    return twin


@pytest.mark.parametrize(("heads", "parameters"), [(0, 2_457_880), (2, 2_460_232)])
def test_size_and_cost(heads, parameters):
    with torch.device("meta"):
        deep = {"deep_supervision": heads > 0, "deep_supr_num": max(heads, 1)}
        network, window = SpaceToDepthDynUNet(3, 1, 3, **deep).eval(), torch.empty(1, 1, 96, 96, 96)
        with FlopCounterMode(display=False) as counter:
            network(window)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert counter.get_total_flops() == pytest.approx(12.85e9, rel=0.003)


@every_dimension
def test_is_a_dynunet_between_blocks_of_voxels(dims):
    network, x = small(dims, in_channels=2).eval(), images(dims, channels=2)
    twin = plain_twin(network, dims, 2, 3).eval()
    torch.testing.assert_close(network(x), to_space(twin(to_depth(x))))


@every_dimension
def test_heads_in_training_have_dynunets_sizes(dims):
    """Full resolution first, then halves; each is enlarged by nearest neighbours."""
    network, x = small(dims).train(), images(dims)
    taps = encoder_decoder_taps(network)
    with FeatureTaps(network, taps.heads) as recorder:
        output, found = network(x), recorder.outputs()
    assert output.shape == (2, 3, 3, *[32] * dims)
    assert [tuple(found[head].shape) for head in taps.heads] == [(2, 3, *[32 >> i] * dims) for i in range(3)]
    assert torch.equal(output, torch.stack([F.interpolate(found[head], x.shape[2:]) for head in taps.heads], dim=1))
    assert network.eval()(x).shape == (2, 3, *[32] * dims)
    assert small(dims, heads=0).train()(x).shape == (2, 3, *[32] * dims)


@every_dimension
def test_no_voxel_is_lost(dims):
    """Each has an influence, and an answer of its own within its block."""
    network = small(dims).eval()
    x = images(dims, batch=1, side=16).requires_grad_()
    answer = network(x)
    (gradient,) = torch.autograd.grad(answer.square().sum(), x)
    assert (gradient != 0).all()
    assert (to_depth(answer).unflatten(1, (3, 2**dims)).std(dim=2) > 0).all()


@every_dimension
def test_every_parameter_learns(dims):
    network = small(dims)
    network(images(dims)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_dimension
def test_a_batch_of_one_trains_unless_its_coarsest_level_is_a_single_voxel(dims):
    network = small(dims).train()
    assert network(images(dims, batch=1, side=32)).isfinite().all()
    assert network(images(dims, batch=2, side=16)).isfinite().all()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(images(dims, batch=1, side=16))
    network.eval()(images(dims, batch=1, side=16))


def test_sizes_that_do_not_divide_are_refused():
    network = small(3, strides=(1, (2, 2, 1), 2, (2, 2, 1)), upsample_kernel_size=((2, 2, 1), 2, (2, 2, 1)), heads=0)
    assert network.eval()(torch.randn(1, 1, 16, 32, 8)).shape == (1, 3, 16, 32, 8)
    with pytest.raises(ValueError, match=r"sizes \(16, 24, 8\), expected multiples of \(16, 16, 4\) .* pad it"):
        network(torch.randn(1, 1, 16, 24, 8))
    with pytest.raises(ValueError, match="scale_factor must be at least 1, got 0"):
        small(2, scale_factor=0)


def test_larger_blocks():
    network = small(2, scale_factor=4).train()
    assert network(torch.randn(2, 1, 64, 64)).shape == (2, 3, 3, 64, 64)
    assert network.get_submodule("input_block.0")(torch.randn(1, 1, 8, 8)).shape == (1, 16, 2, 2)


@every_dimension
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of sizes, which are fixed
def test_traced_answers_alike_for_any_batch(dims, tmp_path):
    network, path = small(dims).eval(), str(tmp_path / "network.ts")
    convert_to_torchscript(network, filename_or_obj=path, inputs=[images(dims)], use_trace=True, check_trace=False)
    x = images(dims, batch=3)
    torch.testing.assert_close(torch.jit.load(path)(x), network(x))


def test_examples_run():
    result = doctest.testmod(importlib.import_module("monai_kd.networks.space_to_depth_dynunet"))
    assert result.failed == 0
    assert result.attempted > 0
