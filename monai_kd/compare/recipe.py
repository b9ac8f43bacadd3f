"""What a run's configuration says before anything is trained: its data, and the network that it costs to run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai.bundle.config_parser import ConfigParser

from monai_kd._bundle_configs import merged_configs

__all__ = ["data_of", "recipe", "training_split"]

_FILES = ("config_file", "meta_file", "logging_file")
_UNLABELLED = "unlabelled#dataset#data"


def recipe(arguments: Mapping[str, Any]) -> ConfigParser:
    """The configuration of a run, merged as ``monai.bundle run`` merges it; nothing of it is made yet.

    Args:
        arguments: of the run, "config_file" and "meta_file" among them.
    """
    parser = merged_configs(arguments["config_file"])
    if Path(arguments["meta_file"]).is_file():
        parser.read_meta(arguments["meta_file"])
    for key, value in arguments.items():
        if key not in _FILES:
            parser[key] = value
    return parser


def data_of(
    training: ConfigParser, evaluation: ConfigParser, others: Mapping[str, ConfigParser] | None = None
) -> dict[str, Any]:
    """Folder, split and test cases of a comparison, as far as the bundle has them where bundles of the zoo do.

    Args:
        training: recipe of a student's training.
        evaluation: that of its evaluation.
        others: recipes of the other networks' trainings, by name.

    Returns:
        ``dataset_dir``; ``split``, the number of items by part; ``other_splits``, by name, of networks that are
        trained on another number of items; ``test_cases``, each with the path of its image and the path of its label
        or its class.
    """
    own = training_split(training)
    splits = {name: training_split(parser) for name, parser in (others or {}).items()}
    cases = _items(evaluation, "validate#dataset#data")
    folder = evaluation.get_parsed_content("dataset_dir") if "dataset_dir" in evaluation else None
    return {
        "dataset_dir": None if folder is None else str(Path(folder).resolve()),
        "split": {
            **own,
            **_count("validation", _items(training, "validate#dataset#data")),
            **_count("test", cases),
        },
        "other_splits": {name: split for name, split in splits.items() if split != own},
        "test_cases": list(_cases(cases or ())),
    }


def training_split(parser: ConfigParser) -> dict[str, int]:
    """Training items, those without a label apart; a bundle may have them in one list or in two."""
    seen, further = _items(parser, "train#dataset#data"), _items(parser, _UNLABELLED)
    if seen is None:
        return {}
    every = {_identity(item): item for item in [*seen, *(further or [])]}
    labelled = sum(not isinstance(item, Mapping) or "label" in item for item in every.values())
    return {"training": len(every)} if not labelled else {"training": labelled, "unlabelled": len(every) - labelled}


def _identity(item: Any) -> str | int:
    image = item.get("image") if isinstance(item, Mapping) else item
    return str(image) if isinstance(image, str | Path) else id(item)


def _count(part: str, items: list[Any] | None) -> dict[str, int]:
    return {} if items is None else {part: len(items)}


def _items(parser: ConfigParser, key: str) -> list[Any] | None:
    if parser.get(key) is None:
        return None
    found = parser.get_parsed_content(key)
    return list(found) if isinstance(found, list | tuple) else None


def _cases(items: Iterable[Any]) -> Iterable[dict[str, Any]]:
    for item in items:
        if isinstance(item, Mapping) and isinstance(item.get("image"), str | Path):
            label = item.get("label")
            case: dict[str, Any] = {"image": str(Path(item["image"]).resolve())}
            if isinstance(label, str | Path):
                case["label"] = str(Path(label).resolve())
            elif isinstance(label, int):
                case["label"] = label
            yield case
