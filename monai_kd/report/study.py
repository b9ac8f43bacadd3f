"""The folder of a comparison, read: its runs with their scores, cases and histories."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from monai_kd.report._stored import expect, read_object, read_rows
from monai_kd.report.case_tables import CaseTable, read_cases
from monai_kd.report.evaluation import Evaluation, load_evaluations

__all__ = ["Network", "Run", "Study", "load_study"]

ROLES = ("teacher", "auxiliary", "baseline", "student")
_ERROR = re.compile(
    "(val_|test_|mean_?)*(mae|mse|rmse|assd|hd95|hausdorff|surface_?distance|volume_error|slice(voe|rvd)_)|.*(loss|error)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Run:
    """One finished run: its evaluation, the scores of its test cases and the course of its training.

    ``history`` has a column a loss or validation score, ``None`` in epochs that have none. ``cases`` are those that
    all runs share, in one order.
    """

    network: str
    seed: int
    folder: Path
    evaluation: Evaluation
    cases: CaseTable | None
    history: dict[str, list[float | None]]
    about: dict[str, Any]

    @property
    def name(self) -> str:
        """``<network>/seed_<n>``, as in the folder."""
        return f"{self.network}/seed_{self.seed}"


@dataclass(frozen=True)
class Network:
    """A kind of network and its finished runs, by seed."""

    name: str
    role: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Study:
    """A comparison: the teacher first, then further teachers ("auxiliary"), the baseline and the students.

    Args:
        root: the folder.
        about: what ``study.json`` says.
        score: in which the networks are compared, higher is better.
        networks: those with a finished run.
        missing: runs that were planned and are not finished.
        left_out: test cases that only some runs have, each with the runs that lack it.
        absent: classes or regions that no test case has.
    """

    root: Path
    about: dict[str, Any]
    score: str
    networks: tuple[Network, ...]
    missing: tuple[str, ...]
    left_out: dict[str, tuple[str, ...]]
    absent: tuple[str, ...]

    @property
    def teacher(self) -> Network | None:
        """The teacher, where one was run."""
        return next((network for network in self.networks if network.role == "teacher"), None)

    @property
    def baseline(self) -> Network:
        """The student trained alone."""
        return next(network for network in self.networks if network.role == "baseline")

    @property
    def students(self) -> tuple[Network, ...]:
        """The distilled ones."""
        return tuple(network for network in self.networks if network.role == "student")

    @property
    def runs(self) -> tuple[Run, ...]:
        """All finished runs."""
        return tuple(run for network in self.networks for run in network.runs)


def load_study(root: str | Path) -> Study:
    """Read a comparison.

    A run counts when its ``run.json``, which is written last, is there. Networks are compared on the test cases that
    all runs have.

    Args:
        root: folder with ``study.json`` and ``<network>/seed_<n>/``.

    Raises:
        FileNotFoundError: no ``study.json``, no finished run at all, of the baseline or of a student, or a finished run
            without its evaluation.
        ValueError: a file that cannot be read, networks without exactly one baseline, a score that a run lacks, that is
            no number or better when lower, or runs of other classes, of other regions or without a case in common.
    """
    root = Path(root)
    about = _read_json(root / "study.json", "give the folder that a comparison was written to")
    if missing_keys := [key for key in ("score", "seeds", "networks") if key not in about]:
        raise ValueError(f"'{root / 'study.json'}' has no {missing_keys}; it has {sorted(about)}.")
    _check_about(root / "study.json", about)
    score = str(about["score"])
    if _ERROR.match(score):
        raise ValueError(
            f"'{root / 'study.json'}': '{score}' is an error, lower is better; networks are compared in a score such "
            "as a Dice."
        )
    roles = _roles(about["networks"])
    networks, missing = [], []
    for name, role in sorted(roles.items(), key=lambda item: ROLES.index(item[1])):
        finished, unfinished = _runs(root, name, about)
        missing += unfinished
        if finished:
            networks.append(Network(name, role, finished))
    if not networks:
        raise FileNotFoundError(f"no finished run below '{root}'; unfinished: {', '.join(missing) or 'none begun'}.")
    for role in ("baseline", "student"):
        if role not in {network.role for network in networks}:
            raise FileNotFoundError(f"no finished run of a {role} below '{root}'; unfinished: {', '.join(missing)}.")
    for run in (run for network in networks for run in network.runs):
        _check_score(run, score)
    networks, left_out = _align(networks)
    return Study(root, about, score, tuple(networks), tuple(missing), left_out, _absent(networks))


def _check_about(path: Path, about: Mapping[str, Any]) -> None:
    expect(isinstance(about["score"], str), path, "'score' is a name", about["score"])
    networks = about["networks"]
    right = isinstance(networks, Mapping) and all(isinstance(one, Mapping) for one in networks.values())
    expect(right, path, "'networks' are objects by name", networks)
    outside = [name for name in networks if Path(name).name != name]
    expect(not outside, path, "the name of a network is that of its folder", outside)


def _roles(networks: Mapping[str, Any]) -> dict[str, str]:
    roles = {name: str(one.get("role")) for name, one in networks.items()}
    if unknown := {name: role for name, role in roles.items() if role not in ROLES}:
        raise ValueError(f"roles are {', '.join(ROLES)}; study.json has {unknown}.")
    count = {role: list(roles.values()).count(role) for role in ROLES}
    if count["teacher"] > 1 or count["baseline"] != 1 or count["student"] < 1:
        raise ValueError(f"expected one baseline, students and at most one teacher; study.json has {roles}.")
    return roles


def _runs(root: Path, name: str, about: Mapping[str, Any]) -> tuple[tuple[Run, ...], list[str]]:
    """Finished runs of a network, and the names of those that are not."""
    own = about["networks"][name].get("seeds", about["seeds"])
    if not isinstance(own, list) or not all(isinstance(seed, int) for seed in own):
        raise ValueError(f"the seeds of '{name}' are a list of whole numbers; study.json has {own!r}.")
    there = {int(path.name[5:]) for path in (root / name).glob("seed_*") if path.name[5:].isdigit()}
    finished = {seed for seed in there if (root / name / f"seed_{seed}" / "run.json").is_file()}
    missing = sorted((set(own) | there) - finished)
    return tuple(_read_run(root, name, seed) for seed in sorted(finished)), [f"{name}/seed_{seed}" for seed in missing]


def _read_run(root: Path, name: str, seed: int) -> Run:
    folder = root / name / f"seed_{seed}"
    about = _read_json(folder / "run.json", "")
    # Only the run's own files: other evaluations may lie in folders below.
    if not list(folder.glob("*.evaluation.json")):
        raise FileNotFoundError(f"the run '{folder}' is finished, but has no *.evaluation.json.")
    evaluations = load_evaluations(folder)
    evaluation = evaluations.get(name) or next(iter(evaluations.values()))
    return Run(
        name, seed, folder, evaluation, read_cases(folder, name), _history(folder / f"{name}.history.csv"), about
    )


def _check_score(run: Run, score: str) -> None:
    scores = run.evaluation.scores
    if score not in scores:
        raise ValueError(f"'{run.name}' has no score '{score}'; it has {', '.join(sorted(scores))}.")
    if not math.isfinite(scores[score]):
        raise ValueError(f"the {score} of '{run.name}' is not a number: no test case has it.")


def _align(networks: list[Network]) -> tuple[list[Network], dict[str, tuple[str, ...]]]:
    """All runs on the cases that they share; the others by name, with the runs that lack them."""
    runs = [run for network in networks for run in network.runs]
    tables = [run.cases for run in runs if run.cases is not None]
    if len(tables) < len(runs):
        return [replace(n, runs=tuple(replace(run, cases=None) for run in n.runs)) for n in networks], {}
    for run, table in zip(runs, tables):
        if table.class_names != tables[0].class_names:
            raise ValueError(
                f"'{run.name}' has the classes {table.class_names}, '{runs[0].name}' {tables[0].class_names}."
            )
        if set(table.regions) != set(tables[0].regions):
            raise ValueError(f"'{run.name}' has the regions {table.regions}, '{runs[0].name}' {tables[0].regions}.")
    every = dict.fromkeys(name for table in tables for name in table.names)
    sets = [set(table.names) for table in tables]
    lacking = {name: tuple(run.name for run, known in zip(runs, sets) if name not in known) for name in every}
    shared = [name for name, lackers in lacking.items() if not lackers]
    if not shared:
        raise ValueError(
            f"the runs have no test case in common; were {', '.join(run.name for run in runs)} evaluated on "
            "one test split?"
        )
    aligned = {run.name: table.take(shared) for run, table in zip(runs, tables)}
    first = aligned[runs[0].name]
    for run in runs:
        other = aligned[run.name]
        if first.labels is not None and other.labels is not None and (differ := first.labels != other.labels).any():
            case = shared[int(np.argmax(differ))]
            raise ValueError(f"the true class of '{case}' in '{run.name}' is not that in '{runs[0].name}'.")
    networks = [replace(n, runs=tuple(replace(run, cases=aligned[run.name]) for run in n.runs)) for n in networks]
    return networks, {name: lackers for name, lackers in lacking.items() if lackers}


def _absent(networks: Iterable[Network]) -> tuple[str, ...]:
    tables = [run.cases for network in networks for run in network.runs if run.cases is not None]
    return tables[0].absent(tables) if tables else ()


def _history(path: Path) -> dict[str, list[float | None]]:
    if not os.path.lexists(path):
        return {}
    head, *rows = [row for row in read_rows(path) if row] or [[]]
    try:
        return {name: list(map(_number, column)) for name, *column in zip(head, *rows, strict=True) if rows and name}
    except ValueError as error:
        raise ValueError(f"'{path}' cannot be read: {error}.") from None


def _number(text: str) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None


def _read_json(path: Path, advice: str) -> dict[str, Any]:
    if not os.path.lexists(path):
        raise FileNotFoundError(f"no '{path}'; {advice}.")
    return read_object(path)
