"""JSON files, read or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["read_json"]

_LARGEST = 1 << 30  # bytes


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: the file cannot be read; ``FileNotFoundError`` where there is none.
        ValueError: it is no JSON in UTF-8, or no file; its name is in the message.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"'{path}' is no regular file.")
    if path.is_file() and path.stat().st_size > _LARGEST:
        raise ValueError(f"'{path}' is no JSON file of ours: it has {path.stat().st_size} bytes.")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(f"'{path}' cannot be read: {error.strerror or error}.") from None
    except RecursionError:
        raise ValueError(f"'{path}' is no JSON file: too many brackets within each other.") from None
    except ValueError as error:
        raise ValueError(f"'{path}' is no JSON file: {error}.") from None
