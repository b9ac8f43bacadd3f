"""Inputs from a bundle's cases: their size, their number, and which windows they are."""

import re

import pytest
import torch

from monai_kd.export.cases import Cases, NoCases, noise
from monai_kd.export.verify import VerificationError, same_for_batches, verify


def cases(*images, slices=None):
    return Cases("training", list(images), lambda image: {"image": image}, slices)


def test_windows_of_a_volume_begin_with_the_most_varied():
    image = torch.zeros(1, 20, 8, 8)
    image[:, 8:16] = torch.randn(1, 8, 8, 8)
    found = list(cases(image).samples(2, 1, (8, 8, 8), each=2))
    assert [tuple(one.image.shape) for one in found] == [(1, 1, 8, 8, 8)] * 2
    torch.testing.assert_close(found[0].image[0], image[:, 8:16])
    assert found[1].image.std() < found[0].image.std()


def test_all_cases_are_seen_before_further_windows():
    found = list(cases(*torch.randn(5, 1, 16, 16)).samples(5, 1, (8, 8)))
    assert [one.name for one in found] == [f"training case {number}, window 1" for number in range(1, 6)]
    spread = cases(*torch.randn(5, 1, 16, 16)).samples(3, 1, (8, 8))
    assert [one.name for one in spread] == [f"training case {number}, window 1" for number in (1, 3, 5)]


def test_cases_of_one_window_are_made_up_for_by_others():
    """Seven inputs of five cases are two windows a case; where each gives one, all cases are used."""
    found = list(cases(*torch.randn(5, 1, 8, 8)).samples(7, 1, (8, 8)))
    assert [one.name for one in found] == [f"training case {number}, window 1" for number in (1, 2, 3, 5, 4)]


def test_a_small_volume_is_padded_with_the_value_of_the_bundle():
    (found,) = cases(torch.ones(1, 4, 8, 6)).samples(1, 1, (8, 8, 8), pad_value=-1.0)
    assert found.image.sum() == 4 * 8 * 6 - (8**3 - 4 * 8 * 6)
    assert (found.image[0, 0, 2:6, :, 1:7] == 1).all()


def test_a_volume_seen_in_slices():
    found = list(cases(torch.randn(1, 8, 8, 5), slices=2).samples(2, 1, (8, 8)))
    assert [tuple(one.image.shape) for one in found] == [(1, 1, 8, 8)] * 2


@pytest.mark.parametrize("image", [torch.zeros(2, 8, 8), torch.zeros(1, 8, 8, 8)])
def test_cases_of_another_shape_are_refused(image):
    with pytest.raises(NoCases, match="training case 0 gives inputs of"):
        list(cases(image).samples(1, 1, (8, 8)))


def test_a_case_that_cannot_be_read_is_named():
    broken = Cases("validation", [0], lambda item: {"image": item["image"]})
    with pytest.raises(NoCases, match="validation case 0 cannot be read"):
        list(broken.samples(1, 1, (8, 8)))


def test_noise_is_always_the_same():
    first, second = list(noise(2, 1, (4, 4))), list(noise(2, 1, (4, 4)))
    assert all(torch.equal(one.image, other.image) for one, other in zip(first, second))
    assert not torch.equal(first[0].image, first[1].image)


# --- verification ---------------------------------------------------------------------------------------------------


def answer(network, change=lambda output: output):
    return lambda images: change(network(torch.from_numpy(images)).detach().numpy())


def test_equal_networks_are_equal():
    network = torch.nn.Conv2d(1, 3, 1)
    found = verify(network, answer(network), noise(3, 1, (4, 4)), "noise", "none", "f32")
    assert found.as_json()["max_abs_difference"] == 0
    assert [row.agreement for row in found.rows] == [1.0] * 3
    assert len(str(found).splitlines()) == 4


@pytest.mark.parametrize(
    "change",
    [lambda y: y * 1.002, lambda y: y + float("nan"), lambda y: y[:, :2], lambda y: -y],
    ids=["values", "not finite", "shape", "labels"],
)
def test_other_outputs_are_refused(change):
    network = torch.nn.Conv2d(1, 3, 1)
    with pytest.raises(VerificationError):
        verify(network, answer(network, change), noise(1, 1, (4, 4)), "noise", None, "f32")


def test_reduced_precision_may_differ_a_little():
    network = torch.nn.Conv2d(1, 3, 1)
    nearly = answer(network, lambda y: y * 1.01)
    assert verify(network, nearly, noise(1, 1, (4, 4)), "noise", None, "bf16").rows[0].relative_rms < 0.011
    with pytest.raises(VerificationError, match="in f32"):
        verify(network, nearly, noise(1, 1, (4, 4)), "noise", None, "f32")


def test_no_input_verifies_nothing():
    network = torch.nn.Conv2d(1, 3, 1)
    with pytest.raises(VerificationError, match="no input"):
        verify(network, answer(network), [], "noise", None, "f32")


def test_a_batch_is_any_number_of_images():
    network = torch.nn.Conv2d(1, 3, 1)
    assert same_for_batches(answer(network), (1, 4, 4)) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda y: y[:1].repeat(len(y), axis=0), "a batch of 3 gives other outputs"),
        (lambda y: y * (1 + 0.01 * len(y)), "a batch of 3 gives other outputs"),
        (lambda y: y * (float("nan") if len(y) > 1 else 1), "a batch of 3 gives other outputs"),
        (lambda y: y[:1], r"a batch of 3 gives an output of \(1, 3, 4, 4\), its images one by one \(3, 3, 4, 4\)"),
        (lambda y: y.reshape(1, 3, 4, 4), "a batch of 3 fails: .*reshape"),
    ],
)
def test_batches_are_held_against_their_images_one_by_one(change, said):
    network = torch.nn.Conv2d(1, 3, 1)
    assert re.match(said, same_for_batches(answer(network, change), (1, 4, 4)))


def test_coarse_outputs_may_be_the_same_for_batches():
    """As those of plain instance norms, which bf16 and int8 have: the network's own are another question."""
    network = torch.nn.Conv2d(1, 3, 1)
    coarse = answer(network, lambda y: y.round(1))
    assert same_for_batches(coarse, (1, 4, 4)) is None
    with pytest.raises(VerificationError):
        verify(network, coarse, noise(1, 1, (4, 4)), "noise", None, "f32")
