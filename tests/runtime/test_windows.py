"""Windows are MONAI's: positions, weights, padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from monai_kd.runtime.windows import importance, sliding_window, window_slices


def network(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv3d(4, classes, 3, padding=1))


def as_arrays(net):
    def call(window):
        with torch.no_grad():
            return net(torch.from_numpy(window)).numpy()

    return call


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, (0.6, 0.25, 0.1)])
@pytest.mark.parametrize("shape", [(20, 25, 16), (9, 30, 7), (16, 16, 16), (33, 17, 15)])
def test_answer_is_monais(shape, overlap, mode):
    net, image = network(), torch.randn(1, 1, *shape)
    inferer = SlidingWindowInferer((16, 16, 16), overlap=overlap, mode=mode, cval=-1.0)
    with torch.no_grad():
        expected = inferer(image, net)[0].numpy()
    got, seen = sliding_window(image[0].numpy(), as_arrays(net), (16, 16, 16), overlap, mode, -1.0)
    assert seen is None
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_axes_of_the_volumes_own_size():
    image = torch.randn(1, 1, 8, 20, 12)
    net = network()
    with torch.no_grad():
        expected = SlidingWindowInferer((8, 8, -1), overlap=0.5, mode="gaussian")(image, net)[0].numpy()
    got, _ = sliding_window(image[0].numpy(), as_arrays(net), (8, 8, -1), 0.5)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_kept_windows_answer_where_all_their_neighbours_are_kept():
    image = np.random.default_rng(0).standard_normal((1, 40, 8, 8)).astype(np.float32)
    call = as_arrays(network())
    whole, _ = sliding_window(image, call, (8, 8, 8), 0.5)
    part, seen = sliding_window(image, call, (8, 8, 8), 0.5, keep=lambda box: box[0].stop > 20)
    assert np.flatnonzero(seen.any(axis=(1, 2))).tolist() == list(range(16, 40))
    np.testing.assert_allclose(part[:, 20:], whole[:, 20:], atol=1e-5)
    assert not part[:, :16].any()


def test_weights_are_never_zero():
    assert importance((128, 128, 128), "gaussian").min() >= 1e-3


@pytest.mark.parametrize("overlap", [-0.1, 1.0, (0.5, 0.5)])
def test_bad_overlap_is_refused(overlap):
    with pytest.raises(ValueError, match="overlap"):
        window_slices((8, 8, 8), (4, 4, 4), overlap)


def test_bad_windows_are_refused():
    image = np.zeros((1, 8, 8, 8), dtype=np.float32)
    with pytest.raises(ValueError, match="3 numbers"):
        sliding_window(image, lambda x: x, (4, 4))
    with pytest.raises(ValueError, match="mode"):
        sliding_window(image, lambda x: x, (4, 4, 4), mode="gauss")
    with pytest.raises(ValueError, match="keep the window's size"):
        sliding_window(image, lambda x: x[..., :2], (4, 4, 4))
    with pytest.raises(ValueError, match="no window"):
        sliding_window(image, lambda x: x, (4, 4, 4), keep=lambda box: False)
