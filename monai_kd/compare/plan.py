"""Which networks of a bundle are compared, and by which of its configuration files each is trained."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from monai_kd._bundle_configs import merged_configs
from monai_kd._json import read_json
from monai_kd.overrides import did_you_mean, missing_part

__all__ = ["ComparedNetwork", "ComparisonPlan", "plan_comparison"]

ROLES = ("teacher", "auxiliary", "baseline", "student")
_PLAN, _TRAIN, _EVALUATE = "compare.json", "train.json", "evaluate.json"
_OWN_KEYS = {
    *("bundle_root", "ckpt_dir", "output_dir", "masks_dir", "run_name", "checkpoint", "seed", "resume"),
    *("config_file", "meta_file", "logging_file", "args_file", "run_id", "init_id", "final_id", "workflow_type"),
}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_TAKEN = ("cache",)
_OF_NETWORK = re.compile(r"([^:#]+):(?!:)")


@dataclass(frozen=True)
class ComparedNetwork:
    """One network of a comparison.

    Args:
        name: of its row in the report and of its folder.
        role: "teacher" and "baseline", one of each at most, are what the others are measured against; "student" is a
            distilled one, "auxiliary" a further teacher.
        files: of ``configs/``, behind ``train.json`` and the user's own.
        overrides: of keys of the configuration.
        needs: keys that take the checkpoint of another network, ``{key: name}``.
        seeds: of how many of the comparison's seeds it is trained; all if ``None``.
        evaluates: a network whose training wrote this one's checkpoint too (a mean teacher); it is scored only.
        checkpoint: a file of the bundle's ``models/`` that holds this one trained already; it is scored only, once.
    """

    name: str
    role: str
    files: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    seeds: int | None = None
    evaluates: str | None = None
    checkpoint: str | None = None

    @property
    def trained(self) -> bool:
        """Whether the comparison trains it; it is scored in any case."""
        return self.evaluates is None and self.checkpoint is None


@dataclass(frozen=True)
class ComparisonPlan:
    """What is compared; :func:`plan_comparison` makes it.

    Args:
        bundle: the bundle's folder.
        score: in which networks are compared, higher is better.
        seeds: of the trainings.
        networks: in the order in which they are trained.
        network_key: of the configuration, of the network whose cost is measured.
        config_files: the user's own, between ``train.json`` and a network's.
        overrides: the user's own, of keys of the configuration.
    """

    bundle: Path
    score: str
    seeds: tuple[int, ...]
    networks: tuple[ComparedNetwork, ...]
    network_key: str = "network_def"
    config_files: tuple[Path, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def seeds_of(self, network: ComparedNetwork) -> tuple[int, ...]:
        """The seeds that a network is trained with."""
        count = 1 if network.checkpoint is not None else network.seeds
        return self.seeds if count is None else self.seeds[:count]

    def partner_seed(self, name: str, seed: int) -> int:
        """The seed of network ``name`` that belongs to ``seed``: the same, or its first where it has not that one."""
        seeds = self.seeds_of(self.network(name))
        return seed if seed in seeds else seeds[0]

    def network(self, name: str) -> ComparedNetwork:
        """The network of this name."""
        return next(one for one in self.networks if one.name == name)

    def files_of(self, network: ComparedNetwork, evaluate: bool = False) -> list[Path]:
        """All configuration files of a run, in their order."""
        configs = self.bundle / "configs"
        own = [configs / name for name in network.files]
        return [configs / _TRAIN, *self.config_files, *own, *([configs / _EVALUATE] if evaluate else [])]

    def name_of(self, path: Path) -> str:
        """A file relative to the bundle where it lies in it, so that a bundle may be moved."""
        return path.relative_to(self.bundle).as_posix() if path.is_relative_to(self.bundle) else str(path)

    def as_json(self) -> dict[str, Any]:
        """What decides on the results, as plain values."""
        return {
            "score": self.score,
            "seeds": list(self.seeds),
            "networks": {
                one.name: {**json.loads(json.dumps(asdict(one))), "seeds": list(self.seeds_of(one))}
                for one in self.networks
            },
            "config_files": [self.name_of(path) for path in self.config_files],
            "overrides": json.loads(json.dumps(dict(self.overrides))),
        }


def plan_comparison(
    bundle: str | Path,
    seeds: Sequence[int] = (0, 1, 2),
    methods: Sequence[str] = (),
    config_files: Sequence[str | Path] = (),
    overrides: Mapping[str, Any] | None = None,
    score: str | None = None,
) -> ComparisonPlan:
    """The comparison that a bundle describes in ``configs/compare.json``.

    A bundle without that file is compared as teacher (``teacher.json``, one seed), baseline (``baseline.json``) and
    distilled (``train.json``, which reads the teacher at ``teacher_checkpoint``).

    Args:
        bundle: its folder.
        seeds: of the trainings.
        methods: further students, each a file of ``configs/`` by its name without ``.json``.
        config_files: behind ``train.json``, such as a demo or another data set.
        overrides: of keys of the configuration; "teacher:labelled_fraction" is that of one network alone. The bundle's
            folders, seeds and checkpoints are the comparison's own.
        score: in which networks are compared; the bundle's choice if ``None``.

    Raises:
        FileNotFoundError: no such bundle, or a file that it has not.
        ValueError: seeds, paths or overrides that cannot be, or a ``compare.json`` that makes no sense.
    """
    bundle = Path(bundle).resolve()
    if not (bundle / "configs" / _TRAIN).is_file() or not (bundle / "configs" / _EVALUATE).is_file():
        raise FileNotFoundError(f"'{bundle}' has no configs/{_TRAIN} and configs/{_EVALUATE}; give a bundle's folder.")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds are one or more different numbers from 0, got {list(seeds)}.")
    overrides = dict(overrides or {})
    if taken := sorted(key for key in overrides if key.rpartition(":")[2] in _OWN_KEYS):
        raise ValueError(f"{taken} are set for each run by the comparison; leave them out.")
    files = tuple(Path(path).resolve() for path in config_files)
    if missing := [str(path) for path in files if not path.is_file()]:
        raise FileNotFoundError(f"no configuration file at {missing}.")
    described = _described(bundle)
    networks = [*described["networks"], *(_method(bundle, name, described["networks"]) for name in methods)]
    _check(bundle, networks)
    networks, overrides = _with_overrides(networks, overrides)
    plan = ComparisonPlan(
        bundle,
        score or described["score"],
        tuple(seeds),
        tuple(networks),
        described["network"],
        files,
        overrides,
    )
    _check_paths([bundle, *files])
    _check_keys(plan)
    return plan


def _described(bundle: Path) -> dict[str, Any]:
    path = bundle / "configs" / _PLAN
    if not os.path.lexists(path):
        networks = [
            ComparedNetwork("teacher", "teacher", ("teacher.json",), seeds=1),
            ComparedNetwork("baseline", "baseline", ("baseline.json",)),
            ComparedNetwork("distilled", "student", needs={"teacher_checkpoint": "teacher"}),
        ]
        return {"score": "meanDice", "network": "network_def", "networks": networks}
    raw = read_json(path)
    try:
        networks = [
            ComparedNetwork(name=name, **{**one, "files": tuple(one.get("files", ()))})
            for name, one in raw["networks"].items()
        ]
        described = {"score": raw["score"], "network": raw.get("network", "network_def"), "networks": networks}
        for key in ("score", "network"):
            _expect(isinstance(described[key], str), f"'{key}' is a text", described[key])
        for one in networks:
            _check_kinds(one)
        return described
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"'{path}' describes no comparison ({type(error).__name__}: {error}); expected a 'score' and 'networks', "
            "each with a role and, as it needs them, files, overrides, needs, seeds, evaluates, checkpoint."
        ) from None


def _check_kinds(one: ComparedNetwork) -> None:
    """Raise ``TypeError`` where a network is described by values of other kinds."""
    texts = (one.role, *one.files, *(word for word in (one.evaluates, one.checkpoint) if word is not None))
    _expect(all(isinstance(text, str) for text in texts), f"'{one.name}' has texts as role, files, ...", texts)
    _expect(isinstance(one.overrides, Mapping), f"the overrides of '{one.name}' are by key", one.overrides)
    needs = isinstance(one.needs, Mapping) and all(isinstance(name, str) for name in one.needs.values())
    _expect(needs, f"the needs of '{one.name}' are networks by key", one.needs)
    count = one.seeds is None or (isinstance(one.seeds, int) and one.seeds > 0)
    _expect(count, f"the seeds of '{one.name}' are a number from 1", one.seeds)


def _expect(right: bool, what: str, got: Any) -> None:
    if not right:
        raise TypeError(f"{what}, got {got!r}")


def _method(bundle: Path, name: str, networks: Sequence[ComparedNetwork]) -> ComparedNetwork:
    """A further student; it needs of teachers what the bundle's own students need."""
    known = {path.stem for path in (bundle / "configs").glob("*.json")} - {"metadata", "train", "evaluate", "inference"}
    if name not in known:
        close = get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(known))}."
        raise FileNotFoundError(f"'{bundle}' has no configs/{name}.json; {hint}")
    needs = next((one.needs for one in networks if one.role == "student"), {})
    return ComparedNetwork(name, "student", (f"{name}.json",), needs=needs)


def _with_overrides(
    networks: Sequence[ComparedNetwork], overrides: Mapping[str, Any]
) -> tuple[list[ComparedNetwork], dict[str, Any]]:
    """Overrides of single networks, "name:key", as theirs; the others."""
    common = {key: value for key, value in overrides.items() if _owner(key) is None}
    names = [one.name for one in networks]
    if unknown := sorted({str(_owner(key)) for key in overrides if key not in common} - set(names)):
        raise ValueError(f"overrides are of the networks {unknown}; compared are {', '.join(names)}.")
    own = {
        name: {key.partition(":")[2]: value for key, value in overrides.items() if _owner(key) == name}
        for name in names
    }
    return [replace(one, overrides={**one.overrides, **own[one.name]}) for one in networks], common


def _check_paths(paths: Sequence[Path]) -> None:
    if bad := [str(path) for path in paths if "#" in str(path) or "::" in str(path)]:
        raise ValueError(f"{bad} have '#' or '::', which mean a path of keys in configurations; rename them.")


def _check_keys(plan: ComparisonPlan) -> None:
    """Overrides are of keys that some network's configuration has; what is misspelt would have no effect."""
    problems, common = [], set(plan.overrides)
    for one in plan.networks:
        known = merged_configs(plan.files_of(one, evaluate=True)).get()
        common -= {key for key in common if missing_part(known, key) is None}
        unknown = [part for key in one.overrides if (part := missing_part(known, key)) is not None]
        problems += [f"'{one.name}' has no key '{key}'{_close(key, beside)}" for key, beside in unknown]
    unknown = [part for key in sorted(common) if (part := missing_part(known, key)) is not None]
    problems += [f"no key '{key}'{_close(key, beside)}" for key, beside in unknown]
    if problems:
        raise ValueError(f"overrides of '{plan.bundle.name}': {'; '.join(problems)}.")


def _close(key: str, known: Sequence[str]) -> str:
    guess = did_you_mean(key, known)
    return f" ({guess})" if guess else ""


def _owner(key: str) -> str | None:
    """The network that an override is of; "a::b" is MONAI's way to write a path of keys."""
    found = _OF_NETWORK.match(key)
    return found[1] if found else None


def _check(bundle: Path, networks: Sequence[ComparedNetwork]) -> None:
    names = [one.name for one in networks]
    problems = []
    if len(set(names)) != len(names):
        problems.append(f"networks need different names, got {names}")
    seen: set[str] = set()
    for one in networks:
        if not _NAME.fullmatch(one.name) or one.name in _TAKEN:
            problems.append(f"'{one.name}' names a folder: letters, digits and _ . - alone, and none of {_TAKEN}")
        if one.role not in ROLES:
            problems.append(f"'{one.name}' has the role '{one.role}'; roles are {', '.join(ROLES)}")
        if one.evaluates is not None and one.evaluates not in seen:
            problems.append(f"'{one.name}' evaluates '{one.evaluates}', which is not trained before it")
        problems += [
            f"'{one.name}' needs '{other}', which is not trained before it"
            for other in one.needs.values()
            if other not in seen
        ]
        problems += [
            f"'{one.name}' has no configs/{file}" for file in one.files if not (bundle / "configs" / file).is_file()
        ]
        if one.checkpoint is not None and not (bundle / "models" / one.checkpoint).is_file():
            problems.append(f"'{one.name}' has no models/{one.checkpoint}")
        seen.add(one.name)
    for role in ("teacher", "baseline"):
        if sum(one.role == role for one in networks) > 1:
            problems.append(f"one network is the {role}, got several")
    if not any(one.role == "baseline" for one in networks):
        problems.append("no network is the 'baseline'")
    if not any(one.role == "student" for one in networks):
        problems.append("no network is a 'student'")
    if problems:
        raise ValueError(f"the comparison of '{bundle.name}' cannot be: {'; '.join(problems)}.")
