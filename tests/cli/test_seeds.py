import pytest
import typer

from monai_kd.cli.seeds import parse_seeds


@pytest.mark.parametrize("text", ["0,1,12", "0 1 12", " 0, 1,  12 "])
def test_commas_or_blanks(text):
    assert parse_seeds(text) == (0, 1, 12)


def test_one_seed():
    assert parse_seeds("7") == (7,)


def test_the_largest_seed():
    assert parse_seeds("4294967295") == (2**32 - 1,)


@pytest.mark.parametrize("text", ["0,4294967296", "9" * 5000])
def test_larger_ones_are_no_seeds(text):
    with pytest.raises(typer.BadParameter, match=r"below 2\*\*32"):
        parse_seeds(text)


@pytest.mark.parametrize("text", ["", "0,x", "1.5", "0;1", "-1", "+1", "1_0", "\u0663", "\u00b2"])
def test_anything_else_is_wrong(text):
    with pytest.raises(typer.BadParameter, match="as 0,1,2; got"):
        parse_seeds(text)
