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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-1e-4", -1e-4),
        (".5", 0.5),
        ("1.", 1.0),
        ("[true, null, 'x']", "[true, null, 'x']"),
        ("[true, null]", [True, None]),
        ("[True, 'x']", [True, "x"]),
        ("'2024'", "2024"),
        ('"true"', "true"),
        ("False", False),
        ('{"a": [1.5]}', {"a": [1.5]}),
    ],
)
def test_literals_of_json_are_values(text, value):
    found = parse_overrides([f"a={text}"])["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        *[
            "{1,2}",
            "(1, 2)",
            "1,2",
            "b'x'",
            "2024_11",
            "0x10",
            "007",
            "1e999",
            "NaN",
            "nan",
            "inf",
            "1j",
            "{1: 2}",
            "[NaN]",
        ],
        *["[(1, 2)]", "{[1]: 2}", "[1", ".", "-", "e5", "...", "9" * 5000, "[" * 5000, "\u0663"],
    ],
)
def test_all_else_is_text(text):
    assert parse_overrides([f"a={text}"]) == {"a": text}


@pytest.mark.parametrize("word", ["epochs", "=3"])
def test_a_word_without_key_or_value_is_wrong(word):
    with pytest.raises(typer.BadParameter, match=f"expected KEY=VALUE, got '{word}'"):
        parse_overrides([word])
