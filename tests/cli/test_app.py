"""Help, version, exit status, and what is said when something is wrong."""

import configparser
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from monai.bundle import ConfigParser

from monai_kd.cli.app import COMMANDS, app, run
from monai_kd.version import __version__

NAMES = [module.__name__.rpartition(".")[2] for module in COMMANDS]


def test_the_commands():
    assert NAMES == ["taps", "check", "distill", "compare", "report", "export", "predict", "federate"]


@pytest.mark.parametrize("command", [[], *([name] for name in NAMES)])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_helps(command, option, capsys):
    assert run([*command, option]) == 0
    shown = capsys.readouterr().out
    assert "Usage" in shown
    assert "Exit status: 0 done, 1 failed or bad cases found, 2 wrong usage" in shown


def test_no_command_is_wrong_usage_and_shows_the_help(capsys):
    assert run([]) == 2
    shown = capsys.readouterr()
    assert "Usage" in shown.out + shown.err


def test_every_option_is_explained(capsys):
    for name in NAMES:
        run([name, "--help"])
        lines = capsys.readouterr().out.splitlines()
        options = [line for line in lines if line.strip("│ *").startswith("--")]
        assert options
        for line in options:
            assert len(line.strip("│ *").split()) > 2, line


@pytest.mark.parametrize("module", COMMANDS, ids=NAMES)
def test_examples_of_the_help_are_right_usage(module, capsys):
    command = module.__name__.rpartition(".")[2]
    run([command, "--help"])
    shown = capsys.readouterr().out
    assert module.EXAMPLES
    for example in module.EXAMPLES:
        assert f"$ {example}" in shown
        program, name, *arguments = shlex.split(example.partition(" > ")[0])
        assert (program, name) == ("monai-kd", command)
        typer.main.get_command(app).commands[name].make_context(name, arguments)


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"monai-kd {__version__}"


def test_it_is_a_module_and_a_script():
    done = subprocess.run(
        [sys.executable, "-m", "monai_kd", "--version"], capture_output=True, encoding="utf-8", check=True, timeout=120
    )
    assert done.stdout.strip() == f"monai-kd {__version__}"
    script = Path(sys.executable).parent / "monai-kd"
    assert script.is_file()


def test_the_extra_brings_what_reads_yaml():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    assert "pyyaml" in setup["options.extras_require"]["cli"]


def test_help_waits_for_neither_torch_nor_monai():
    """What a command needs is imported when it is run."""
    code = """
import sys
from monai_kd.cli.app import run
assert run(["compare", "--help"]) == 0
print("imported:", [name for name in ("torch", "monai", "numpy", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["imported: []"], done.stderr


def test_without_the_extra_its_name_is_said():
    code = "import sys; sys.modules['typer'] = None; from monai_kd.cli import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, timeout=120)
    assert done.returncode == 1
    assert 'pip install "monai-kd[cli]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_the_status_of_a_process_is_that_of_the_command(tmp_path):
    for arguments, status in ((["report", str(tmp_path)], 1), (["report"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "monai_kd", *arguments], capture_output=True, check=False, timeout=120
        )
        assert done.returncode == status


def test_an_unknown_command_is_wrong_usage(capsys):
    assert run(["nothing"]) == 2
    assert "No such command" in capsys.readouterr().err


def test_an_error_of_a_file_is_its_message(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(["report", str(tmp_path / "file")]) == 1
    shown = capsys.readouterr().err
    assert "study.json" in shown
    assert "Traceback" not in shown


def test_an_error_that_nobody_expected_keeps_its_traceback(monkeypatch):
    def broken(*_):
        return {}["typo"]

    monkeypatch.setattr("monai_kd.report.page.write_report", broken)
    with pytest.raises(KeyError):
        run(["report", "runs"])


def test_an_error_of_a_configuration_is_its_cause_alone(monkeypatch, capsys):
    def broken(*_):
        ConfigParser({"a": {"_target_": "builtins.int", "x": "$[][3]"}}).get_parsed_content("a")

    monkeypatch.setattr("monai_kd.report.page.write_report", broken)
    assert run(["report", "runs"]) == 1
    shown = capsys.readouterr().err
    assert "the configuration cannot be used: IndexError: list index out of range" in shown
    assert "Traceback" not in shown


def test_the_traceback_is_to_be_had(monkeypatch):
    monkeypatch.setenv("MONAI_KD_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        run(["report", "nowhere"])


def test_an_interruption_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("monai_kd.report.page.write_report", interrupted)
    assert run(["report", "runs"]) == 130
    assert "repeat the command to go on" in capsys.readouterr().err


def test_output_that_nobody_reads_is_no_error(bundles):
    """As in `monai-kd taps ... | head -1`."""
    bundle = str(bundles / "hdkd_skin_lesion_classification")
    process = subprocess.Popen(
        [sys.executable, "-m", "monai_kd", "taps", bundle],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    process.stdout.close()
    shown = process.stderr.read().decode()
    process.stderr.close()
    process.wait(timeout=120)
    assert "Traceback" not in shown
