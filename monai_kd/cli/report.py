"""``monai-kd report``: the report of a comparison, from its stored results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["EXAMPLES", "command"]

EXAMPLES = ("monai-kd report runs", "monai-kd report runs --json > summary.json")


def command(
    runs: Annotated[Path, typer.Argument(help="Folder of a comparison, as monai-kd compare writes it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report's JSON instead of the table.")] = False,
) -> None:
    """Write report.html, report.md and report.json of a comparison anew; nothing is trained or evaluated.

    Runs that are not finished are left out, and named in the report.
    """
    from monai_kd.report.page import write_report

    page = write_report(runs)
    typer.echo(page.with_suffix(".json" if as_json else ".md").read_text(encoding="utf-8"), nl=False)
    if not as_json:
        typer.echo(f"\npage: {page}")
