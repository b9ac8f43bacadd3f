from __future__ import annotations

import doctest
import itertools

import pytest
import torch
import torch.nn.functional as F

from monai_kd.networks import FeatureTransformer, feature_transformer

SMALL = {"hidden_size": 16, "num_heads": 2, "dim_head": 4}
every_dimension = pytest.mark.parametrize("grid", [(2, 3), (2, 3, 2)], ids=["2D", "3D"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@every_dimension
def test_patches_go_row_by_row_with_positions_before_channels(grid):
    x = torch.randn(2, 5, *(2 * n for n in grid))
    patches = FeatureTransformer(5, grid, **SMALL).to_patch_embedding[0](x)
    for k, corner in enumerate(itertools.product(*map(range, grid))):
        values = [
            x[(slice(None), slice(None), *(2 * c + o for c, o in zip(corner, offset)))]
            for offset in itertools.product(range(2), repeat=len(grid))
        ]
        assert torch.equal(patches[:, k], torch.cat(values, dim=1))


def normalise(x, layer):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * layer.weight + (
        layer.bias
    )


@pytest.mark.parametrize("distill_token", [True, False])
def test_equals_the_formula(distill_token):
    network = FeatureTransformer(5, (2, 3), depth=2, distill_token=distill_token, **SMALL)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 5, 4, 6)
    rearranged, first, linear, second = network.to_patch_embedding
    special = [network.cls_token, network.distill_token] if distill_token else [network.cls_token]
    patches = normalise(linear(normalise(rearranged(x), first)), second)
    tokens = torch.cat([*(token.repeat(2, 1, 1) for token in special), patches], dim=1) + network.pos_embedding
    for attention, perceptron in network.transformer.layers:
        qkv = normalise(tokens, attention.norm) @ attention.to_qkv.weight.T
        q, k, v = qkv.reshape(2, -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(2, 3) / 4**0.5).softmax(-1) @ v
        tokens = tokens + attention.to_out[0](mixed.permute(0, 2, 1, 3).reshape(2, -1, 8))
        tokens = tokens + perceptron.net[3](F.gelu(perceptron.net[0](tokens)))  # not normalised
    expected = normalise(tokens, network.transformer.norm)[:, : len(special)]
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_tokens_and_positions_begin_at_unit_normal():
    network = FeatureTransformer(4, (14, 14))
    assert network.pos_embedding.shape == (1, 198, 256)
    for parameter in (network.pos_embedding, network.cls_token, network.distill_token):
        assert parameter.std().item() == pytest.approx(1.0, abs=0.2)
        assert parameter.mean().item() == pytest.approx(0.0, abs=0.25)


@every_dimension
def test_every_parameter_learns(grid):
    network = FeatureTransformer(5, grid, depth=2, **SMALL)
    network(torch.randn(2, 5, *(2 * n for n in grid))).pow(3).mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_dimension
def test_other_features_are_refused(grid):
    network, axes = FeatureTransformer(5, grid, **SMALL), len(grid)
    for shape in [(1, 5, *[8] * axes), (1, 5, *[5] * axes), (1, 4, *(2 * n for n in grid)), (1, 5, 4)]:
        with pytest.raises(ValueError, match=r"expected features of shape \('B', 5, 4, 6.*grid of \(2, 3"):
            network(torch.randn(shape))


def test_dropout_acts_in_training_only():
    network = FeatureTransformer(5, (2, 2), dropout_rate=0.5, **SMALL)
    x = torch.randn(2, 5, 4, 4)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_examples_run():
    result = doctest.testmod(feature_transformer, extraglobs={"torch": torch})
    assert result.failed == 0
    assert result.attempted > 0
