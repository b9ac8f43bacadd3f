"""A federation on one machine, by NVFlare's simulator: each site is a process, or is one of a few in turn."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from monai_kd._files import write_whole
from monai_kd.compare.process import LOCK, locked, run_process
from monai_kd.federated.job import CONTROLLER, ERROR, EXECUTOR, STATE, write_job
from monai_kd.federated.plan import FederationPlan

__all__ = ["FederationError", "simulate"]

PLAN, JOB, WORKSPACE, LOG = "federation.json", "job", "workspace", "log.txt"
_SHOWN_LINES = 15
_ROUND = re.compile(r"round (\d+) of \d+ is done")
_DIED = re.compile(r"(?:Subprocess died for|Communication error with) client ([\w.-]+)")
_PLAIN = re.compile(r"[^\s'\"\\#:]+")


class FederationError(RuntimeError):
    """A federation that did not come to its end; the rounds that are done are kept."""


class _SiteDied(Exception):
    """The process of a site was killed."""


def simulate(
    plan: FederationPlan,
    output: str | Path,
    at_once: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Run the federation, or go on with one that was stopped.

    Args:
        plan: the federation.
        output: its folder, made if need be: ``model.pt``, the average of the last round; ``rounds.csv``, the scores;
            ``sites/<name>/``, what stays at a site; ``log.txt``.
        at_once: how many sites train at the same time; all if ``None``. With fewer, a site is a new process for each
            task, that reads its data and its teacher again.
        progress: called with the number of rounds that are done.

    Returns:
        ``output``.

    Raises:
        ImportError: NVFlare is not installed.
        ValueError: the folder holds another federation, or cannot hold one.
        BlockingIOError: another process works in the folder.
        FederationError: a site or the server failed; the reason is in the message.
    """
    if find_spec("nvflare") is None:
        raise ImportError('nvflare is not installed: pip install "monai-kd[federated]"')
    output = Path(output).resolve()
    _check_folder(output)
    if at_once is not None and not 1 <= at_once <= len(plan.sites):
        raise ValueError(f"at once train 1 to {len(plan.sites)} sites, got {at_once}.")
    output.mkdir(parents=True, exist_ok=True)
    with locked(output) as lock:
        _begin(plan, output)
        if not _finished(output):
            for error in output.glob(f"sites/*/{ERROR}"):
                error.unlink()
            for folder in (JOB, WORKSPACE):
                shutil.rmtree(output / folder, ignore_errors=True)
            _allow_classes(output / WORKSPACE)
            job = write_job(plan, output / JOB, here=output)
            command = [sys.executable, "-m", "monai_kd.federated.simulator", str(job), str(output / WORKSPACE)]
            command += [",".join(plan.sites), str(at_once or len(plan.sites))]
            try:
                status = run_process(command, output / LOG, lock, _watcher(progress or (lambda _: None)))
            except _SiteDied as died:
                raise FederationError(_said(output) or f"{died}; see the end of '{output / LOG}'.") from None
            if status or not _finished(output):
                raise FederationError(_said(output) or _end_of_log(output, status))
    return output


def _watcher(progress: Callable[[int], None]) -> Callable[[str], None]:
    def watch(line: str) -> None:
        if found := _ROUND.search(line):
            progress(int(found[1]))
        if found := _DIED.search(line):  # the server would wait for it
            raise _SiteDied(f"site '{found[1]}' ended without an answer")

    return watch


def _check_folder(output: Path) -> None:
    if not _PLAIN.fullmatch(str(output)):
        raise ValueError(
            f"NVFlare's simulator and MONAI's configurations take no blanks, quotes, '#' and ':' in a folder's path, "
            f"got '{output}'; give another folder."
        )
    if output.exists() and not output.is_dir():
        raise ValueError(f"'{output}' is no folder.")
    if output.exists() and not (output / PLAN).is_file() and any(path.name != LOCK for path in output.iterdir()):
        raise ValueError(f"'{output}' is not empty and holds no federation; give an empty or new folder.")


def _begin(plan: FederationPlan, output: Path) -> None:
    path, described = output / PLAN, plan.as_json()
    if not path.is_file():
        write_whole(path, json.dumps(described, indent=4) + "\n")
        return
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if changed := sorted(key for key, value in described.items() if before.get(key) != value):
        raise ValueError(
            f"'{output}' holds another federation: {', '.join(changed)} differ. Repeat its own command to go on with "
            "it, or give another folder."
        )


def _allow_classes(workspace: Path) -> None:
    """NVFlare makes no component whose class a site's own settings do not name."""
    settings = workspace / "local" / "resources.json"
    settings.parent.mkdir(parents=True)
    allowed = {"format_version": 2, "class_allow_list": [CONTROLLER, EXECUTOR]}
    write_whole(settings, json.dumps(allowed, indent=4) + "\n")


def _finished(output: Path) -> bool:
    import torch

    path = output / STATE
    return path.is_file() and bool(torch.load(path, map_location="cpu", weights_only=True).get("finished"))


def _said(output: Path) -> str:
    """What sites have written before they gave up."""
    return "\n".join(
        f"site '{path.parent.name}' failed: {path.read_text(encoding='utf-8').strip()}"
        for path in sorted(output.glob(f"sites/*/{ERROR}"))
    )


def _end_of_log(output: Path, status: int) -> str:
    lines = (output / LOG).read_text(encoding="utf-8").splitlines()[-_SHOWN_LINES:]
    return f"the simulator ended with status {status}. The end of '{output / LOG}':\n" + "\n".join(lines)
