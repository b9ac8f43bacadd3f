from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from monai_kd.runtime.resizing import resize_area, resize_bilinear

SIZES = [((37, 53), (20, 20)), ((20, 31), (64, 50)), ((576, 720), (352, 352)), ((1, 9), (4, 4)), ((224, 224), (224, 7))]


def both(resize, mode, old, new, picture):
    tensor = torch.from_numpy(np.array(picture, dtype=np.float32)).permute(2, 0, 1)[None]
    options = {} if mode == "area" else {"align_corners": False}
    return resize(picture, new), F.interpolate(tensor, new, mode=mode, **options)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize(("resize", "mode"), [(resize_area, "area"), (resize_bilinear, "bilinear")])
@pytest.mark.parametrize("kind", ["pixels", "logits"])
def test_is_torchs(resize, mode, old, new, kind):
    rng = np.random.default_rng(0)
    shape = (*old, 3)
    picture = rng.integers(0, 256, shape).astype(np.uint8)
    if kind == "logits":
        picture = rng.normal(0, 10, shape).astype(np.float32)
    got, expected = both(resize, mode, old, new, picture)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-4)
