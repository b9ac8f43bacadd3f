"""What a federation is: a bundle, its sites, its rounds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_kd._bundle_configs import read_config
from monai_kd.overrides import override_problems

__all__ = ["FederationPlan", "plan_federation"]

_SITE = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_TAKEN = ("server", "all")
_OWN_KEYS = {
    *("bundle_root", "ckpt_dir", "output_dir", "dataset_dir", "epochs", "val_interval", "run_name", "resume"),
    *("config_file", "meta_file", "logging_file", "args_file", "run_id", "init_id", "final_id", "workflow_type"),
}
_OF_SITE = re.compile(r"([^:#]+):(?!:)(.+)")
_TEACHER = "teacher_checkpoint"


@dataclass(frozen=True)
class FederationPlan:
    """A federation; :func:`plan_federation` makes it.

    Args:
        bundle: its folder.
        sites: by name, the folder of the data.
        rounds: of training at all sites and averaging.
        local_epochs: of a round at each site.
        config_files: behind ``train.json``.
        overrides: of keys of the configuration, for all sites.
        site_overrides: by site, those for it alone.
        teacher: a checkpoint that is given to all sites; ``None`` where each has its own.
        start: a checkpoint of the student to begin with; ``None``: as the first site draws it.
        longest_round: seconds after which sites that have not answered end it; 0: never.
    """

    bundle: Path
    sites: Mapping[str, str]
    rounds: int
    local_epochs: int = 1
    config_files: tuple[Path, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    site_overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    teacher: Path | None = None
    start: Path | None = None
    longest_round: int = 0

    def overrides_of(self, site: str) -> dict[str, Any]:
        """Of a site, all but its folders and the teacher that it is given."""
        return {"dataset_dir": self.sites[site], **self.overrides, **self.site_overrides.get(site, {})}

    def as_json(self) -> dict[str, Any]:
        """What decides on the result, as plain values."""
        return {
            "bundle": str(self.bundle),
            "rounds": self.rounds,
            "local_epochs": self.local_epochs,
            "config_files": [str(path) for path in self.config_files],
            "sites": {site: json.loads(json.dumps(self.overrides_of(site))) for site in self.sites},
            "teacher": None if self.teacher is None else str(self.teacher),
            "start": None if self.start is None else str(self.start),
        }


def plan_federation(
    bundle: str | Path,
    sites: Mapping[str, str],
    rounds: int,
    local_epochs: int = 1,
    config_files: Sequence[str | Path] = (),
    overrides: Mapping[str, Any] | None = None,
    teacher: str | Path | None = None,
    start: str | Path | None = None,
    longest_round: int = 0,
) -> FederationPlan:
    """A federation whose bundle, sites and keys are what they should be.

    Args:
        bundle: its folder.
        sites: by name, the folder of the data there, a whole path.
        rounds: of training at all sites and averaging.
        local_epochs: of a round at each site.
        config_files: behind ``train.json``.
        overrides: of keys of the configuration; "a:batch_size" is that of site "a" alone.
        teacher: a checkpoint that is given to all sites, for a bundle with the key ``teacher_checkpoint``.
        start: a checkpoint of the student to begin with.
        longest_round: seconds after which sites that have not answered end it; 0: never.

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: sites, numbers or keys that cannot be; all in one message.
    """
    bundle = Path(bundle).resolve()
    train, content = read_config(bundle, "train")
    files = tuple(Path(path).resolve() for path in config_files)
    given = {what: Path(path).resolve() for what, path in (("teacher", teacher), ("start", start)) if path is not None}
    if missing := [str(path) for path in (*files, *given.values()) if not path.is_file()]:
        raise FileNotFoundError(f"no file at {missing}.")
    common, own = _by_site(overrides or {})
    numbers = {"rounds": (rounds, 1), "local_epochs": (local_epochs, 1), "longest_round": (longest_round, 0)}
    problems = [
        f"{name} is a whole number from {least}, got {value}"
        for name, (value, least) in numbers.items()
        if value < least
    ]
    problems += _site_problems(sites, own)
    if taken := sorted(key for keys in (common, *own.values()) for key in keys if key in _OWN_KEYS):
        problems.append(f"{taken} are the federation's own; leave them out")
    if "teacher" in given and _TEACHER not in content:
        problems.append(f"the bundle has no key '{_TEACHER}' for one teacher; give its keys of teachers as overrides")
    for site in sites:
        found = override_problems([train, *files], {**common, **own.get(site, {})})
        problems += [problem.rstrip(".") for problem in found if problem.rstrip(".") not in problems]
    if problems:
        raise ValueError(f"the federation of '{bundle.name}' cannot be: {'; '.join(problems).removesuffix('.')}.")
    return FederationPlan(
        bundle,
        dict(sites),
        rounds,
        local_epochs,
        files,
        common,
        own,
        given.get("teacher"),
        given.get("start"),
        longest_round,
    )


def _by_site(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Overrides for all sites, and by site those for one alone."""
    common: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        found = _OF_SITE.match(key)
        if found:
            own.setdefault(found[1], {})[found[2]] = value
        else:
            common[key] = value
    return common, own


def _site_problems(sites: Mapping[str, str], own: Mapping[str, Any]) -> list[str]:
    problems = [] if sites else ["it has no site"]
    for name, data in sites.items():
        if not _SITE.fullmatch(name) or name in _TAKEN:
            problems.append(f"'{name}' names a site: letters, digits and _ . - alone, and none of {_TAKEN}")
        if not Path(data).is_absolute():
            problems.append(f"the data of site '{name}' need a whole path, got '{data}'")
    if unknown := sorted(own.keys() - sites.keys()):
        problems.append(f"overrides are of the sites {unknown}; there are {', '.join(sites)}")
    return problems
