"""The network's grid is the one of MONAI's Orientationd and Spacingd, there and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, Spacingd
from nibabel.affines import from_matvec
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from monai_kd.runtime.borders import nearest_labels
from monai_kd.runtime.grids import make_grid

SHAPE = (23, 30, 17)


def rotated(degrees, spacing, dtype=np.float64):
    matrix = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag(spacing)
    return from_matvec(matrix.astype(dtype).astype(np.float64), (-40.5, 12.25, 7.0))


# No spacing is a simple fraction of another: where a voxel lies midway between two, rounding decides which is nearest.
AFFINES = {
    "RAS": np.diag([0.83, 0.91, 2.47, 1.0]),
    "LPS": from_matvec(np.diag([-0.77, -0.77, 1.97]), (100.0, 80.0, -30.0)),
    "IPL": from_matvec(np.array([[0, 0, -0.73], [0, -0.73, 0], [-3.1, 0, 0]]), (10.0, 20.0, 30.0)),
    "oblique": rotated((5, -8, 12), (0.83, 0.83, 1.47)),
    "oblique, rounded": rotated((5, -8, 12), (0.83, 0.83, 1.47), np.float32),
    "coarse": np.diag([3.17, 3.17, 6.13, 1.0]),
    "the same": np.diag([1.6, 1.6, 1.6004, 1.0]),
}


def chain(orientation, spacing):
    transforms = [Orientationd("image", axcodes=orientation, labels=None)] if orientation else []
    return Compose([*transforms, Spacingd("image", pixdim=spacing, mode="bilinear", dtype=np.float32)])


def image(seed=0):
    return 100 * gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 1.0).astype(np.float32)


@pytest.mark.parametrize("orientation", ["RAS", "LPI", None])
@pytest.mark.parametrize("spacing", [(1.6, 1.6, 1.6), (0.7, 2.0, -1.0)])
@pytest.mark.parametrize("name", AFFINES)
def test_is_monais(name, spacing, orientation):
    affine, stored = AFFINES[name], image()
    there = chain(orientation, spacing)
    item = there({"image": MetaTensor(stored[None], affine=torch.as_tensor(affine))})
    grid = make_grid(SHAPE, affine, orientation, spacing)
    seen = grid.from_stored(np.asfortranarray(stored))
    assert seen.shape == grid.shape == tuple(item["image"].shape[1:])
    np.testing.assert_allclose(seen, item["image"][0].numpy(), atol=2e-3)  # of 100; torch's places are in float32

    labels = np.random.default_rng(1).integers(0, 3, grid.shape).astype(np.uint8)
    item["pred"] = MetaTensor(torch.as_tensor(labels[None], dtype=torch.float32), meta=item["image"].meta)
    back = Invertd("pred", there, orig_keys="image", nearest_interp=True)(item)["pred"][0].numpy()
    found = np.zeros(SHAPE, dtype=np.uint8)
    nearest_labels(labels, grid, [slice(0, size) for size in grid.shape], found)
    assert (found == back).mean() >= 0.9999


def test_kind_of_numbers_and_their_order_in_memory_do_not_matter():
    stored = np.random.default_rng(0).integers(-1000, 1000, SHAPE)
    grid = make_grid(SHAPE, AFFINES["IPL"], "RAS", (1.6, 1.6, 1.6))
    expected = grid.from_stored(stored.astype(np.float32))
    for form in (np.asfortranarray(stored.astype("<i2")), stored.astype(">i4"), stored.astype(float)):
        np.testing.assert_allclose(grid.from_stored(form), expected, atol=1e-3)


@pytest.mark.parametrize("spacing", [(1.6, 1.6, 1.6), (0.415, 5.0, 0.73), None])
@pytest.mark.parametrize("name", AFFINES)
def test_a_box_is_part_of_the_whole(name, spacing):
    stored = np.asfortranarray(np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16))
    grid = make_grid(SHAPE, AFFINES[name], "LPI", spacing)
    whole = grid.from_stored(stored)
    for box in ([slice(0, 1)] * 3, [slice(2, 5), slice(1, None), slice(0, 3)], [slice(-1, None)] * 3):
        box = [slice(*part.indices(size)) for part, size in zip(box, grid.shape)]
        np.testing.assert_array_equal(grid.from_stored(stored, box), whole[tuple(box)])


@pytest.mark.parametrize("name", AFFINES)
def test_every_stored_voxel_is_in_the_cells_of_one_slab(name):
    grid = make_grid(SHAPE, AFFINES[name], "RAS", (1.6, 1.6, 1.6))
    for axis, size in enumerate(grid.shape):
        times = np.zeros(SHAPE, int)
        for start in range(0, size, 3):
            box = [slice(0, n) for n in grid.shape]
            box[axis] = slice(max(start - 1, 0), min(start + 3, size))
            times[grid.cells(box).place] += 1
        assert (times == 1).all()


@pytest.mark.parametrize("name", AFFINES)
def test_places_on_a_finer_grid(name):
    coarse, fine = (make_grid(SHAPE, AFFINES[name], "RAS", (mm, mm, mm)) for mm in (6.0, 1.7))
    places = np.linalg.solve(corner(fine, AFFINES[name]), corner(coarse, AFFINES[name]))
    np.testing.assert_allclose(coarse.first_voxel_on(fine), places[:3, 3], atol=1e-6)


def corner(grid, affine):
    """A grid's affine, from where its voxels lie in the stored volume."""
    made = np.eye(4)
    for axis, stored in enumerate(grid.order):
        where = grid.positions[stored]
        made[:3, axis] = affine[:3, stored] * (where[-1] - where[0]) / max(len(where) - 1, 1)
    made[:3, 3] = affine[:3, 3] + affine[:3, :3] @ [where[0] for where in grid.positions]
    return made


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.diag([1.0, 1.0, np.nan, 1.0]), np.eye(3)])
def test_an_affine_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="cannot be inverted"):
        make_grid(SHAPE, bad, "RAS", (1.0, 1.0, 1.0))


def test_sheared_axes_are_refused():
    affine = np.eye(4)
    affine[1, 2] = 0.3
    with pytest.raises(ValueError, match="not at right angles"):
        make_grid(SHAPE, affine, "RAS", (2.0, 2.0, 2.0))
    assert make_grid(SHAPE, affine, "RAS", None).shape == SHAPE  # without resampling there is nothing to get wrong
