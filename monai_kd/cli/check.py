"""``monai-kd check``: every bad case of a data list, or of a bundle's data, at once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
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
_CHECK = re.compile(r"^\$?(check_\w+\(.*\))\.raise_if_bad\(")


def command(
    source: Annotated[Path, typer.Argument(help="A data list (JSON) or a bundle's folder.")],
    config: Annotated[
        list[Path] | None, typer.Option(help="Of a bundle: a file behind train.json; repeat it for more.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of a bundle: a key, such as dataset_dir; repeat it."),
    ] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="Of a data list: labels are classes 0 to N - 1.")] = None,
    label_value: Annotated[
        list[int] | None, typer.Option(help="Of a data list of volumes: a value of the labels; repeat it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read every file once and list all that is wrong: unreadable, misfitting, mislabelled, duplicate cases.

    Of a bundle these are the checks that its training and its evaluation begin with. The exit status is 1 where
    something is wrong. Lists of a data list are checked under any name; what is no list of items is named.
    """
    if source.is_dir():
        if classes is not None or label_value:
            raise typer.BadParameter("--classes and --label-value belong to a data list; a bundle knows its labels")
        reports = _of_bundle(source, config or [], parse_overrides(override or []))
    else:
        if config or override:
            raise typer.BadParameter("--config and --set belong to a bundle's folder")
        reports = _of_datalist(source, classes, label_value)
    if as_json:
        typer.echo(json.dumps({name: _plain(report) for name, report in reports.items()}, indent=2))
    else:
        for name, report in reports.items():
            typer.echo(f"{name}: {report}")
    if any(report.errors for report in reports.values()):
        raise typer.Exit(1)


def _of_bundle(bundle: Path, files: Sequence[Path], overrides: Mapping[str, Any]) -> dict[str, CheckReport]:
    """The checks that the bundle's training and evaluation begin with, all of them."""
    from monai_kd._bundle_configs import find_config, merged_configs, read_config
    from monai_kd._bundle_scripts import importable
    from monai_kd.errors import root_cause, user_message

    train, _ = read_config(bundle, "train")
    evaluate = find_config(bundle, "evaluate")
    if missing := [str(path) for path in files if not path.is_file()]:
        raise FileNotFoundError(f"no configuration file at {missing}.")
    reports = {}
    for name, further in (("training", []), ("test", [evaluate] if evaluate else [])):
        parser = merged_configs([train, *files, *further])
        try:
            parser.update({"bundle_root": str(bundle), **overrides})
            expressions = [found[1] for step in parser.get("initialize", []) if (found := _CHECK.match(str(step)))]
            for number, expression in enumerate(expressions):
                parser["monai_kd_check"] = f"${expression}"
                with importable(bundle.resolve()):
                    found = parser.get_parsed_content("monai_kd_check")
                reports[name if number == 0 else f"{name} {number + 1}"] = found
        except Exception as error:  # of MONAI's parser, around whatever went wrong
            reason = user_message(error) or root_cause(error)
            raise ValueError(f"the {name} data of '{bundle}' cannot be checked: {reason}") from error
    if not reports:
        raise ValueError(
            f"'{bundle}' does not check its data when it begins; give its data list, a JSON file, instead."
        )
    return reports


def _of_datalist(path: Path, classes: int | None, values: Sequence[int] | None) -> dict[str, CheckReport]:
    from monai_kd.cli.datalists import check_part, parts_of

    parts, others = parts_of(path)
    if others:
        typer.echo(f"not checked, for it is no list of items: {', '.join(others)}", err=True)
    return {name: check_part(items, path.parent, classes, values) for name, items in parts.items()}


def _plain(report: CheckReport) -> dict[str, Any]:
    return {
        "items": report.items,
        "labelled": report.labelled,
        "errors": [vars(case) for case in report.errors],
        "warnings": [vars(case) for case in report.warnings],
    }
