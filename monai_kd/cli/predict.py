"""``monai-kd predict``: masks or classes by an exported student, without torch and MONAI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["EXAMPLES", "command"]

EXAMPLES = (
    "monai-kd predict exported ct.nii.gz -o masks",
    "monai-kd predict exported FOLDER -o masks --threads 2",
)


def command(
    exported: Annotated[Path, typer.Argument(help="Folder written by monai-kd export.")],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A volume (.nii, .nii.gz) or picture, or a folder of them.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the masks, or of classes.csv.")],
    runtime: Annotated[str, typer.Option(help="openvino or onnxruntime.")] = "openvino",
    precision: Annotated[str | None, typer.Option(help="f32, bf16 or int8; as exported if not given.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all that may be used if not given.")] = None,
    exact_borders: Annotated[
        bool | None,
        typer.Option(
            "--exact-borders/--nearest-borders",
            help="Of volumes: labels decided on their own grid, or brought back to it; as exported if not given.",
        ),
    ] = None,
    coarse_spacing: Annotated[
        float | None, typer.Option(metavar="MM", help="Of volumes: look at a grid this coarse first, such as 6.")
    ] = None,
    margin: Annotated[float, typer.Option(metavar="MM", help="Around what the coarse look has found.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict a file, or all files of a folder and its subfolders.

    Cases that cannot be done are listed at the end, and the exit status is 1; all others are done.
    """
    from monai_kd.runtime import load_exported
    from monai_kd.runtime import predict as run_prediction

    model = load_exported(exported, runtime, precision, threads)
    done = run_prediction(model, source, output, exact_borders, coarse_spacing, margin, progress=True)
    if as_json:
        written = {str(case): str(target) for case, target in done.written.items()}
        failed = {str(case): reason for case, reason in done.failed.items()}
        typer.echo(json.dumps({"written": written, "failed": failed}, indent=2))
    else:
        typer.echo(f"{len(done.written)} done, in '{output}'; {len(done.failed)} failed")
        for case, reason in done.failed.items():
            typer.echo(f"  {case}: {reason}", err=True)
    if done.failed:
        raise typer.Exit(1)
