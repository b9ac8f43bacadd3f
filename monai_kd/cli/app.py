"""The commands together, and what becomes of their errors."""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console

from monai_kd.cli import check, compare, distill, report, taps
from monai_kd.errors import TRACEBACK, user_message
from monai_kd.version import __version__

__all__ = ["app", "run"]

app = typer.Typer(
    name="monai-kd",
    help="Knowledge distillation for medical imaging with MONAI.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (taps, check, distill, compare, report):
    app.command(name=module.__name__.rpartition(".")[2])(module.command)


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
    """Run a command; returns the exit status. An error of this package is its message alone."""
    try:
        status = app(arguments, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        Console(stderr=True).print("stopped; repeat the command to go on.")
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):  # wrong usage, found by the option parser
            error.show() if hasattr(error, "show") else print(error.format_message(), file=sys.stderr)
            return 2
        message = user_message(error)
        if message is None or os.environ.get(TRACEBACK) not in (None, "", "0"):
            raise
        print(f"error: {message}\n(set {TRACEBACK}=1 for the traceback)", file=sys.stderr)
        return 1
    return status if isinstance(status, int) else 0
