"""Configuration files of a bundle, JSON or YAML."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from monai.bundle.config_parser import ConfigParser

SUFFIXES = (".json", ".yaml", ".yml")


def find_config(root: Path, name: str) -> Path | None:
    """``configs/<name>.json`` or YAML; ``None`` where neither is there."""
    files = [root / "configs" / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((file for file in files if file.is_file()), None)


def load_config(path: Path) -> Any:
    """What a file holds.

    Raises:
        ImportError: the file is YAML, and PyYAML is missing.
        ValueError: the file cannot be read as JSON or YAML.
    """
    if path.suffix.lower() in SUFFIXES[1:] and find_spec("yaml") is None:
        raise ImportError(f"'{path.name}' is YAML, and PyYAML is not installed: pip install \"monai-kd[cli]\"")
    try:
        return ConfigParser.load_config_file(path)
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
    content = load_config(file)
    if not isinstance(content, dict):
        raise ValueError(f"'{file}' holds a {type(content).__name__}, expected a configuration by keys.")
    return file, content
