"""``monai-kd export``: a trained bundle's student for other runtimes, verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from monai_kd.cli.overrides import parse_overrides

__all__ = ["EXAMPLES", "command"]

EXAMPLES = (
    "monai-kd export BUNDLE -o exported",
    "monai-kd export BUNDLE -o exported --to torchscript",
    "monai-kd export BUNDLE -o exported --precision int8 --set dataset_dir=DATA",
)


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the trained bundle.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; an earlier export is replaced.")],
    to: Annotated[str, typer.Option(help="torchscript, onnx or openvino.")] = "openvino",
    precision: Annotated[str, typer.Option(help="f32; of openvino also bf16 and int8.")] = "f32",
    checkpoint: Annotated[
        str | None,
        typer.Option(help="The weights: a file in the bundle's ckpt_dir, or a path; the bundle's own by default."),
    ] = None,
    config: Annotated[
        list[Path] | None, typer.Option(help="A file behind inference.json, such as configs/demo.json; repeat it.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A key of the configuration; repeat it.")
    ] = None,
    spatial_shape: Annotated[
        str | None, typer.Option(metavar="SIZES", help="Of the input, such as 96,96,96, if the bundle leaves it open.")
    ] = None,
    calibration_inputs: Annotated[
        int | None, typer.Option(help="Of int8: windows of training cases; else 16 of volumes, 128 of pictures.", min=1)
    ] = None,
    validation_cases: Annotated[
        int | None, typer.Option(help="Of int8: cases that it is scored on; else 16 volumes, 256 pictures.", min=1)
    ] = None,
    max_drop: Annotated[float, typer.Option(help="Of int8: the most that its score may be lower.", min=0)] = 0.005,
    as_json: Annotated[bool, typer.Option("--json", help="Print export.json.")] = False,
) -> None:
    """Export the student alone, compare its outputs with the bundle's network, and write it with all that runs it."""
    from monai_kd.export import export_bundle

    done = export_bundle(
        bundle,
        output,
        to,
        precision,
        checkpoint,
        parse_overrides(override or []),
        config or (),
        _sizes(spatial_shape),
        calibration_inputs,
        validation_cases,
        max_drop,
    )
    if as_json:
        typer.echo(json.dumps(done.description, indent=2))
        return
    typer.echo(str(done.verification))
    typer.echo(f"verified on {len(done.verification.rows)} inputs: {done.verification.kind}")
    if done.verification.reason is not None:
        typer.echo(f"  no validation cases were used: {done.verification.reason}")
    for pair, reason in done.description["not_verified"].items():
        typer.echo(f"not verified, so not served: {pair}: {reason}")
    if done.accuracy is not None:
        typer.echo(str(done.accuracy))
        if done.accuracy.reason is not None:
            typer.echo(f"  the bundle's own score was not used: {done.accuracy.reason}")
    if done.description["input"]["batch"] is not None:
        typer.echo(f"the batch is fixed to 1: {done.description['input']['batch_reason']}")
    if done.description["pipeline"] is None:
        typer.echo(f"monai-kd predict cannot run it: {done.description['pipeline_refused']}")
    typer.echo(f"exported: {done.folder}")


def _sizes(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        sizes = [int(word) for word in text.replace("x", ",").split(",")]
    except ValueError:
        sizes = []
    if len(sizes) < 2 or min(sizes) < 1:
        raise typer.BadParameter(f"expected the sizes of the axes, such as 96,96,96; got '{text}'")
    return sizes
