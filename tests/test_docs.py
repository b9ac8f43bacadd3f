"""What the documentation says runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "quick_start.py"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "bundles").glob("*/docs/*.md")]
)


def blocks(page):
    """Python blocks of a page, each with its first line and the text behind it, or None: what it prints.

    The quick start's script, tested below, is left out.
    """
    text = page.read_text(encoding="utf-8")
    python, printed = r"^```python\n(.*?)^```$", r"(?:\n\n```text\n(.*?)^```$)?"
    found = re.finditer(python + printed, text, re.M | re.S)
    script = SCRIPT.read_text(encoding="utf-8")
    return [(text[: m.start()].count("\n") + 2, m[1], m[2]) for m in found if m[1] != script]


def without_numbers(text):
    """Words of a text whose numbers are drawn at random and whose lines end where the page does."""
    return re.sub(r"\d+\.\d+", "#", text).split()


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    """The blocks of one page share a namespace, in order, and print what the page shows behind them."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for line, code, shown in blocks(page):
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)  # noqa: S102
        printed = capsys.readouterr().out
        assert shown is None or without_numbers(printed) == without_numbers(shown)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_is_left_to_be_filled_in(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.fullmatch(r"[A-Z]{4,}(_[A-Z]+)*", line.strip())] == []


def test_quick_start_logs_its_terms():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, encoding="utf-8", env=environment, timeout=120, check=False
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-3000:]
    for term in ("soft_target", "teacher_dice", "hint"):
        assert re.search(rf"first batch: {term} [\d.]+, weight", log)
        values = [float(value) for value in re.findall(rf"Iter: .*\b{term}: ([\d.]+)", log)]
        assert len(values) == 20
        assert values[-1] < values[0]


def test_quick_start_is_short_and_quoted_whole():
    script = SCRIPT.read_text(encoding="utf-8")
    assert sum(1 for line in script.splitlines() if line.strip()) <= 30
    assert script in (ROOT / "docs" / "quick_start.md").read_text(encoding="utf-8")
