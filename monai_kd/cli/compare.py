"""``monai-kd compare``: teacher, student alone and distilled students on one recipe, and the report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from monai_kd.cli.overrides import parse_overrides
from monai_kd.compare import compare as run_comparison
from monai_kd.compare import plan_comparison
from monai_kd.compare.run import Stage, stages

__all__ = ["command"]


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the comparison; made, or gone on with.")],
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", "-s", help="A seed; repeat it.  [default: 0 1 2]")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="A further student: a file of configs/ without .json; repeat it.")
    ] = None,
    config: Annotated[
        list[Path] | None, typer.Option(help="A file behind train.json, such as configs/demo.json; repeat it.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A key of the configuration; repeat it.")
    ] = None,
    score: Annotated[str | None, typer.Option(help="Score to compare in.  [default: the bundle's]")] = None,
    dry_run: Annotated[bool, typer.Option(help="List what would be run, and what is finished.")] = False,
) -> None:
    """Train and evaluate teacher, baseline and distilled students with several seeds, then write the report.

    What is finished is kept: repeat the command after an interruption and it goes on. Each run has its log and its
    arguments in its own folder.
    """
    plan = plan_comparison(
        bundle, tuple(seeds or (0, 1, 2)), method or (), config or (), parse_overrides(override or []), score
    )
    every = stages(plan, output.resolve())
    console = Console(stderr=True)
    if dry_run:
        for stage in every:
            typer.echo(f"{'finished' if stage.finished else 'to do   '}  {stage.name}")
        return
    words = ["monai-kd", *sys.argv[1:]]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        whole = bars.add_task("comparison", total=len(every), completed=sum(stage.finished for stage in every))
        current = bars.add_task("", total=1.0)

        def show(stage: Stage, what: str, share: float) -> None:
            bars.update(current, description=f"{stage.name}: {what}", completed=share)
            if what == "finished":
                bars.advance(whole)
                bars.print(f"{stage.name}: finished")

        run_comparison(plan, output, shlex.join(words), show)
    from monai_kd.report.page import write_report

    typer.echo(f"report: {write_report(output)}")
