"""The commands that the documentation shows are right usage, and those of the bundles find what they name."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from monai_kd.cli.app import app, run

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "bundles").glob("*/docs/README.md")])


def commands(page):
    """Words of the page's `monai-kd` commands; continued lines are one, and a comment is none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    blocks = [block for language, block in fenced if not language]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("monai-kd ")]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.parts[-3])
def test_commands_are_right_usage(page):
    for name, *arguments in commands(page):
        if name != "--help":
            typer.main.get_command(app).commands[name].make_context(name, arguments)


@pytest.mark.parametrize("bundle", sorted((ROOT / "bundles").iterdir()), ids=lambda bundle: bundle.name)
def test_a_bundle_is_compared_by_the_command_of_its_readme(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(bundle)
    found = [words for words in commands(bundle / "docs" / "README.md") if words[0] == "compare"]
    assert found
    for words in found:
        assert run([*words, "--output", str(tmp_path / "runs"), "--dry-run"]) == 0
        shown = capsys.readouterr().out
        for network in ("teacher, seed 0", "baseline, seed 2", "distilled, seed 2"):
            assert f"to do     {network}" in shown
