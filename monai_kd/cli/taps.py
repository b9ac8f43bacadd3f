"""``monai-kd taps``: the layers of a network that can be tapped."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from monai.bundle.config_parser import ConfigParser
from torch import nn

from monai_kd.cli.overrides import parse_overrides
from monai_kd.taps import tap_table

__all__ = ["command"]


def command(
    bundle: Annotated[Path | None, typer.Argument(help="Folder of a bundle, whose student is shown.")] = None,
    network: Annotated[
        str | None, typer.Option(help="A network instead: its class, such as UNet or monai.networks.nets.UNet.")
    ] = None,
    argument: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An argument of --network; repeat it for more.")
    ] = None,
    key: Annotated[str, typer.Option(help="Of the bundle: the network's key, such as teacher_def.")] = "network_def",
    input_shape: Annotated[
        str | None,
        typer.Option(metavar="B,C,SIZES", help="Shape of the input, such as 1,1,96,96,96; a bundle says its own."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the layers of a network that a term can tap, with output shape, stride and parameters."""
    if (bundle is None) == (network is None):
        raise typer.BadParameter("give a bundle's folder or --network, one of them")
    if network is not None:
        if input_shape is None:
            raise typer.BadParameter("--network needs --input-shape, such as 1,1,96,96,96")
        model = _build({"_target_": network, **parse_overrides(argument or [])})
        shape = _shape(input_shape)
    else:
        assert bundle is not None  # noqa: S101  # one of both
        model, default = _of_bundle(bundle, key)
        shape = _shape(input_shape) if input_shape else default
    table = tap_table(model, shape)
    typer.echo(json.dumps([asdict(row) for row in table], indent=2) if as_json else str(table))


def _of_bundle(bundle: Path, key: str) -> tuple[nn.Module, list[int]]:
    configs = bundle / "configs"
    path = next((p for name in ("train", "inference") for p in sorted(configs.glob(f"{name}.*"))), None)
    if path is None:
        raise FileNotFoundError(f"'{bundle}' has no configs/train.json or configs/inference.json.")
    parser = ConfigParser()
    parser.read_config(str(path))
    if parser.get(key) is None:
        networks = [name for name in parser.get() if name.endswith(("_def", "network", "net"))]
        raise ValueError(f"'{path}' has no '{key}'; networks may be at {networks}: give one with --key.")
    parser["bundle_root"] = str(bundle)
    metadata = ConfigParser.load_config_file(configs / "metadata.json") if (configs / "metadata.json").is_file() else {}
    return parser.get_parsed_content(key), _default_shape(metadata)


def _default_shape(metadata: dict[str, Any]) -> list[int]:
    """One input of the size that the metadata names; where it leaves an axis open, --input-shape is asked for."""
    image: dict[str, Any] = next(iter(metadata.get("network_data_format", {}).get("inputs", {}).values()), {})
    sizes = image.get("spatial_shape", [])
    if not sizes or not all(isinstance(size, int) for size in sizes):
        raise ValueError(f"the bundle's metadata leaves the size of the input open ({sizes}); give --input-shape.")
    return [1, int(image.get("num_channels", 1)), *sizes]


def _build(config: dict[str, Any]) -> nn.Module:
    model = ConfigParser({"network": config}).get_parsed_content("network")
    if not isinstance(model, nn.Module):
        raise ValueError(f"'{config['_target_']}' is a {type(model).__name__}, not a network.")
    return model


def _shape(text: str) -> list[int]:
    try:
        sizes = [int(word) for word in text.replace("x", ",").split(",")]
    except ValueError:
        sizes = []
    if len(sizes) < 3 or min(sizes) < 1:
        raise typer.BadParameter(f"expected B,C and the sizes, such as 1,1,96,96,96; got '{text}'")
    return sizes
