"""The commands together, and what becomes of their errors."""

from __future__ import annotations

import inspect
import io
import os
import sys
import traceback
from types import ModuleType

import typer
from rich.markup import escape

from monai_kd.cli import check, compare, distill, export, federate, predict, report, taps
from monai_kd.errors import TRACEBACK, root_cause, user_message
from monai_kd.version import __version__

__all__ = ["COMMANDS", "app", "run"]

_STOPPED = 130
COMMANDS = (taps, check, distill, compare, report, export, predict, federate)
_STATUS = "Exit status: 0 done, 1 failed or bad cases found, 2 wrong usage, 130 stopped."

app = typer.Typer(
    name="monai-kd",
    epilog=f"{_STATUS}\n\nmonai-kd COMMAND --help has examples of each.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(module: ModuleType) -> None:
    """A command with its docstring as help and its examples below; a paragraph is wrapped as one."""
    paragraphs = inspect.cleandoc(module.command.__doc__).split("\n\n")
    examples = "\n".join(f"$ {escape(example)}" for example in module.EXAMPLES)
    app.command(
        name=module.__name__.rpartition(".")[2],
        help="\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs),
        epilog=f"Examples:\n{examples}\n\n{_STATUS}",
    )(module.command)


for command in COMMANDS:
    _add(command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"monai-kd {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Knowledge distillation for medical imaging with MONAI."""


def run(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status. An error of this package, of a file or of a
    configuration is its message alone."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may be no text, or none of this terminal's
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = app(arguments, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):  # of older versions of typer
        status = _STOPPED
    except Exception as error:
        if hasattr(error, "format_message"):  # wrong usage, found by the option parser
            error.show() if hasattr(error, "show") else print(error.format_message(), file=sys.stderr)
            return 2
        message = user_message(error) or (str(error) if isinstance(error, OSError) else None) or _of_parser(error)
        if message is None or os.environ.get(TRACEBACK) not in (None, "", "0"):
            raise
        print(f"error: {message}\n(set {TRACEBACK}=1 for the traceback)", file=sys.stderr)
        return 1
    if status == _STOPPED:
        print("stopped; repeat the command to go on.", file=sys.stderr)
    return status if isinstance(status, int) else 0


def _of_parser(error: BaseException) -> str | None:
    """What an error that came through MONAI's configuration parser began with; ``None`` of another error."""
    frames = traceback.walk_tb(error.__traceback__)
    packages = [frame.f_globals.get("__package__") for frame, _ in frames]
    return f"the configuration cannot be used: {root_cause(error)}" if "monai.bundle" in packages else None
