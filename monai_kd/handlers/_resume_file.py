"""The file that a stopped run goes on from: tensors and plain values, read whole or refused."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_kd._launcher import job_number
from monai_kd._processes import largest
from monai_kd._torch_files import damaged_part
from monai_kd.checkpoints import CheckpointError, readable_reason
from monai_kd.handlers._resume_shape import problem_of

FORMAT = 2


def read(path: Path) -> dict[str, Any]:
    """The content of a file.

    Raises:
        CheckpointError: it is missing, not whole, or of another kind.
    """
    try:
        if (damaged := damaged_part(path)) is not None:  # torch.load takes altered tensors without a word
            raise CheckpointError(f"'{path}' is not whole ({damaged}).")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"'{path}' is missing.") from None
    except Exception as error:  # a broken file fails in many ways: RuntimeError, UnpicklingError, EOFError, ...
        raise CheckpointError(f"'{path}' is not whole ({readable_reason(error)}).") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"'{path}' was not written by this version's ResumeCheckpoint.")
    if (problem := problem_of(content)) is not None:
        raise CheckpointError(f"'{path}' is not whole: {problem}.")
    return content


def plain(value: Any, where: str) -> Any:
    """The same in types that ``weights_only=True`` reads."""
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor)
    if isinstance(value, np.generic):
        return value.item()
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, Mapping):
        items = {_name(key): plain(item, f"{where}.{key}") for key, item in value.items()}
        return Counter(items) if isinstance(value, Counter) else items
    if isinstance(value, list | tuple):
        listed = [plain(item, f"{where}.{i}") for i, item in enumerate(value)]
        return listed if isinstance(value, list) else tuple(listed)
    raise TypeError(
        f"'{where}' is a {type(value).__name__}; only tensors, numbers, text, lists and dicts can be stored. Give an "
        "object whose state_dict holds no more than these."
    )


def _name(key: Any) -> Any:
    """A key without the enumeration that it is from, such as MONAI's ``CommonKeys``."""
    return str.__str__(key) if isinstance(key, str) else key


def packed(content: Any) -> bytes:
    """Plain values as bytes, to be sent to another process."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def unpacked(content: bytes) -> Any:
    """What :func:`packed` was given."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def number(value: Any) -> Any:
    """A score without its tensor."""
    return value.item() if isinstance(value, Tensor | np.generic) else value


def job() -> str | None:
    """What torchrun's restarts of one job have in common and no other job has; ``None`` outside of it."""
    name, errors = (os.environ.get(f"TORCHELASTIC_{key}", "") for key in ("RUN_ID", "ERROR_FILE"))
    if name and os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        return job_number()  # each machine has folders of its own
    folders = Path(errors).parents  # <folder of the job>/attempt_0/0/error.json
    return f"{name} {folders[2]}" if name and len(folders) > 3 else None


def restarts() -> int:
    """How often a torchrun has restarted this job's processes, at most; all processes ask.

    Of several machines the one on which a process has failed counts the restart, the others need not.
    """
    return largest(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))
