"""What the processes of a ``torchrun`` tell each other and the launcher when one of them fails."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

_LATER = 5  # seconds; the launcher takes the earliest failure for the cause, and knows whole seconds
_PATIENCE = timedelta(seconds=5)
_LOST = re.compile(  # in the messages of PyTorch's backends
    r"gloo/transport|Connection (?:closed|reset) by peer|Broken pipe|remote process exited|communicator was aborted"
)


def lost_the_others(error: BaseException) -> bool:
    """Whether an error says no more than that another process is not there any more."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    return several and isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


def first_to_fail(message: str) -> tuple[bool, str]:
    """Whether this process is the first to call this, as one that is alone is; and what the first one said."""
    own = os.environ.get("RANK", "0")
    with suppress(Exception):  # whatever it is, this process has to say why it ends
        store = _store()
        if store is not None:
            rank, _, said = store.compare_set(_key(), "", f"{own} {message}").decode().partition(" ")
            return rank == own, said
    return True, message


def failed_before() -> int | None:
    """Rank of the first process that has called :func:`first_to_fail`, if any has."""
    with suppress(Exception):
        store = _store()
        if store is not None and store.check([_key()]):
            return int(store.get(_key()).decode().partition(" ")[0])
    return None


def tell_launcher(message: str, cause: bool) -> None:
    """Have ``torchrun``'s summary show a message.

    Args:
        message: of this process.
        cause: whether it failed on its own, and not because another one did.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        return
    # As torch.distributed.elastic's ErrorHandler has it, but without its frames.
    extra = {"py_callstack": message, "timestamp": str(int(time.time()) + (0 if cause else _LATER))}
    with suppress(OSError), open(path, "w", encoding="utf-8") as file:
        json.dump({"message": {"message": message, "extraInfo": extra}}, file)


def _store() -> Any:
    """The launcher's own, there before the processes' group and after it; ``None`` without a launcher."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=_PATIENCE)


def _key() -> str:
    return f"monai_kd/failed/{os.environ['TORCHELASTIC_RUN_ID']}/{os.environ['TORCHELASTIC_RESTART_COUNT']}"
