"""``monai-kd distill``: from any MONAI bundle, the bundle of a compact student."""

from __future__ import annotations

import json
import shlex
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["EXAMPLES", "command"]

EXAMPLES = (
    "monai-kd distill --teacher-bundle spleen_ct_segmentation -o small",
    "monai-kd distill --teacher-bundle spleen_ct_segmentation -o tiny --width 0.1",
    "monai-kd distill --teacher-bundle BUNDLE -o other --student net.json",
)
_WIDTH = 0.25


def command(
    teacher_bundle: Annotated[Path, typer.Option(help="Folder of the trained bundle, in the model zoo's layout.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new bundle.")],
    width: Annotated[
        float | None,
        typer.Option(
            metavar="FACTOR",
            help="The student is the teacher's network with this times its channels.",
            show_default=str(_WIDTH),
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|CLASS", help="Another student: a JSON or YAML file of its definition, or its class."
        ),
    ] = None,
    terms: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Other terms: a JSON or YAML file of their definitions.")
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="softmax or sigmoid, where the bundle does not say what its output is.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a bundle that distils a trained bundle's network into a smaller one, on the recipe of that bundle.

    The teacher's bundle is not changed. The new one runs with python -m monai.bundle run, or with monai-kd compare.
    """
    if width is not None and student is not None:
        raise typer.BadParameter("--width is of the teacher's network; with --student leave it out")
    if width is not None and not 0 < width < 1:
        raise typer.BadParameter(f"--width is a factor between 0 and 1, such as {_WIDTH}; got {width:g}")
    if activation not in (None, "softmax", "sigmoid"):
        raise typer.BadParameter(f"--activation is softmax or sigmoid; got '{activation}'")
    from monai_kd.zoo import distil_bundle

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: typer.echo(f"warning: {message}", err=True)
        made = distil_bundle(teacher_bundle, output.resolve(), width or _WIDTH, student, terms, activation)
    if as_json:
        typer.echo(json.dumps({**asdict(made), "root": str(made.root)}, indent=2))
        return
    share = 100 * made.student_parameters / made.teacher_parameters
    root = shlex.quote(str(made.root))
    typer.echo(f"student: {made.student_parameters:,} parameters, {share:.1f} % of the teacher's")
    typer.echo(f"terms: {', '.join(made.terms)}")
    typer.echo(f"bundle: {made.root}")
    typer.echo(f"""
train it (where DATA is the folder of the data, if not the one that the bundle names):
  cd {root} && python -m monai.bundle run --config_file configs/train.json --dataset_dir DATA
compare it with its teacher and with the student alone:
  monai-kd compare {root} --output RUNS --set dataset_dir=DATA""")
