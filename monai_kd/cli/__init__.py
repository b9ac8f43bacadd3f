"""``monai-kd``: the command line, one file a command. Needs the extra ``cli``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the program: 0 done, 1 failed or something bad was found, 2 wrong usage."""
    try:
        from monai_kd.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f'error: the command line needs typer and rich: pip install "monai-kd[cli]" ({error})')
    sys.exit(run(arguments))
