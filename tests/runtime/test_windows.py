"""Windows are MONAI's: positions, weights, padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from monai_kd.runtime.windows import Answers, importance, sliding_window, window_slices


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
    got = sliding_window(image[0].numpy(), as_arrays(net), (16, 16, 16), overlap, mode, -1.0)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_axes_of_the_volumes_own_size():
    image = torch.randn(1, 1, 8, 20, 12)
    net = network()
    with torch.no_grad():
        expected = SlidingWindowInferer((8, 8, -1), overlap=0.5, mode="gaussian")(image, net)[0].numpy()
    got = sliding_window(image[0].numpy(), as_arrays(net), (8, 8, -1), 0.5)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def slabs_of(image, windows, call, **words):
    """The slabs put together, with what no window has seen; none is thicker than it may be, nor left out."""
    answers = Answers(image.shape[1:], windows, **words)
    total, seen, end = None, np.zeros(image.shape[1:], bool), answers.region[answers.axis].start
    for box, answer, some in answers.slabs(lambda box: image[(slice(None), *box)], call):
        if total is None:
            total = np.zeros((len(answer), *image.shape[1:]), np.float32)
        else:  # the slice that both have
            first = (slice(None),) * (1 + answers.axis) + (slice(0, 1),)
            np.testing.assert_array_equal(answer[first], total[(slice(None), *box)][first])
        part = box[answers.axis]
        assert end - 1 <= part.start <= end
        assert part.stop - part.start <= answers.roi[answers.axis] + 1
        total[(slice(None), *box)], seen[box], end = answer, True if some is None else some, part.stop
    assert end == answers.region[answers.axis].stop
    return total, seen


@pytest.mark.parametrize("shape", [(40, 17, 12), (9, 41, 12), (17, 12, 41), (9, 8, 7)])
def test_slabs_are_the_whole_to_the_bit(shape):
    image = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    call, windows = as_arrays(network()), window_slices(shape, (16, 12, 8), 0.5)
    got, seen = slabs_of(image, windows, call)
    axis = int(np.argmax(shape))
    total, count, weights = 0, 0, importance((16, 12, 8), "gaussian")
    for window in sorted(windows, key=lambda window: window[axis].start):
        padded = np.pad(image, [(0, 0)] + [(20, 20)] * 3)
        place = tuple(slice(part.start + 20, part.stop + 20) for part in window)
        one, weight = np.zeros((3, *padded.shape[1:]), np.float32), np.zeros(padded.shape[1:], np.float32)
        one[(slice(None), *place)] = call(padded[(slice(None), *place)][None])[0] * weights
        weight[place] = weights
        total, count = total + one, count + weight
    expected = (total / np.where(count > 0, count, 1))[:, 20:-20, 20:-20, 20:-20]
    assert seen.all()
    np.testing.assert_array_equal(got, expected)


def test_windows_anywhere_answer_where_they_are():
    image = np.random.default_rng(0).standard_normal((1, 90, 30, 20)).astype(np.float32)
    corners = [(3, 2, 5), (9, 2, 5), (12, 14, 9), (60, 8, 12), (80, 20, 0)]
    windows = [tuple(slice(a, a + size) for a, size in zip(corner, (10, 10, 8))) for corner in corners]
    got, seen = slabs_of(image, windows[::-1], lambda window: np.concatenate([window, -window], axis=1))
    expected = np.zeros(image.shape[1:], bool)
    for window in windows:
        expected[window] = True
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_allclose(got, np.concatenate([image, -image]) * expected, atol=1e-5)


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
