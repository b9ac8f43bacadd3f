"""``monai-kd taps``: the layers of a network that can be tapped."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monai_kd.cli.overrides import parse_overrides

if TYPE_CHECKING:
    from monai.bundle.config_parser import ConfigParser
    from torch import nn

    from monai_kd.taps import TapTable

__all__ = ["EXAMPLES", "command"]

EXAMPLES = (
    "monai-kd taps bundles/hdkd_skin_lesion_classification --key teacher_def",
    "monai-kd taps bundles/kdas_polyp_segmentation --input-shape 1,3,352,352",
    "monai-kd taps --network resnet18 --input-shape 1,3,64,64,64 --json",
)
_KEY = "network_def"
_MOST = 1 << 32  # numbers of an input


def command(
    bundle: Annotated[Path | None, typer.Argument(help="Folder of a bundle, whose student is shown.")] = None,
    network: Annotated[
        str | None, typer.Option(help="A network instead: its class, such as UNet or monai.networks.nets.UNet.")
    ] = None,
    argument: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An argument of --network; repeat it for more.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Of the bundle: the network's key, such as teacher_def.", show_default=_KEY)
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            metavar="B,C,SIZES",
            help="Shape of the input, such as 1,1,96,96,96; a bundle's metadata may say it.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the layers of a network that a term can tap, with output shape, stride and parameters.

    The network is built with random weights and runs once on zeros.
    """
    if (bundle is None) == (network is None):
        raise typer.BadParameter("give a bundle's folder or --network, one of them")
    shape = None if input_shape is None else _shape(input_shape)
    if network is not None and shape is None:
        raise typer.BadParameter("--network needs --input-shape, such as 1,1,96,96,96")
    if argument and network is None:
        raise typer.BadParameter("--argument belongs to --network; a bundle's network has arguments of its own")
    if key and bundle is None:
        raise typer.BadParameter("--key belongs to a bundle; --network is the network itself")
    if bundle is not None:
        table = _of_bundle(bundle, key or _KEY, shape)
    else:
        from monai.bundle.config_parser import ConfigParser

        parser = ConfigParser({"network": {"_target_": network, **parse_overrides(argument or [])}})
        table = _table(_build(parser, "network", str(network)), shape or [], str(network))
    typer.echo(json.dumps([asdict(row) for row in table], indent=2) if as_json else str(table))


def _of_bundle(bundle: Path, key: str, shape: list[int] | None) -> TapTable:
    from monai.bundle.config_parser import ConfigParser

    from monai_kd._bundle_configs import find_config, load_config, read_config
    from monai_kd._bundle_scripts import importable

    if not bundle.is_dir():
        raise FileNotFoundError(f"no bundle at '{bundle}': expected a folder with configs/.")
    name = next((name for name in ("train", "inference") if find_config(bundle, name)), None)
    if name is None:
        raise FileNotFoundError(f"'{bundle}' has no configs/train.json or configs/inference.json (nor YAML).")
    path, config = read_config(bundle, name)
    parser = ConfigParser(config)
    if parser.get(key) is None:
        networks = [name for name in parser.get() if name.endswith(("_def", "network", "net"))]
        raise ValueError(f"'{path}' has no '{key}'; networks may be at {networks}: give one with --key.")
    parser["bundle_root"] = str(bundle)
    metadata = find_config(bundle, "metadata")
    shape = shape or _default_shape(load_config(metadata) if metadata else {}, str(metadata or bundle))
    name = f"'{key}' of '{path}'"
    with importable(bundle.resolve()):
        return _table(_build(parser, key, name), shape, name)


def _default_shape(metadata: Any, name: str) -> list[int]:
    """One input of the size that the metadata names; where it leaves an axis open, --input-shape is asked for."""
    try:
        image: dict[str, Any] = next(iter(metadata.get("network_data_format", {}).get("inputs", {}).values()), {})
        shape = [image.get("num_channels", 1), *image.get("spatial_shape", [])]
    except (AttributeError, TypeError):
        shape = []
    if len(shape) < 2 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"'{name}' leaves the size of the input open ({shape}); give --input-shape.")
    return [1, *shape]


def _build(parser: ConfigParser, key: str, name: str) -> nn.Module:
    from torch import nn

    from monai_kd.errors import root_cause

    try:
        model = parser.get_parsed_content(key)
    except Exception as error:  # of MONAI's parser, around whatever went wrong
        raise ValueError(f"{name} cannot be made: {root_cause(error)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} is a {type(model).__name__}, not a network.")
    return model


def _table(model: nn.Module, shape: list[int], name: str) -> TapTable:
    from monai_kd.taps import tap_table

    if math.prod(shape) > _MOST:
        raise ValueError(
            f"{name} would run on {math.prod(shape):.3g} numbers, of shape {tuple(shape)}; give a smaller one."
        )
    try:
        return tap_table(model, shape)
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        raise ValueError(
            f"{name} does not take an input of shape {tuple(shape)}: {error}\n"
            "Give the shape that it takes with --input-shape."
        ) from error


def _shape(text: str) -> list[int]:
    try:
        sizes = [int(word) for word in text.replace("x", ",").split(",")]
    except ValueError:
        sizes = []
    if len(sizes) < 3 or min(sizes) < 1:
        raise typer.BadParameter(f"expected B,C and the sizes, such as 1,1,96,96,96; got '{text}'")
    return sizes
