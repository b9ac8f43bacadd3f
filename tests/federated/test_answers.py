import numpy as np
import pytest

from monai_kd.federated.answers import read_answer

ARRAYS = {"weight": np.ones((2, 3), dtype=np.float32)}
SAID = {"cases": 3, "validation_cases": 1, "global_score": 0.5, "site_score": 0.25}


def test_what_was_asked_for_is_read_and_no_more():
    answer = read_answer("train", ARRAYS, {**SAID, "client_name": "a"})
    assert answer.said == SAID
    assert {name: value.tolist() for name, value in answer.weights.items()} == {"weight": [[1.0] * 3] * 2}
    assert read_answer("initial", ARRAYS, {}).said == {}
    assert read_answer("validate", None, SAID).said == {"global_score": 0.5}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cases", 0, "'cases' is a whole number from 1, got 0"),
        ("cases", True, "'cases' is a whole number from 1, got True"),
        ("cases", 2.5, "'cases' is a whole number from 1, got 2.5"),
        ("cases", None, "'cases' is a whole number from 1, got None"),
        ("validation_cases", -1, "'validation_cases' is a whole number from 0, got -1"),
        ("validation_cases", "7", "'validation_cases' is a whole number from 0, got '7'"),
        ("global_score", "high", "'global_score' is a number, got 'high'"),
        ("site_score", None, "'site_score' is a number, got None"),
        ("site_score", "x" * 1000, "'site_score' is a number, got 'x{49}[.]$"),
    ],
)
def test_what_cannot_be_counted_with_is_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        read_answer("train", ARRAYS, {**SAID, name: value})


@pytest.mark.parametrize("name", SAID)
def test_what_is_missing_is_named(name):
    said = {key: value for key, value in SAID.items() if key != name}
    with pytest.raises(ValueError, match=f"'{name}' is .*, got None"):
        read_answer("train", ARRAYS, said)


@pytest.mark.parametrize("task", ["initial", "train"])
@pytest.mark.parametrize("arrays", [None, {"weight": "none"}])
def test_weights_are_arrays(task, arrays):
    with pytest.raises(TypeError, match="array"):
        read_answer(task, arrays, SAID)
