import json
import sys

import pytest

from monai_kd.cli.app import run


@pytest.fixture
def runs(tmp_path, write_runs):
    return write_runs(tmp_path / "runs")


def test_it_prints_the_table_and_where_the_page_is(runs, capsys):
    assert run(["report", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert shown == (runs / "report.md").read_text(encoding="utf-8") + f"\npage: {runs / 'report.html'}\n"
    assert "| distilled | 2 | 0.700" in shown


def test_it_prints_json(runs, capsys):
    assert run(["report", str(runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((runs / "report.json").read_text(encoding="utf-8"))
    assert found["networks"]["distilled"]["scores"]["meanDice"]["seeds"] == 2


def test_what_is_not_there_is_said(tmp_path, capsys):
    assert run(["report", str(tmp_path)]) == 1
    assert f"no '{tmp_path / 'study.json'}'; give the folder" in capsys.readouterr().err


def test_without_the_extra_its_name_is_said(runs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert run(["report", str(runs)]) == 1
    assert 'pip install "monai-kd[report]"' in capsys.readouterr().err
    assert not (runs / "report.json").exists()
