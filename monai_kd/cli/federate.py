"""``monai-kd federate``: one student from several sites, by NVFlare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from monai_kd.cli.extras import need_extra
from monai_kd.cli.overrides import parse_overrides

__all__ = ["EXAMPLES", "command"]

EXAMPLES = (
    "monai-kd federate BUNDLE --sites a=A,b=B --teacher teacher.pt -o runs",
    "monai-kd federate BUNDLE --sites a=A,b=B -o runs --set a:seed=1",
    "monai-kd federate BUNDLE --sites a=/data,b=/mnt/ct --export job",
)


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    sites: Annotated[
        str, typer.Option(metavar="NAME=DATA,...", help="The sites, each with the folder of its data (dataset_dir).")
    ],
    rounds: Annotated[int, typer.Option(help="Times that all sites train and are averaged.", min=1)] = 10,
    local_epochs: Annotated[int, typer.Option(help="Epochs of a round at each site.", min=1)] = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Simulate: the folder of the results; made, or gone on with.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the job for an NVFlare server, and run nothing.")
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A checkpoint that all sites are given as teacher_checkpoint.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A checkpoint of the student; as site one draws it if not given."),
    ] = None,
    config: Annotated[
        list[Path] | None, typer.Option(help="A file behind train.json, such as configs/demo.json; repeat it for more.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A key of the configuration, or SITE:KEY=VALUE for one site alone; repeat it for more.",
        ),
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(help="Simulated sites that train at the same time.", show_default="all", min=1)
    ] = None,
    longest_round: Annotated[
        int, typer.Option(metavar="SECONDS", help="End by the name of a site that takes longer; 0 is never.", min=0)
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table of scores as JSON.")] = False,
) -> None:
    """Distil a student at several sites in rounds: data, teachers and adapters stay, students are averaged.

    With --output it is simulated on this machine; repeat the command after an interruption and it goes on. With
    --export it is written for an NVFlare server, and DATA are the paths at the sites.
    """
    if (output is None) == (export is None):
        raise typer.BadParameter("give --output to simulate, or --export to write a job")
    if export is not None and (at_once is not None or as_json):
        raise typer.BadParameter("--at-once and --json are of a simulation; leave them out with --export")
    folders = _sites(sites)
    if export is None:
        need_extra("federated", "nvflare")
        folders = {name: str(Path(data).resolve()) for name, data in folders.items()}
    from monai_kd.federated import plan_federation, simulate, write_job

    plan = plan_federation(
        bundle,
        folders,
        rounds,
        local_epochs,
        config or (),
        parse_overrides(override or []),
        teacher,
        start,
        longest_round,
    )
    if export is not None:
        typer.echo(f"job: {write_job(plan, export)}")
    if output is None:
        return
    done = simulate(plan, output, at_once, lambda number: typer.echo(f"round {number} of {rounds}", err=True))
    from monai_kd.federated.job import MODEL, SCORES
    from monai_kd.federated.scores import read_scores, show_scores

    if as_json:
        typer.echo(json.dumps(read_scores(done / SCORES), indent=2))
        return
    typer.echo(show_scores(done / SCORES))
    typer.echo(f"student: {done / MODEL}")


def _sites(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in text.split(","):
        name, equals, data = word.partition("=")
        if not equals or not name or not data or name in found:
            raise typer.BadParameter(f"--sites takes NAME=FOLDER, with commas and each name once; got '{word}'")
        found[name] = data
    return found
