"""``monai-kd distill``: from any MONAI bundle, the bundle of a compact student."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from monai_kd.zoo import distil_bundle

__all__ = ["command"]


def command(
    teacher_bundle: Annotated[Path, typer.Option(help="Folder of the trained bundle, in the model zoo's layout.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new bundle.")],
    width: Annotated[float, typer.Option(help="Factor of the teacher's channels.", min=0, max=1)] = 0.25,
    student: Annotated[
        str | None, typer.Option(help="Another student: a class, or a JSON or YAML file of its definition.")
    ] = None,
    terms: Annotated[Path | None, typer.Option(help="Other terms: a JSON or YAML file of their definitions.")] = None,
    activation: Annotated[
        str | None, typer.Option(help="softmax or sigmoid, where the bundle does not say what its output is.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a bundle that distils a trained bundle's network into a smaller one, on the recipe of that bundle.

    The teacher's bundle is not changed. The new one runs with python -m monai.bundle run, or with monai-kd compare.
    """
    made = distil_bundle(teacher_bundle, output, width, student, terms, activation)
    if as_json:
        typer.echo(json.dumps(_plain(asdict(made)), indent=2))
        return
    share = 100 * made.student_parameters / made.teacher_parameters
    typer.echo(f"student: {made.student_parameters:,} parameters, {share:.1f} % of the teacher's")
    typer.echo(f"terms: {', '.join(made.terms)}")
    typer.echo(f"bundle: {made.root}")
    typer.echo(f"train it: cd {made.root} && python -m monai.bundle run --config_file configs/train.json")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"root": str(values["root"])}
