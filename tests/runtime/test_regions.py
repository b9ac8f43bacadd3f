"""Few windows, and all that was found on the coarse grid is in them, with the margin."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from monai_kd.runtime.grids import make_grid
from monai_kd.runtime.regions import windows_over
from monai_kd.runtime.windows import window_slices

ROI = (32, 32, 24)
AFFINES = {
    "RAS": np.diag([2.0, 2.0, 2.5, 1.0]),
    "IPL": np.array([[0, 0, -2.3, 90], [0, -2.3, 0, 70], [-5.1, 0, 0, 30], [0, 0, 0, 1]]),
}


def grids(affine="RAS", shape=(120, 90, 80)):
    return [make_grid(shape, AFFINES[affine], "RAS", [mm] * 3) for mm in (6.0, 1.5)]


def blobs(shape, seed, share):
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return noise > np.quantile(noise, 1 - share)


def needed(mask, coarse, fine, margin):
    """The fine voxels within the margin of a coarse voxel that was found: our own loop over these."""
    near = np.zeros(fine.shape, bool)
    first = coarse.first_voxel_on(fine)
    for voxel in np.argwhere(mask):
        middle = first + voxel * np.divide(coarse.spacing, fine.spacing)
        reach = np.divide(margin, fine.spacing) + np.divide(coarse.spacing, fine.spacing) / 2
        low, high = np.ceil(middle - reach - 1e-9).astype(int), np.floor(middle + reach + 1e-9).astype(int) + 1
        near[tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(low, high))] = True
    return near


def seen(windows, shape, rim=0):
    """The voxels of the windows, or those as deep in one as ``rim``, where the volume does not end before."""
    found = np.zeros(shape, bool)
    for window in windows:
        found[
            tuple(
                slice(part.start + rim if part.start > 0 else 0, part.stop - rim if part.stop < full else full)
                for part, full in zip(window, shape)
            )
        ] = True
    return found


@pytest.mark.parametrize("margin", [0.0, 7.0, 20.0])
@pytest.mark.parametrize("share", [0.00005, 0.001, 0.01, 0.1])
@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("seed", [0, 1])
def test_all_that_is_near_is_in_a_window(affine, share, margin, seed):
    coarse, fine = grids(affine)
    mask = blobs(coarse.shape, seed, share)
    assert mask.any()
    windows, whole = windows_over(mask, coarse, fine, margin, ROI, 0.25), window_slices(fine.shape, ROI, 0.25)
    assert len(windows) <= len(whole)
    assert not (needed(mask, coarse, fine, margin) & ~seen(windows, fine.shape)).any()
    for window in windows:
        assert tuple(part.stop - part.start for part in window) == ROI
        assert all(part.start >= 0 and part.stop <= full for part, full in zip(window, fine.shape))
    assert len(set(map(str, windows))) == len(windows)


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.1])
def test_what_was_found_is_not_at_the_rim_of_all_its_windows(share):
    coarse, fine = grids()
    mask = blobs(coarse.shape, 0, share)
    for margin, deep in ((4.5, 3), (100.0, 3)):  # the margin in voxels, or half of what two windows share (24 * 0.25)
        windows = windows_over(mask, coarse, fine, margin, ROI, 0.25)
        assert not (needed(mask, coarse, fine, 0.0) & ~seen(windows, fine.shape, rim=deep)).any()


def spots(coarse, *places):
    mask = np.zeros(coarse.shape, bool)
    for place in places:
        mask[place] = True
    return mask


def test_a_window_has_what_was_found_in_its_middle():
    coarse, fine = grids()
    (window,) = windows_over(spots(coarse, (20, 15, 16)), coarse, fine, 9.0, ROI)
    middle = coarse.first_voxel_on(fine) + np.array([20, 15, 16]) * 4
    assert np.abs([(part.start + part.stop - 1) / 2 for part in window] - middle).max() <= 1


@pytest.mark.parametrize(
    ("places", "count"),
    [
        ([(20, 15, 16)], 1),
        ([(20, 15, 16), (22, 17, 14)], 1),  # close to each other: one window for both
        ([(5, 15, 16), (33, 15, 16)], 2),
        ([(5, 4, 16), (33, 15, 16), (33, 17, 16), (20, 20, 30)], 3),
        ([(0, 0, 0), (-1, -1, -1)], 2),
        ([(slice(5, 12), 15, 16)], 2),  # longer than one
    ],
)
def test_what_lies_apart_gets_windows_of_its_own(places, count):
    coarse, fine = grids()
    assert len(windows_over(spots(coarse, *places), coarse, fine, 6.0, ROI)) == count


def test_a_bent_organ_is_not_covered_as_its_box():
    coarse, fine = grids()
    bent = spots(coarse, (slice(2, 38), 2, 2), (2, slice(2, 28), 2), (2, 2, slice(2, 30)))
    arms = sum(-(-(part * 4 + 1 + 2 * 4 - size) // (size * 3 // 4)) + 1 for part, size in zip((36, 26, 28), ROI))
    assert len(windows_over(bent, coarse, fine, 4.0, ROI)) <= arms


@pytest.mark.parametrize("found", [0, 1])
def test_nothing_and_everything_take_the_whole_volume(found):
    coarse, fine = grids()
    mask = np.full(coarse.shape, found, np.uint8)
    assert windows_over(mask, coarse, fine, 20.0, ROI, 0.5) == window_slices(fine.shape, ROI, 0.5)


def test_a_volume_smaller_than_a_window():
    coarse, fine = grids(shape=(20, 90, 8))
    (window,) = windows_over(spots(coarse, (2, 15, 1)), coarse, fine, 6.0, ROI)
    whole = window_slices(fine.shape, ROI, 0.25)[0]
    assert (window[0], window[2]) == (whole[0], whole[2])


@pytest.mark.parametrize("margin", [-1.0, float("nan")])
def test_a_margin_that_is_none_is_refused(margin):
    coarse, fine = grids()
    with pytest.raises(ValueError, match="0 or more mm"):
        windows_over(spots(coarse, (1, 1, 1)), coarse, fine, margin, ROI)
