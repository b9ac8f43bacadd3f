import numpy as np
import pytest
import torch

from monai_kd.federated.exchange import from_arrays, to_arrays

STATE = {"weight": torch.randn(3, 2), "half": torch.randn(2).half(), "num_batches_tracked": torch.tensor(4)}


def test_what_is_sent_arrives():
    found = from_arrays(to_arrays(STATE))
    assert list(found) == list(STATE)
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in STATE.items())


def test_what_arrives_can_be_trained_and_is_its_own():
    arrays = to_arrays(STATE)
    for value in arrays.values():
        value.flags.writeable = False  # as a transport may give it
    from_arrays(arrays)["weight"].zero_()
    assert STATE["weight"].abs().sum() > 0


def test_arrays_and_nothing_else_are_sent():
    assert {type(value) for value in to_arrays(STATE).values()} == {np.ndarray}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "expected arrays by name, got a NoneType"),
        ([np.zeros(2)], "expected arrays by name, got a list"),
        ({1: np.zeros(2)}, "expected arrays by name, got a dict"),
        ({"weight": "1.5"}, "'weight' is no array of numbers, but a str"),
        ({"weight": None}, "'weight' is no array of numbers, but a NoneType"),
        ({"weight": [1, [2, 3]]}, "'weight' is no array of numbers, but a list"),
    ],
)
def test_what_is_no_array_is_named(given, message):
    with pytest.raises(TypeError, match=message):
        from_arrays(given)


def test_a_type_that_numpy_has_not_is_refused():
    with pytest.raises(TypeError, match=r"'weight' is of torch.bfloat16, which cannot be sent; keep .* in float32"):
        to_arrays({"weight": torch.ones(2, dtype=torch.bfloat16)})
