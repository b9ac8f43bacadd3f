"""Words drawn at random on the command line: done, failed with a message, or wrong usage; never a traceback."""

from __future__ import annotations

import re

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from monai_kd.cli.app import COMMANDS, app
from monai_kd.cli.overrides import parse_overrides
from monai_kd.cli.seeds import parse_seeds

from . import configurations, students
from .doors import command
from .outcome import HANDLED, REFUSED

FEW = settings(deadline=None, derandomize=True, max_examples=60)
MANY = settings(deadline=None, derandomize=True, max_examples=3000)
NAMES = [module.__name__.rpartition(".")[2] for module in COMMANDS]
HELP = " ".join(CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output for name in NAMES)
OPTIONS = sorted(set(re.findall(r"(?<!\S)--[a-z-]+(?!\S)", HELP)) - {"--help"})
# Without what would train for hours or write a bundle into a folder that is drawn.
SAFE = [name for name in NAMES if name not in ("federate",)]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("places")
    bundle, export = configurations.bundle(root / "bundle"), students.export(root / "export", "picture")
    (root / "empty").mkdir()
    found = [
        bundle,
        export,
        root / "empty",
        root / "nowhere",
        bundle / "configs" / "train.json",
        bundle / "data" / "a.png",
    ]
    return [str(path) for path in found]


def words(draw, places):
    values = st.one_of(
        st.sampled_from(places), st.text(max_size=12), st.integers().map(str), st.floats().map(str),
        st.sampled_from(["0", "1", "-1", "1,2", "a=1", "=", "seed=1", "1,3,32,32", "true", "[]", "{}", "@x", "$1/0"]),
    )  # fmt: skip
    part = st.one_of(values, st.sampled_from(OPTIONS), st.tuples(st.sampled_from(OPTIONS), values).map("=".join))
    drawn = [draw(st.sampled_from(SAFE)), *draw(st.lists(part, max_size=5))]
    return [*drawn, "--dry-run"] if drawn[0] == "compare" else drawn


def check_words(places, data, root):
    drawn = words(data.draw, places)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)  # relative paths are written there
        found = command(drawn)
    assert found.word in (HANDLED, REFUSED), (drawn, found.said)


@FEW
@given(data=st.data())
def test_any_words_end_with_a_message(places, data, tmp_path_factory):
    check_words(places, data, tmp_path_factory.getbasetemp())


@pytest.mark.fuzz
@MANY
@given(data=st.data())
def test_any_words_end_with_a_message_again(places, data, tmp_path_factory):
    check_words(places, data, tmp_path_factory.getbasetemp())


@FEW
@given(data=st.data())
def test_the_runner_sees_a_status(data):
    """Wrong usage alone, which no command's body is needed for."""
    drawn = [data.draw(st.sampled_from(NAMES)), *data.draw(st.lists(st.sampled_from(OPTIONS), min_size=1, max_size=3))]
    done = CliRunner().invoke(app, drawn)
    assert done.exit_code in (0, 1, 2), (drawn, done.output)
    assert "Traceback" not in done.output


@FEW
@given(words=st.lists(st.text(max_size=30), max_size=4))
def test_overrides_are_read_or_refused(words):
    if any("=" not in word or word.startswith("=") for word in words):
        with pytest.raises(typer.BadParameter, match="KEY=VALUE"):
            parse_overrides(words)
        return
    found = parse_overrides(words)
    assert set(found) == {word.partition("=")[0] for word in words}


@FEW
@given(text=st.text(max_size=30) | st.lists(st.integers(), max_size=4).map(lambda seeds: ",".join(map(str, seeds))))
def test_seeds_are_read_or_refused(text):
    if not re.fullmatch(r"\s*0*[0-9]{1,10}([,\s]+0*[0-9]{1,10})*\s*", text, re.ASCII):
        with pytest.raises(typer.BadParameter, match="expected"):
            parse_seeds(text)
    elif all(int(word) < 2**32 for word in re.findall("[0-9]+", text)):
        assert parse_seeds(text) == tuple(int(word) for word in re.findall("[0-9]+", text))
