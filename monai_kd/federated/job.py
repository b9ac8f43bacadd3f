"""A federation as a job of NVFlare: a folder of JSON files, and what the sites need beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from monai_kd._bundle_configs import SUFFIXES
from monai_kd._files import write_whole
from monai_kd.federated.plan import FederationPlan

__all__ = [
    "CONTROLLER",
    "ERROR",
    "EXECUTOR",
    "MODEL",
    "SCORES",
    "SERVER_SETTINGS",
    "SITE_SETTINGS",
    "STATE",
    "write_job",
]

SITE_SETTINGS, SERVER_SETTINGS = "site.json", "server.json"
MODEL, SCORES, STATE = "model.pt", "rounds.csv", "federation.pt"  # of the server
ERROR = "error.txt"  # of a site
_BUNDLE, _START, _TEACHER = "bundle", "start.pt", "teacher.pt"
EXECUTOR = "monai_kd.federated.executor.DistillationExecutor"
CONTROLLER = "monai_kd.federated.controller.StudentAveraging"


def write_job(plan: FederationPlan, folder: str | Path, here: str | Path | None = None) -> Path:
    """Write the job's folder, which NVFlare's simulator or server takes.

    It names two classes of this package, which every site has installed and NVFlare must be told to allow; there is no
    code in it but the ``$`` expressions of the bundle's configuration. Each site's settings (``site.json``) are in the
    part that goes to this site alone.

    Args:
        plan: the federation.
        folder: a new or empty one.
        here: where all sites write when they are simulated on this machine, ``<here>/sites/<name>``; bundle, teacher
            and start are then read where they are. ``None``: a job for other machines, which holds the bundle's
            configuration, the teacher that all are given and the start, and whose sites write into NVFlare's
            workspace.

    Returns:
        ``folder``.

    Raises:
        FileExistsError: it holds something.
        ValueError: the bundle has Python files of its own, which a job does not carry, or two configuration files have
            one name.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"'{folder}' is not empty; give an empty or new folder for the job.")
    if here is None:
        _check_portable(plan)
    apps = {"server": "app_server"} | {site: f"app_{site}" for site in plan.sites}
    meta = {
        "name": plan.bundle.name,
        "resource_spec": {},
        "min_clients": len(plan.sites),
        "mandatory_clients": list(plan.sites),
        "deploy_map": {app: [where] for where, app in apps.items()},
    }
    _write(folder / "meta.json", meta)
    _write_server(plan, folder / apps["server"], here)
    for site in plan.sites:
        _write_site(plan, site, folder / apps[site], here)
    return folder


def _write_server(plan: FederationPlan, app: Path, here: str | Path | None) -> None:
    workflow = {"id": "averaging", "path": CONTROLLER, "args": {}}
    _write(app / "config" / "config_fed_server.json", {"format_version": 2, "workflows": [workflow], "components": []})
    start = None if plan.start is None else str(plan.start)
    if plan.start is not None and here is None:
        shutil.copyfile(plan.start, app / _START)
        start = _START
    settings = {
        "sites": list(plan.sites),
        "rounds": plan.rounds,
        "longest_round": plan.longest_round,
        "start": start,
        "folder": None if here is None else str(Path(here).resolve()),
    }
    _write(app / "config" / SERVER_SETTINGS, settings)


def _write_site(plan: FederationPlan, site: str, app: Path, here: str | Path | None) -> None:
    executor = {"tasks": ["*"], "executor": {"path": EXECUTOR, "args": {}}}
    _write(app / "config" / "config_fed_client.json", {"format_version": 2, "executors": [executor], "components": []})
    if here is None:
        _copy_bundle(plan, app / _BUNDLE)
        bundle, files = _BUNDLE, [f"{_BUNDLE}/configs/{path.name}" for path in plan.config_files]
        teacher = f"$@bundle_root + '/models/{_TEACHER}'"
    else:
        bundle, files, teacher = str(plan.bundle), [str(path) for path in plan.config_files], str(plan.teacher)
    settings = {
        "bundle": bundle,
        "config_files": files,
        "overrides": ({} if plan.teacher is None else {"teacher_checkpoint": teacher}) | plan.overrides_of(site),
        "rounds": plan.rounds,
        "local_epochs": plan.local_epochs,
        "folder": None if here is None else str(Path(here).resolve() / "sites" / site),
    }
    _write(app / "config" / SITE_SETTINGS, settings)


def _check_portable(plan: FederationPlan) -> None:
    if code := sorted(path.name for path in plan.bundle.rglob("*.py")):
        raise ValueError(
            f"'{plan.bundle}' has Python files of its own ({code[0]}), which a job does not carry; make them a package "
            "that each site installs."
        )
    named = {path.name: path for path in (plan.bundle / "configs").iterdir()}
    if twice := sorted(path.name for path in plan.config_files if named.setdefault(path.name, path) != path):
        raise ValueError(f"there are several configuration files named {twice}; rename one.")


def _copy_bundle(plan: FederationPlan, target: Path) -> None:
    """The configuration, and the teacher that all are given; no weights else, no data."""
    configs = [path for path in (plan.bundle / "configs").iterdir() if path.suffix.lower() in SUFFIXES]
    (target / "configs").mkdir(parents=True)
    for path in {*configs, *plan.config_files}:
        shutil.copyfile(path, target / "configs" / path.name)
    if plan.teacher is not None:
        (target / "models").mkdir()
        shutil.copyfile(plan.teacher, target / "models" / _TEACHER)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=4) + "\n")
