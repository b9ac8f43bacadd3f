"""The benchmarks run, say what they found as JSON, and the page says what the JSON says; no time is asserted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are not part of the package

from benchmarks.__main__ import NAMES, main, summary  # noqa: E402
from benchmarks.comparing import Bar, Case, Form, Ratio, figure, measure, memory_ratio, ratio, slope, typical  # noqa: E402
from benchmarks.processes import PEAKS, largest_megabytes, run_watched  # noqa: E402
from benchmarks.table import BARS, table, write_table  # noqa: E402


def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=False)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder that a quick run of one benchmark has written."""
    folder = tmp_path_factory.mktemp("results")
    done = run("--quick", "--only", "structure_loss", "--output", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def record_of(**changes):
    bar = Bar("P6", "a loss", Ratio(2.0, 1.9, 2.1), 40.0, note="Something else takes the time.").as_json()
    row = {"case": "one", "form": "ours", "rounds": 3, "seconds": 0.25, "low": 0.2, "high": 0.3, "megabytes": 12.0}
    rows = [row | {"value": {"load": 1.0, "save": 0.5}}]
    machine = {"cpu": "a processor", "threads": 1, "torch": "2.0", "nncf": None}
    made = {"benchmark": "one", "what": "One.", "about": "One.", "quick": False, "machine": machine}
    return {**made, "rows": rows, "bars": [bar], **changes}


# --- the command ------------------------------------------------------------------------------------------------------


def test_every_module_is_listed_or_shared(capsys):
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    shared = {
        "__init__",
        "__main__",
        "allocator",
        "comparing",
        "ct_volumes",
        "exported_scores",
        "label_infer",
        "memory",
        "processes",
        "steps",
        "students",
        "table",
        "torchdistill_losses",
    }
    modules = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert set(NAMES) == modules - shared
    for name in NAMES:
        assert f"{name} " in listed
        assert summary(import_module(f"benchmarks.{name}")) in listed


def test_a_quick_run_writes_json(quick):
    record = json.loads((quick / "structure_loss.json").read_text(encoding="utf-8"))
    assert record["quick"] is True
    assert {row["form"] for row in record["rows"]} == {"direct", "ours"}
    assert all(row["seconds"] > 0 and math.isfinite(row["value"]) for row in record["rows"])
    assert all(row["megabytes"] is None or row["megabytes"] >= 0 for row in record["rows"])
    assert {bar["bar"] for bar in record["bars"]} == {"P6"}
    same = next(bar for bar in record["bars"] if "difference" in bar["what"])
    assert same["met"] is True  # equal losses are no matter of time


def test_the_page_is_made_of_the_json_alone(quick, tmp_path):
    page = (quick / "RESULTS.md").read_text(encoding="utf-8")
    assert page == table([json.loads((quick / "structure_loss.json").read_text(encoding="utf-8"))])
    write_table(quick, tmp_path / "again.md")
    assert (tmp_path / "again.md").read_text(encoding="utf-8") == page
    assert "of a quick run" in page


def test_one_that_fails_does_not_stop_the_others(monkeypatch, tmp_path, capsys):
    import benchmarks.__main__ as module

    def broken(name, quick, memory):
        if name == "kdas_step":
            raise RuntimeError("no such network")
        return record_of(benchmark=name)

    monkeypatch.setattr(module, "run", broken)
    assert main(["--only", "kdas_step", "scaling", "--output", str(tmp_path)]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["RESULTS.md", "scaling.json"]
    shown = capsys.readouterr()
    assert "no such network" in shown.out
    assert "failed: kdas_step" in shown.err


# --- the page ---------------------------------------------------------------------------------------------------------


def test_a_bar_that_is_not_reached_says_so_and_why():
    page = table([record_of()])
    assert "| | a loss (`one`) | 2.00 (1.90 to 2.10) | at least 40 | **no** |" in page
    assert "* **P6, a loss.** Something else takes the time." in page
    assert "| one | ours | 0.250 | 0.200 to 0.300 | 12.0 |  |" in page
    assert "quick" not in page


def test_values_of_several_parts_have_a_table_of_their_own():
    other = {"value": {"kept": 3}, "form": "counted"}
    rows = [*record_of()["rows"], record_of()["rows"][0] | {"form": "theirs"}, record_of()["rows"][0] | other]
    page = table([record_of(rows=rows)])
    stages = "| case | form | load | save |\n| --- | --- | ---: | ---: |\n| one | ours | 1.00 | 0.500 |\n"
    assert f"{stages}| one | theirs | 1.00 | 0.500 |" in page
    assert "| case | form | kept |\n| --- | --- | ---: |\n| one | counted | 3 |" in page


def test_every_bar_is_on_the_page():
    page = table([record_of()])
    assert list(BARS) == [f"P{number}" for number in range(1, 16)]
    assert all(f"| **{bar}** |" in page for bar in BARS)
    assert page.count("Its benchmark was not run.") == len(BARS) - 1


@pytest.mark.parametrize(
    ("bar", "met"),
    [
        (Bar("P1", "x", 1.02, 1.03, most=True), True),
        (Bar("P1", "x", Ratio(1.04, 1.0, 1.1), 1.03, most=True), False),
        (Bar("P2", "x", Ratio(2.5, 2.4, 2.6), 2.3), True),
        (Bar("P2", "x", 2.0, 2.3), False),
        (Bar("P2", "x", "not measured", 2.3), None),
    ],
)
def test_bars(bar, met):
    assert bar.met is met
    assert bar.as_json()["met"] is met


# --- the figures ------------------------------------------------------------------------------------------------------


def test_of_several_rounds_each_part_has_its_median():
    rounds = [{"load": seconds, "save": 9 - seconds} for seconds in (3.0, 1.0, 2.0)]
    assert typical(rounds) == {"load": 2.0, "save": 7.0}
    assert typical([3.0, 1.0, 2.0]) == 3.0
    assert typical([]) is None


def test_forms_take_turns():
    ran = []
    forms = {name: lambda name=name: lambda: ran.append(name) or len(ran) for name in "abc"}
    found = measure(Case("case", forms, rounds=2, once=("c",)))
    assert ran == ["a", "b", "a", "b", "c", "a", "b"]
    assert [len(found[name].seconds) for name in "abc"] == [2, 2, 1]
    assert found["a"].values == [3, 6]  # what the first round gave does not count


def test_ratios_are_taken_round_by_round():
    forms = {"a": Form([2.0, 40.0, 6.0]), "b": Form([1.0, 10.0, 1.0]), "c": Form([3.0])}
    assert ratio(forms, "a", "b") == Ratio(4.0, 3.0, 5.0)
    assert ratio(forms, "c", "b") == Ratio(3.0, 3.0, 3.0)  # run once


def test_slope_is_the_exponent():
    sizes = {"1": 1.0, "4": 4.0, "16": 16.0}
    forms = {name: Form([0.5 * size**1.5]) for name, size in sizes.items()}
    assert slope(forms, sizes) == pytest.approx(1.5)


def test_a_process_is_watched_alone():
    """Not as large as this one, which has torch."""
    PEAKS.clear()
    run_watched([sys.executable, "-c", "import time; x = bytearray(30_000_000); time.sleep(0.5)"])
    if largest_megabytes() == 0:
        pytest.skip("this system does not tell the size of a process")
    assert 30 < PEAKS.pop() < 80
    with pytest.raises(RuntimeError, match="ended with 3"):
        run_watched([sys.executable, "-c", "raise SystemExit(3)"])


def test_memory():
    forms = {"a": Form(megabytes=30.0), "b": Form(megabytes=10.0), "c": Form()}
    assert memory_ratio(forms, "a", "b") == 3
    assert memory_ratio(forms, "a", "c") == "memory not measured"


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (1234.4, "1234"), (12.34, "12.3"), (0.01234, "0.0123"), (1.2e-7, "1.2e-07")]
)
def test_figures(value, shown):
    assert figure(value) == shown
