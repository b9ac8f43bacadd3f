"""Runs a comparison stage by stage; what is finished is kept, what was interrupted goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle.config_parser import ConfigParser

from monai_kd._bundle_scripts import importable
from monai_kd._files import write_whole
from monai_kd.compare.costs import measure_costs
from monai_kd.compare.describe import describe, differences, made_with, surroundings
from monai_kd.compare.plan import ComparedNetwork, ComparisonPlan
from monai_kd.compare.process import LOCK, locked, run_process
from monai_kd.compare.recipe import data_of, recipe
from monai_kd.report.cost import COSTS
from monai_kd.report.evaluation import load_evaluations

__all__ = ["Stage", "StageError", "check_folder", "compare"]

STUDY, TRAINED, DONE = "study.json", "trained.json", "run.json"
CHECKPOINT, MASKS, CACHE = "model.pt", "masks", "cache"
RUNNER = (sys.executable, "-m", "monai.bundle", "run")
_EPOCH = re.compile(r"Epoch: (\d+)/(\d+)")
_SHOWN_LINES = 15


class StageError(RuntimeError):
    """A training or an evaluation of a comparison that failed; what is finished is kept."""


@dataclass(frozen=True)
class Stage:
    """One network with one seed: its training and its evaluation."""

    network: ComparedNetwork
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """What the progress calls it."""
        return f"{self.network.name}, seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether its last file is there."""
        return (self.folder / DONE).is_file()


Progress = Callable[[Stage, str, float], None]


def compare(plan: ComparisonPlan, output: str | Path, command: str = "", progress: Progress | None = None) -> Path:
    """Train and evaluate what is not finished yet.

    Every run is a process of its own, ``python -m monai.bundle run --args_file ...``; its arguments and its log lie in
    its folder, ``<output>/<network>/seed_<n>/``. A training that was interrupted is resumed where the bundle can do
    that, and begins anew otherwise. All share one cache of volumes, which is removed in the end, when the
    networks have been timed in turns (``cost.json``).

    Args:
        plan: what is compared.
        output: the comparison's folder; made if it does not exist. One that holds the same comparison goes on, also
            with seeds and networks added to it.
        command: that repeats it, for the report.
        progress: called with the stage, "training" or "evaluation" or "finished", and the share that is done.

    Returns:
        ``output``.

    Raises:
        ValueError: the folder holds another comparison, or cannot hold one; the evaluation has not the score.
        BlockingIOError: another process works in the folder.
        StageError: a run failed; its log's end is in the message.
    """
    output = Path(output).resolve()
    check_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    with locked(output) as lock:
        _begin(plan, output, command)
        for stage in stages(plan, output):
            if not stage.finished:
                _run_stage(plan, stage, output, lock, progress or (lambda *_: None))
        if not (output / COSTS).is_file():
            _measure(plan, output)
        shutil.rmtree(output / CACHE, ignore_errors=True)
    return output


def stages(plan: ComparisonPlan, output: Path) -> list[Stage]:
    """All stages, in their order."""
    return [
        Stage(network, seed, output / network.name / f"seed_{seed}")
        for network in plan.networks
        for seed in plan.seeds_of(network)
    ]


def check_folder(output: Path) -> None:
    """See that a comparison can lie, or lies, in a folder.

    Raises:
        ValueError: it cannot.
    """
    if "#" in str(output) or "::" in str(output):
        raise ValueError(
            f"'{output}' has '#' or '::', which mean a path of keys in configurations; give another folder."
        )
    if output.exists() and not output.is_dir():
        raise ValueError(f"'{output}' is no folder.")
    if output.exists() and not (output / STUDY).is_file() and any(path.name != LOCK for path in output.iterdir()):
        raise ValueError(f"'{output}' is not empty and holds no comparison; give an empty or new folder.")


def _begin(plan: ComparisonPlan, output: Path, command: str) -> None:
    """Write ``study.json``, or see that the one there is of the same comparison, or of one that grows to it."""
    path = output / STUDY
    described = describe(plan)
    if not path.is_file():
        study = {**described, **surroundings(plan.bundle), "command": command, "data": _data(plan, output)}
        write_whole(path, json.dumps(study, indent=2) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' cannot be read ({error}); give another folder.") from None
    if changed := differences(before, described):
        raise ValueError(
            f"'{output}' holds another comparison: {', '.join(changed)} differ. Repeat its own command to go on with "
            "it, add seeds or networks to it, or give another folder."
        )
    if any(before.get(key) != value for key, value in described.items()):
        if list(before["networks"]) != list(described["networks"]):
            (output / COSTS).unlink(missing_ok=True)
        write_whole(path, json.dumps({**before, **described, "command": command}, indent=2) + "\n")


def _data(plan: ComparisonPlan, output: Path) -> dict[str, Any]:
    """Of the first student, and of networks that are trained on other data."""
    student = next(one for one in plan.networks if one.role == "student")

    def of(network: ComparedNetwork, evaluate: bool = False) -> ConfigParser:
        stage = Stage(network, plan.seeds_of(network)[0], output / network.name)
        return recipe(_arguments(plan, stage, output, evaluate))

    with importable(plan.bundle):
        others = {one.name: of(one) for one in plan.networks if one.trained and one is not student}
        return data_of(of(student), of(student, evaluate=True), others)


def _measure(plan: ComparisonPlan, output: Path) -> None:
    firsts = {stage.network.name: stage for stage in reversed(stages(plan, output))}
    with importable(plan.bundle):
        recipes = {name: recipe(_arguments(plan, firsts[name], output, evaluate=True)) for name in reversed(firsts)}
        measure_costs(output, recipes, {name: stage.folder for name, stage in firsts.items()}, plan.network_key)


def _run_stage(plan: ComparisonPlan, stage: Stage, output: Path, lock: int, progress: Progress) -> None:
    start, spent = time.monotonic(), 0.0
    if stage.network.trained and not (stage.folder / TRAINED).is_file():
        resume = any(any(stage.folder.glob(f"models/*_resume.pt{end}")) for end in ("", ".previous"))
        if not resume:
            shutil.rmtree(stage.folder, ignore_errors=True)
        stage.folder.mkdir(parents=True, exist_ok=True)
        arguments = _arguments(plan, stage, output, evaluate=False)
        arguments |= _folders(recipe(arguments), arguments, {"cache_dir": output / CACHE})
        if resume:
            arguments["resume"] = True
        _call(stage, "training", arguments, lock, progress)
        write_whole(stage.folder / TRAINED, json.dumps({"seconds": round(time.monotonic() - start, 1)}) + "\n")
    elif stage.network.trained:
        spent = json.loads((stage.folder / TRAINED).read_text(encoding="utf-8"))["seconds"]
    stage.folder.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(plan, stage, output, evaluate=True)
    with importable(plan.bundle):
        parser = recipe(arguments)
        file = str(parser.get_parsed_content("checkpoint")) if "checkpoint" in parser else CHECKPOINT
    arguments |= _folders(parser, arguments, {"cache_dir": output / CACHE, "masks_dir": stage.folder / MASKS})
    _call(stage, "evaluation", arguments, lock, progress)
    for path in stage.folder.glob("models/*_resume.pt*"):
        path.unlink()
    _check_score(plan, stage)
    checkpoint = Path(os.path.relpath(Path(arguments["ckpt_dir"]) / file, output)).as_posix()
    done = {
        "network": stage.network.name,
        "seed": stage.seed,
        "seconds": round(spent + time.monotonic() - start, 1),
        "checkpoint": checkpoint,
        **made_with(plan.bundle),
    }
    write_whole(stage.folder / DONE, json.dumps(done, indent=2) + "\n")
    progress(stage, "finished", 1.0)


def _arguments(plan: ComparisonPlan, stage: Stage, output: Path, evaluate: bool) -> dict[str, Any]:
    """Of ``monai.bundle run``: the user's overrides, then the network's, then the comparison's own."""
    network, folder = stage.network, stage.folder
    arguments: dict[str, Any] = {
        "config_file": [str(path) for path in plan.files_of(network, evaluate)],
        "meta_file": str(plan.bundle / "configs" / "metadata.json"),
        "bundle_root": str(plan.bundle),
        **plan.overrides,
        **network.overrides,
        "seed": stage.seed,
        "run_name": network.name,
        "output_dir": str(folder),
    }
    if network.checkpoint is not None:
        arguments |= {"ckpt_dir": str(plan.bundle / "models"), "checkpoint": network.checkpoint}
    elif network.evaluates is not None:
        arguments["ckpt_dir"] = str(_models(output, network.evaluates, stage.seed))
    else:
        arguments |= {"ckpt_dir": str(_models(output, network.name, stage.seed)), "checkpoint": CHECKPOINT}
    if (logging := plan.bundle / "configs" / "logging.conf").is_file():
        arguments["logging_file"] = str(logging)
    for key, name in network.needs.items():
        needed = plan.network(name).checkpoint
        models = _models(output, name, plan.partner_seed(name, stage.seed))
        arguments[key] = str(models / CHECKPOINT if needed is None else plan.bundle / "models" / needed)
    return arguments


def _folders(parser: ConfigParser, arguments: Mapping[str, Any], folders: Mapping[str, Path]) -> dict[str, str]:
    """Of these folders those that the bundle has a key for and the user has not set."""
    return {key: str(path) for key, path in folders.items() if key in parser and key not in arguments}


def _models(output: Path, name: str, seed: int) -> Path:
    return output / name / f"seed_{seed}" / "models"


def _call(stage: Stage, what: str, arguments: dict[str, Any], lock: int, progress: Progress) -> None:
    """Run it as a process of its own, its output in a log."""
    file, log = stage.folder / f"{what}.json", stage.folder / f"{what}.log"
    write_whole(file, json.dumps(arguments, indent=2) + "\n")
    progress(stage, what, 0.0)

    def watch(line: str) -> None:
        if what == "training" and (found := _EPOCH.search(line)):
            progress(stage, what, (int(found[1]) - 1) / int(found[2]))

    if status := run_process([*RUNNER, "--args_file", str(file)], log, lock, watch):
        end = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-_SHOWN_LINES:])
        raise StageError(
            f"the {what} of {stage.name} ended with status {status}. The end of '{log}':\n{end}\n"
            "Mend the cause and repeat the command: what is finished is kept."
        )


def _check_score(plan: ComparisonPlan, stage: Stage) -> None:
    """At the first evaluation, and not when all trainings are done."""
    scores = load_evaluations(stage.folder)[stage.network.name].scores
    if plan.score not in scores:
        raise ValueError(
            f"the evaluation of {stage.name} has no score '{plan.score}'; it has {', '.join(sorted(scores))}. Repeat "
            "the command with one of these as the score: what is finished is kept."
        )
