import pytest
import typer

from monai_kd.cli.overrides import parse_overrides


def test_values_are_what_they_look_like():
    words = ["a=1", "b=0.5", "c=[1, 2]", "d=true", "e=null", "f=/data/x", "g#h=a=b", "i=", "j={'x': 2}", "k:l=2"]
    expected = {
        "a": 1,
        "b": 0.5,
        "c": [1, 2],
        "d": True,
        "e": None,
        "f": "/data/x",
        "g#h": "a=b",
        "i": "",
        "j": {"x": 2},
        "k:l": 2,
    }
    assert parse_overrides(words) == expected


@pytest.mark.parametrize("word", ["epochs", "=3"])
def test_a_word_without_key_or_value_is_wrong(word):
    with pytest.raises(typer.BadParameter, match=f"expected KEY=VALUE, got '{word}'"):
        parse_overrides([word])
