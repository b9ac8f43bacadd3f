"""``monai-kd compare``: teacher, student alone and distilled students on one recipe, and the report."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from monai_kd.cli.extras import need_extra
from monai_kd.cli.overrides import parse_overrides
from monai_kd.cli.seeds import parse_seeds

if TYPE_CHECKING:
    from monai_kd.compare import ComparisonPlan
    from monai_kd.compare.run import Stage

__all__ = ["EXAMPLES", "command"]

EXAMPLES = (
    "monai-kd compare BUNDLE -o runs --set dataset_dir=DATA",
    "monai-kd compare BUNDLE -o runs --config BUNDLE/configs/demo.json -s 0,1",
    "monai-kd compare BUNDLE -o runs --set epochs=50 --set teacher:epochs=100",
    "monai-kd compare BUNDLE -o runs --dry-run",
)


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the comparison; made, or gone on with.")],
    seeds: Annotated[
        str, typer.Option("--seeds", "-s", metavar="0,1,...", help="Seeds, with commas or in quotes with blanks.")
    ] = "0,1,2",
    method: Annotated[
        list[str] | None, typer.Option(help="A further student: a file of configs/ without .json; repeat it for more.")
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(help="A file behind train.json, such as configs/demo.json; repeat it for more."),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A key of the configuration, or NETWORK:KEY=VALUE for one network alone; repeat it for more.",
        ),
    ] = None,
    score: Annotated[
        str | None, typer.Option(help="Score to compare in, higher is better.", show_default="the bundle's")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be run, and what is finished.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report's path and verdicts, or the list of --dry-run, as JSON.")
    ] = False,
) -> None:
    """Train and evaluate teacher, baseline and distilled students with several seeds, then write the report.

    What is finished is kept: repeat the command after an interruption and it goes on. Each run has its log and its
    arguments in its own folder. Progress goes to the standard error.
    """
    wanted, overrides = parse_seeds(seeds), parse_overrides(override or [])
    from monai_kd.compare import plan_comparison
    from monai_kd.compare.run import check_folder, stages

    plan = plan_comparison(bundle, wanted, method or (), config or (), overrides, score)
    check_folder(output.resolve())
    every = stages(plan, output.resolve())
    if dry_run:
        typer.echo(json.dumps([_plain(stage) for stage in every], indent=2) if as_json else _listed(every))
        return
    need_extra("report", "jinja2", "matplotlib")
    _run(plan, output, every)
    from monai_kd.report.page import write_report

    page = write_report(output)
    verdicts = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))["verdicts"]
    if as_json:
        typer.echo(json.dumps({"report": str(page), "verdicts": verdicts}, indent=2))
        return
    for one in verdicts:
        typer.echo(f"{one['network']}: {one['sentence']}")
    typer.echo(f"report: {page}")


def _run(plan: ComparisonPlan, output: Path, every: Sequence[Stage]) -> None:
    """Run what is not finished, with a bar for all of it and one for the current training."""
    from monai_kd.compare import compare

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        whole = bars.add_task("comparison", total=len(every), completed=sum(stage.finished for stage in every))
        current = bars.add_task("", total=1.0, visible=False)

        def show(stage: Stage, what: str, share: float) -> None:
            bars.update(current, description=f"{stage.name}: {what}", completed=share, visible=True)
            if what == "finished":
                bars.advance(whole)
                bars.print(f"{stage.name}: finished")

        # Paths may be relative to this folder.
        compare(plan, output, f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(['monai-kd', *sys.argv[1:]])}", show)


def _plain(stage: Stage) -> dict[str, Any]:
    return {
        "network": stage.network.name,
        "seed": stage.seed,
        "finished": stage.finished,
        "folder": str(stage.folder),
    }


def _listed(every: Sequence[Stage]) -> str:
    return "\n".join(f"{'finished' if stage.finished else 'to do   '}  {stage.name}" for stage in every)
