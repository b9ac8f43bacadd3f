"""What a comparison is, for its folder: what decides on its results, and what they were made with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from monai_kd.compare.plan import ComparisonPlan

__all__ = ["describe", "differences", "made_with", "surroundings"]

_PACKAGES = ("monai-kd", "monai", "torch", "pytorch-ignite", "numpy")


def describe(plan: ComparisonPlan) -> dict[str, Any]:
    """What decides on the results, as plain values; ``contents`` are the hashes of the files behind them."""
    files = {path for one in plan.networks for evaluate in (False, True) for path in plan.files_of(one, evaluate)}
    files |= {plan.bundle / "models" / one.checkpoint for one in plan.networks if one.checkpoint is not None}
    contents = {plan.name_of(path): sha256(path.read_bytes()).hexdigest() for path in sorted(files)}
    return {"bundle": plan.bundle.name, **plan.as_json(), "contents": contents}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys in which a comparison is another one than before; seeds and networks may be added behind those there.

    Args:
        before: of the comparison that a folder holds.
        now: of :func:`describe`.
    """
    # No run depends on the score.
    found = {key for key in now if before.get(key) != now[key]} - {"seeds", "networks", "contents", "score"}
    contents = before.get("contents", {})
    found |= {f"'{name}'" for name, one in contents.items() if now["contents"].get(name, one) != one}
    seeds, networks = before.get("seeds", []), before.get("networks", {})
    if seeds != now["seeds"][: len(seeds)]:
        found.add("seeds")
    if any(_recipe(one) != _recipe(now["networks"].get(name)) for name, one in networks.items()):
        found.add("networks")
    return sorted(found)


def surroundings(bundle: Path) -> dict[str, Any]:
    """Where the bundle lies and its version, what the comparison is made with, the time."""
    return {
        "bundle_folder": str(bundle),
        "bundle_version": _bundle_version(bundle),
        **made_with(bundle),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def made_with(bundle: Path) -> dict[str, Any]:
    """Versions of the packages and the state of the bundle's repository."""
    versions = {name: _package_version(name) for name in _PACKAGES} | {"python": sys.version.split()[0]}
    return {"versions": versions, "git": _git_state(bundle)}


def _recipe(network: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if network is None else {key: value for key, value in network.items() if key != "seeds"}


def _bundle_version(bundle: Path) -> str | None:
    try:
        found: str | None = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8")).get(
            "version"
        )
    except (OSError, ValueError):
        return None
    return found


def _package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the repository that holds the bundle, and whether files differ from it; ``None`` without one."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*words: str) -> str | None:
        done = subprocess.run([git, "-C", str(folder), *words], capture_output=True, encoding="utf-8", check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    return None if commit is None else {"commit": commit, "changed": bool(ask("status", "--porcelain"))}
