import itertools
import math

import pytest
import torch

from monai_kd.federated import average_weights


def states(count=3, seed=0):
    """Of sites a, b, ...: weights, a scalar and a count of batches."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "abcdef"[i]: {
            "weight": torch.randn(4, 3, generator=generator),
            "scale": torch.randn((), generator=generator),
            "half": torch.randn(5, generator=generator).half(),
            "num_batches_tracked": torch.tensor(7 * i),
        }
        for i in range(count)
    }


def test_matches_the_formula():
    given, cases = states(), {"a": 1, "b": 5, "c": 10}
    found = average_weights(given, cases)
    for name in ("weight", "scale", "half"):
        exact = sum(cases[site] * given[site][name].double() for site in given) / 16
        torch.testing.assert_close(found[name].double(), exact, rtol=torch.finfo(found[name].dtype).eps, atol=0)
    assert found["num_batches_tracked"] == torch.tensor(round((5 * 7 + 10 * 14) / 16))


def test_keeps_names_shapes_and_types_in_their_order():
    given = states()
    found = average_weights(given, dict.fromkeys("abc", 1))
    assert [(name, value.shape, value.dtype) for name, value in found.items()] == [
        (name, value.shape, value.dtype) for name, value in given["a"].items()
    ]


def test_the_order_of_answers_changes_no_bit():
    given, cases = states(), {"a": 3, "b": 5, "c": 7}
    expected = average_weights(given, cases)
    for order in itertools.permutations("abc"):
        found = average_weights({site: given[site] for site in order}, cases)
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("count", [1, 4])
def test_equal_sites_are_their_average(count):
    one = states(1)["a"]
    sites = dict.fromkeys("abcd"[:count], one)
    found = average_weights(sites, dict.fromkeys(sites, 2))
    assert all(torch.equal(found[name], value) for name, value in one.items())


def test_a_site_of_a_thousand_cases_outweighs_one_of_one():
    a, b = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
    found = average_weights({"a": a, "b": b}, {"a": 1, "b": 1000})
    torch.testing.assert_close(found["w"], torch.full((2,), 1000 / 1001))


def test_the_weights_given_stay():
    given = states()
    before = [value.clone() for state in given.values() for value in state.values()]
    average_weights(given, dict.fromkeys("abc", 1))
    after = [value for state in given.values() for value in state.values()]
    assert all(torch.equal(*pair) for pair in zip(before, after))


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "cases", "message"),
    [
        (lambda b: without(b, "scale"), 1, "sites 'a' and 'b' differ: 1 entries .* 'scale'"),
        (lambda b: {**b, "weight": b["weight"].T}, 1, "sites 'a' and 'b' differ: 1 entries .* 'weight'"),
        (lambda b: {**b, "half": b["half"].float()}, 1, "sites 'a' and 'b' differ: 1 entries .* 'half'"),
        (lambda b: {**b, "scale": torch.tensor(math.nan)}, 1, "site 'b' sent 'scale' with values that are not finite"),
        (lambda b: b, 0, "site 'b' counts by its cases, a whole number from 1; got 0"),
        (lambda b: b, None, "site 'b' counts by its cases, a whole number from 1; got None"),
    ],
)
def test_what_cannot_be_averaged_is_refused_by_the_name_of_the_site(change, cases, message):
    given = states(2)
    given["b"] = change(given["b"])
    with pytest.raises(ValueError, match=message):
        average_weights(given, {"a": 1, "b": cases})


def test_no_site_has_no_average():
    with pytest.raises(ValueError, match="got none"):
        average_weights({}, {})
