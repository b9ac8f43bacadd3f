"""What ``torchrun`` tells its processes, and what they tell each other and it when one of them fails."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

_LATER = 5  # seconds; the launcher takes the earliest failure for the cause, and knows whole seconds
_PATIENCE = timedelta(seconds=5)
_LOST = re.compile(  # in the messages of PyTorch's backends
    r"gloo/transport|Connection (?:closed|reset) by peer|Broken pipe|remote process exited|communicator was aborted"
)


def job_number() -> str | None:
    """What ``torchrun`` was given as ``--rdzv_id``, if anything; it calls all others "none"."""
    number = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if number == "none" else number


def launchers_store() -> bool:
    """Whether processes meet in a store of the launcher, which outlives them, and not in one of process 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def this_start() -> str:
    """By what a store tells the processes of this start from those before a restart; the same in all of them."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if launchers_store() else "new"


def lost_the_others(error: BaseException) -> bool:
    """Whether an error says no more than that another process is not there any more."""
    return _several() and isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


def first_to_fail(message: str) -> tuple[bool, str]:
    """Whether this process is the first to call this, as one that reaches no other is; and what the first one said."""
    own = os.environ.get("RANK", "0")
    with suppress(Exception):  # whatever it is, this process has to say why it ends
        store = _store()
        if store is not None:
            rank, _, said = store.compare_set(_key(), "", f"{own} {message}").decode().partition(" ")
            return rank == own, said
    return True, message


def failed_before() -> int | None:
    """Rank of the first process that has called :func:`first_to_fail`, if any has and its word can be read."""
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


def _several() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"


def _store() -> Any:
    """That of the launcher, there before the processes' group and after it, or that of process 0, from when it joins
    the group until it ends; ``None`` of a process that is alone."""
    if not _several():
        return None
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    with socket.create_connection((host, port), _PATIENCE.total_seconds()):
        pass  # TCPStore would knock, and complain, until its time is up
    return TCPStore(host, port, timeout=_PATIENCE)


def _key() -> str:
    return f"monai_kd/failed/{job_number()}/{this_start()}"
