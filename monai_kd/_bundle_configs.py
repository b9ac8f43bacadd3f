"""Configuration files of a bundle, JSON or YAML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from monai.bundle.config_parser import ConfigParser

SUFFIXES = (".json", ".yaml", ".yml")


def find_config(root: Path, name: str) -> Path | None:
    """``configs/<name>.json`` or YAML; ``None`` where neither is there."""
    files = [root / "configs" / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((file for file in files if os.path.lexists(file)), None)


def load_config(path: Path) -> Any:
    """What a file holds.

    Raises:
        ImportError: the file is YAML, and PyYAML is missing.
        ValueError: the file cannot be read as JSON or YAML.
    """
    if path.suffix.lower() in SUFFIXES[1:] and find_spec("yaml") is None:
        raise ImportError(f"'{path.name}' is YAML, and PyYAML is not installed: pip install \"monai-kd[cli]\"")
    if not os.path.isfile(path):
        raise ValueError(f"'{path}' cannot be read: it is no regular file, or a link to nothing.")
    try:
        return ConfigParser.load_config_file(path)
    except RecursionError:
        raise ValueError(f"'{path}' cannot be read: too many brackets within each other.") from None
    except Exception as error:  # of two parsers, each with errors of its own
        raise ValueError(f"'{path}' cannot be read: {error}") from None


def read_config(root: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """File and content of ``configs/<name>.json`` or YAML.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: the file holds no configuration.
    """
    file = find_config(root, name)
    if file is None:
        raise FileNotFoundError(f"'{root}' has no configs/{name}.json (nor .yaml, .yml).")
    return file, _by_keys(file)


def merged_configs(files: Sequence[str | Path]) -> ConfigParser:
    """A parser of several files, merged as ``monai.bundle run`` merges them; nothing of it is made yet.

    Raises:
        ValueError: a file holds no configuration; its name is in the message.
    """
    for file in files:
        _by_keys(Path(file))
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    return parser


def _by_keys(file: Path) -> dict[str, Any]:
    content = load_config(file)
    if not isinstance(content, dict):
        raise ValueError(f"'{file}' holds a {type(content).__name__}, expected a configuration by keys.")
    return content
