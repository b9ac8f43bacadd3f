"""Large instance norms: the same numbers in torch, precise ones in OpenVINO."""

import pytest
import torch
from torch import nn

from monai_kd.export.instance_norm import with_row_statistics


def volume(size, channels=2, batch=1):
    """Like a window at the rim of a scan: a constant part, and values far from a mean of zero."""
    values = torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0))
    values[..., : size[-1] // 3] = 0.1
    return 0.1 * values + 5


@pytest.mark.parametrize("size", [(40, 36, 44), (200, 220), (6, 7, 8)])
@pytest.mark.parametrize("affine", [True, False])
def test_computes_the_same(size, affine):
    norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[len(size)](2, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    network = nn.Sequential(nn.Identity(), nn.ModuleDict({"norm": norm})["norm"]).eval()
    images = volume(size, batch=3)
    exact = network.double()(images.double())
    torch.testing.assert_close(with_row_statistics(network.float())(images).double(), exact, rtol=1e-3, atol=1e-3)


def test_leaves_the_network_and_other_norms_alone():
    network = nn.Sequential(nn.InstanceNorm3d(2), nn.BatchNorm3d(2), nn.InstanceNorm3d(2, track_running_stats=True))
    names = [type(module).__name__ for module in network]
    changed = with_row_statistics(network)
    assert [type(module).__name__ for module in network] == names
    assert [type(a) is type(b) for a, b in zip(changed, network)] == [False, True, True]


def test_openvino_sums_large_volumes_precisely():
    """The form is worth it: with the plain one the same output is more than a hundred times less precise."""
    openvino = pytest.importorskip("openvino")
    network = nn.Sequential(nn.InstanceNorm3d(2)).eval()
    images = volume((128, 128, 128))
    exact = network.double()(images.double()).numpy()

    def error(form):
        traced = torch.jit.trace(form, images, check_trace=False)
        model = openvino.convert_model(traced, input=[openvino.PartialShape([-1, *images.shape[1:]])])
        compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return abs(compiled([images.numpy()])[0] - exact).max() / abs(exact).max()

    precise, plain = error(with_row_statistics(network.float())), error(network)
    assert precise < 1e-5
    assert plain > 100 * precise
