"""``monai-kd check``: every bad case of a data list, or of a bundle's data, at once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monai_kd.cli.overrides import parse_overrides

if TYPE_CHECKING:
    from monai_kd.data.checks import CheckReport

__all__ = ["EXAMPLES", "command"]

EXAMPLES = (
    "monai-kd check bundles/hlfd_kidney_tumor_segmentation --set dataset_dir=DATA",
    "monai-kd check dataset.json --label-value 0 --label-value 1",
    "monai-kd check pictures.json --classes 7 --json",
)
_CHECK = re.compile(r"^\$?(check_\w+\(.*\))\.raise_if_bad\(\)")
_VOLUMES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")


def command(
    source: Annotated[Path, typer.Argument(help="A data list (JSON) or a bundle's folder.")],
    config: Annotated[
        list[Path] | None, typer.Option(help="Of a bundle: a file behind train.json; repeat it for more.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of a bundle: a key, such as dataset_dir; repeat it."),
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Of a data list: labels are classes 0 to N - 1.")] = None,
    label_value: Annotated[
        list[int] | None, typer.Option(help="Of a data list of volumes: a value of the labels; repeat it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read every file once and list all that is wrong: unreadable, misfitting, mislabelled, duplicate cases.

    Of a bundle these are the checks that its training and its evaluation begin with. The exit status is 1 where
    something is wrong.
    """
    if source.is_dir():
        reports = _of_bundle(source, config or [], override or [])
    else:
        reports = _of_datalist(source, classes, label_value)
    if as_json:
        typer.echo(json.dumps({name: _plain(report) for name, report in reports.items()}, indent=2))
    else:
        for name, report in reports.items():
            typer.echo(f"{name}: {report}")
    if any(report.errors for report in reports.values()):
        raise typer.Exit(1)


def _of_bundle(bundle: Path, files: Sequence[Path], overrides: Sequence[str]) -> dict[str, CheckReport]:
    """The checks that the bundle's training and evaluation begin with, all of them."""
    from monai.bundle.config_parser import ConfigParser

    from monai_kd._bundle_scripts import importable

    train, evaluate = bundle / "configs" / "train.json", bundle / "configs" / "evaluate.json"
    if not train.is_file():
        raise FileNotFoundError(f"'{bundle}' has no configs/train.json.")
    if missing := [str(path) for path in files if not path.is_file()]:
        raise FileNotFoundError(f"no configuration file at {missing}.")
    reports = {}
    for name, further in (("training", []), ("test", [evaluate] if evaluate.is_file() else [])):
        parser = ConfigParser()
        parser.read_config([str(path) for path in (train, *files, *further)])
        parser.update({"bundle_root": str(bundle), **parse_overrides(overrides)})
        expressions = [found[1] for step in parser.get("initialize", []) if (found := _CHECK.match(str(step)))]
        for number, expression in enumerate(expressions):
            parser["monai_kd_check"] = f"${expression}"
            with importable(bundle.resolve()):
                found = parser.get_parsed_content("monai_kd_check")
            reports[name if number == 0 else f"{name} {number + 1}"] = found
    if not reports:
        raise ValueError(
            f"'{bundle}' does not check its data when it begins; give its data list, a JSON file, instead."
        )
    return reports


def _of_datalist(path: Path, classes: int | None, values: Sequence[int] | None) -> dict[str, CheckReport]:
    if not path.is_file():
        raise FileNotFoundError(f"no data list or bundle at '{path}'.")
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' is no JSON file ({error}).") from None
    parts = {name: items for name, items in lists.items() if _is_items(items)} if isinstance(lists, dict) else {}
    if not parts:
        raise ValueError(f"'{path}' has no list of items with an 'image', such as under 'training'.")
    return {
        name: _checker(items, classes, values)([_absolute(item, path.parent) for item in items])
        for name, items in parts.items()
    }


def _is_items(items: Any) -> bool:
    return isinstance(items, list) and bool(items) and all(isinstance(one, dict) and "image" in one for one in items)


def _checker(
    items: Sequence[Mapping[str, Any]], classes: int | None, values: Sequence[int] | None
) -> Callable[[Any], CheckReport]:
    """By what the items are: class indices, volumes, or pictures with masks."""
    from monai_kd.data import check_classes, check_datalist, check_volumes

    if classes is not None:
        return lambda found: check_classes(found, classes, progress=True)
    if any(isinstance(item.get("label"), int) for item in items):
        raise typer.BadParameter("labels are classes: say how many with --classes")
    if str(items[0]["image"]).lower().endswith(_VOLUMES):
        if not values and any("label" in item for item in items):
            raise typer.BadParameter("labels are volumes: say their values, --label-value 0 --label-value 1 ...")
        return lambda found: check_volumes(found, values or (0,), tumour_value=None, hounsfield=False, progress=True)
    return lambda found: check_datalist(found, progress=True)


def _absolute(item: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Files of a data list are relative to it."""
    return {key: str(root / value) if isinstance(value, str) else value for key, value in item.items()}


def _plain(report: CheckReport) -> dict[str, Any]:
    return {
        "items": report.items,
        "labelled": report.labelled,
        "errors": [vars(case) for case in report.errors],
        "warnings": [vars(case) for case in report.warnings],
    }
