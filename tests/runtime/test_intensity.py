from __future__ import annotations

import numpy as np
import pytest
from monai.transforms import NormalizeIntensity, ScaleIntensityRange

from monai_kd.runtime.intensity import apply_intensity


def volume():
    values = np.random.default_rng(0).normal(50, 300, (2, 6, 7, 8)).astype(np.float32)
    values[values < -100] = 0
    return values


def test_window_is_monais():
    low, high = -40.0, 160.0
    factor = 2 / (high - low)
    words = [{"op": "clip", "min": low, "max": high}, {"op": "scale", "factor": factor, "offset": -1 - low * factor}]
    expected = ScaleIntensityRange(low, high, -1.0, 1.0, clip=True)(volume()).numpy()
    np.testing.assert_allclose(apply_intensity(volume(), words), expected, atol=1e-6)


@pytest.mark.parametrize("nonzero", [True, False])
@pytest.mark.parametrize("channel_wise", [True, False])
def test_normalisation_is_monais(channel_wise, nonzero):
    expected = NormalizeIntensity(nonzero=nonzero, channel_wise=channel_wise)(volume()).numpy()
    words = [{"op": "normalize", "nonzero": nonzero, "channel_wise": channel_wise}]
    np.testing.assert_allclose(apply_intensity(volume(), words), expected, atol=1e-5)


@pytest.mark.parametrize("nonzero", [True, False])
def test_nothing_but_zeros_stays(nonzero):
    assert not apply_intensity(np.zeros((1, 2, 2, 2), np.float32), [{"op": "normalize", "nonzero": nonzero}]).any()


@pytest.mark.parametrize(
    ("word", "said"),
    [({"op": "gamma"}, "unknown intensity operation 'gamma'"), ({"op": "clip", "min": 0}, "'clip' needs .* max")],
)
def test_unknown_words_are_refused_before_anything_is_changed(word, said):
    values = volume()
    with pytest.raises(ValueError, match=said):
        apply_intensity(values, [{"op": "scale", "factor": 2, "offset": 0}, word])
    np.testing.assert_array_equal(values, volume())
