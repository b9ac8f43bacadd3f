"""Everything that a report shows, as plain JSON."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from monai_kd.metrics import CLASS_SCORES, REGION_SCORES, SLICE_SCORES, classification_scores
from monai_kd.report.case_tables import CaseTable, case_scores
from monai_kd.report.cost import load_costs
from monai_kd.report.probabilities import calibration_error, confusion_of, reliability_of, roc_of
from monai_kd.report.statistics import (
    RESAMPLES,
    Array,
    CaseScores,
    distinct_seeds,
    gap_share,
    over_seeds,
    paired_test,
    seed_difference,
)
from monai_kd.report.study import Network, Run, Study
from monai_kd.report.verdict import shown, verdict

__all__ = ["summarise"]

CALIBRATION = "calibration_error"
_EXTREMES = 5
_CURVES = 18
_COUNTS = ("cases", "images", "classes_present", "test_score")
_COUNTS_OF = ("cases_without_", "both_empty_", "no_distance_", "true_voxels_", "pred_voxels_", "common_voxels_")


def summarise(study: Study, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Statistics, costs, cases, curves and the verdict of a comparison.

    Scores are those of the evaluations. Where some runs lack test cases, they are computed again on the cases that all
    runs have, and a score that cannot be is left out.

    Args:
        study: of :func:`monai_kd.report.study.load_study`.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        Plain data without NaN: ``verdicts``, ``notes``, ``networks`` (scores over seeds, cost), ``comparisons`` (a
        student against the baseline), ``per_class``, ``classification`` (``None`` for a segmentation), ``histories``,
        ``run`` (``study.json``).
    """
    values = {run.name: _scores_of(run, study) for run in study.runs}
    notes = _notes(study, values)
    costs, how = load_costs(study.root) or ({}, "measured after each evaluation, at different times")
    networks = {network.name: _network(network, values, costs, study.root) for network in study.networks}
    comparisons = {student.name: _comparison(study, student, values, seed, resamples) for student in study.students}
    labels = study.runs[0].cases.labels if study.runs[0].cases is not None else None
    return _plain(
        {
            "bundle": study.about.get("bundle", study.root.name),
            "score": study.score,
            "cases": study.runs[0].evaluation.cases if study.runs[0].cases is None else len(study.runs[0].cases.names),
            "verdicts": [
                {
                    "network": name,
                    "sentence": one.pop("verdict"),
                    "shown": one.pop("shown"),
                    "cost": _cheaper(study, name, networks),
                }
                for name, one in comparisons.items()
            ],
            "notes": notes,
            "networks": networks,
            "cost_measured": how,
            "scores": list(_score_names(study, networks)),
            "per_class": _per_class(study, networks),
            "comparisons": comparisons,
            "classification": None if labels is None else _classification(study),
            "curves": _curves(study),
            "histories": {n.name: {str(run.seed): run.history for run in n.runs} for n in study.networks},
            "run": study.about,
            "missing": list(study.missing),
            "left_out": {name: list(runs) for name, runs in study.left_out.items()},
            "absent": list(study.absent),
        }
    )


def _scores_of(run: Run, study: Study) -> dict[str, float]:
    """The scores of a run, on the cases that all runs have.

    A region's Dice that the evaluation lacks, as one by MONAI's MeanDice, is the mean over the cases that have it.
    """
    kept = {name: value for name, value in run.evaluation.scores.items() if not _is_count(name)}
    table = run.cases
    if table is not None:
        kept = {**{f"Dice_{one}": _mean(table.scores[f"Dice_{one}"]) for one in table.regions}, **kept}
    if table is not None and study.left_out:
        kept = _again(table, kept, study.score)
    if table is not None and table.labels is not None and table.probabilities is not None:
        kept[CALIBRATION] = calibration_error(table.labels, table.probabilities)
    return kept


def _again(table: CaseTable, known: dict[str, float], score: str) -> dict[str, float]:
    if table.labels is not None and table.probabilities is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # classes without a picture have a note of their own
            again = classification_scores(table.probabilities, table.labels, table.class_names)
        return {name: value for name, value in again.items() if not _is_count(name) and name in known}
    found = {
        name: _mean(column)
        for name, column in table.scores.items()
        # The best threshold of each picture is not that of all.
        if not _is_count(name) and name in known and not name.startswith("max")
    }
    if regions := [found[f"Dice_{region}"] for region in table.regions if f"Dice_{region}" in found]:
        found.setdefault("meanDice", _mean(np.array(regions)))
    if not math.isfinite(found.get(score, math.nan)):
        raise ValueError(
            f"runs differ in their test cases, and '{score}' cannot be had of those in common; run them again."
        )
    return found


def _mean(column: Array) -> float:
    return math.nan if np.isnan(column).all() else float(np.nanmean(column))


def _score_names(study: Study, networks: dict[str, Any]) -> dict[str, None]:
    """The scores that any network has, in the order of the baseline's."""
    return dict.fromkeys(name for one in (study.baseline.name, *networks) for name in networks[one]["scores"])


def _is_count(name: str) -> bool:
    return name in _COUNTS or name.startswith(_COUNTS_OF)


def _network(
    network: Network, values: dict[str, dict[str, float]], costs: dict[str, Any], root: Path
) -> dict[str, Any]:
    known = list(dict.fromkeys(name for run in network.runs for name in values[run.name]))
    scores = {}
    for name in known:
        by_seed = {run.seed: values[run.name].get(name, math.nan) for run in network.runs}
        finite = [value for value in by_seed.values() if math.isfinite(value)]
        summary = (
            asdict(over_seeds(finite))
            if finite
            else {**dict.fromkeys(("mean", "deviation", "low", "high")), "seeds": 0}
        )
        scores[name] = {**summary, "values": {str(seed): value for seed, value in by_seed.items()}}
    first = network.runs[0]
    cost = asdict(costs.get(network.name, first.evaluation.cost))
    seconds = [float(run.about["seconds"]) for run in network.runs if isinstance(run.about.get("seconds"), int | float)]
    return {
        "role": network.role,
        "seeds": [run.seed for run in network.runs],
        "scores": scores,
        "cost": {
            **cost,
            "input_shape": list(first.evaluation.input_shape),
            "file_bytes": _file_bytes(first, root),
            "run_seconds": float(np.mean(seconds)) if seconds else None,
        },
    }


def _cheaper(study: Study, student: str, networks: dict[str, Any]) -> str:
    """What the student costs beside its teacher, in a sentence; empty without a teacher."""
    if study.teacher is None:
        return ""
    mine, theirs = networks[student]["cost"], networks[study.teacher.name]["cost"]
    shares = {
        what: mine[key] / theirs[key]
        for key, what in (
            ("parameters", "of the teacher's parameters"),
            ("gmac", "of its multiply-accumulates"),
            ("peak_bytes", "of its peak memory"),
            ("milliseconds", "of its time"),
        )
        if mine.get(key) is not None and theirs.get(key)
    }
    if len(shares) < 2:
        return ""
    if all(0.95 < share < 1.05 for share in shares.values()):
        return "The student costs as much to run as its teacher."
    *parts, last = (f"{_share(share)} {what}" for what, share in shares.items())
    return f"The student needs {', '.join(parts)} and {last}."


def _share(value: float) -> str:
    return f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"


def _file_bytes(run: Run, root: Path) -> int | None:
    """Size of the run's weights: the file that ``run.json`` names, the network's own, or the only one."""
    folder = run.folder / "models"
    named = [root / str(run.about["checkpoint"])] if run.about.get("checkpoint") else []
    every = list(folder.glob("*.pt"))
    paths = [*named, folder / f"{run.network}.pt", folder / "model.pt", *(every if len(every) == 1 else [])]
    return next((path.stat().st_size for path in paths if path.is_file()), None)


def _comparison(
    study: Study, student: Network, values: dict[str, dict[str, float]], seed: int, resamples: int
) -> dict[str, Any]:
    """A student against the baseline: over seeds, over cases, and the share of the gap."""
    score = study.score
    alone, distilled = ([values[run.name][score] for run in one.runs] for one in (study.baseline, student))
    seeds = seed_difference(alone, distilled)
    count = min(distinct_seeds(alone), distinct_seeds(distilled))
    of = {network.name: case_scores([run.cases for run in network.runs], score) for network in study.networks}
    low, middle = of[study.baseline.name], of[student.name]
    high = None if study.teacher is None else of[study.teacher.name]
    cases = share = None
    if low is not None and middle is not None:
        cases = paired_test(low, middle, seed, resamples)
        if high is not None:
            share = gap_share(low, middle, high, seed, resamples)
    return {
        "verdict": verdict(score, seeds, cases, share, count),
        "shown": shown(seeds, cases, count),
        "seeds": asdict(seeds),
        "cases": None if cases is None else asdict(cases),
        "share": None if share is None else asdict(share),
        **_case_by_case(study, student, of),
    }


def _case_by_case(study: Study, student: Network, of: dict[str, CaseScores | None]) -> dict[str, Any]:
    """Every case's scores, mean over seeds, and those that gained and lost most.

    Classified pictures are ranked by the probability of their true class, which moves more finely than "was it right?".
    """
    baseline, distilled = of[study.baseline.name], of[student.name]
    tables = [run.cases for run in study.runs]
    if baseline is None or distilled is None or tables[0] is None:
        return {"by_case": [], "gained": [], "lost": []}
    columns = {name: _over_seeds(one.values) for name, one in of.items() if one is not None}
    ranked = columns
    if tables[0].labels is not None:
        ranked = {n.name: _over_seeds(np.stack([_of_truth(run) for run in n.runs])) for n in study.networks}
    differences = ranked[student.name] - ranked[study.baseline.name]
    rows = []
    for index, name in enumerate(tables[0].names):
        row: dict[str, Any] = {"case": name, "scores": {key: column[index] for key, column in columns.items()}}
        if tables[0].labels is not None:
            row["class"] = tables[0].class_names[tables[0].labels[index]]
            row["probability_of_truth"] = {key: column[index] for key, column in ranked.items()}
        rows.append({**row, "difference": differences[index]})
    known = [index for index in np.argsort(differences, kind="stable").tolist() if not math.isnan(differences[index])]
    return {
        "by_case": rows,
        "gained": [tables[0].names[i] for i in reversed(known) if differences[i] > 1e-12][:_EXTREMES],
        "lost": [tables[0].names[i] for i in known if differences[i] < -1e-12][:_EXTREMES],
    }


def _of_truth(run: Run) -> Array:
    table = run.cases
    if table is None or table.labels is None or table.probabilities is None:
        raise ValueError(f"'{run.name}' has no predictions.")
    return np.asarray(table.probabilities[np.arange(len(table.labels)), table.labels])


def _over_seeds(values: Array) -> Array:
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    return np.divide(np.nansum(values, axis=0), count, out=np.full(values.shape[1], np.nan), where=count > 0)


def _per_class(study: Study, networks: dict[str, Any]) -> dict[str, Any]:
    """Names of the classes or regions, and of the scores that each of them has: ``kinds[kind][class]``."""
    table = study.runs[0].cases
    classes: Sequence[str] = ()
    templates: Sequence[str] = ()
    if table is not None:
        classes = table.class_names or table.regions
        templates = _of_classes() if table.class_names else [*REGION_SCORES, *SLICE_SCORES]
    known = _score_names(study, networks)
    kinds = {}
    for template in templates:
        names = {one: _of_class(template, one) for one in classes}
        if found := {one: name for one, name in names.items() if name in known}:
            kinds[template.replace("_{}", "")] = found
    return {"classes": list(classes), "kinds": kinds}


def _of_classes() -> list[str]:
    return [f"{kind}_{{}}" for kind in CLASS_SCORES]


def _of_class(template: str, name: str) -> str:
    """By hand: the name of a class may have braces."""
    return template.replace("{}", name)


def _curves(study: Study) -> list[str]:
    """What is drawn over the epochs: losses and terms, then the overall validation scores, the comparison's first."""
    columns = dict.fromkeys(column for run in study.runs for column in run.history)
    table = study.runs[0].cases
    classes = () if table is None else table.class_names or table.regions
    kinds = [*REGION_SCORES, *SLICE_SCORES, "globalDice_{}", *_of_classes()]
    of_classes = {_of_class(kind, name) for kind in kinds for name in classes}
    scores = {name for run in study.runs for name in run.evaluation.scores}
    shown = [c for c in columns if c != "epoch" and not _is_count(c) and c not in of_classes]
    return sorted(shown, key=lambda column: (column in scores, column != study.score))[:_CURVES]


def _classification(study: Study) -> dict[str, Any]:
    found: dict[str, Any] = {"confusion": {}, "roc": {}, "reliability": {}}
    class_names: tuple[str, ...] = ()
    for network in study.networks:
        tables = [run.cases for run in network.runs if run.cases is not None]
        labels, probabilities = tables[0].labels, [t.probabilities for t in tables if t.probabilities is not None]
        if labels is None:
            continue
        class_names = tables[0].class_names
        found["confusion"][network.name] = confusion_of(labels, probabilities)
        curves = roc_of(labels, probabilities)
        found["roc"][network.name] = {class_names[index]: curve for index, curve in curves.items()}
        found["reliability"][network.name] = reliability_of(labels, probabilities)
    return {"class_names": list(class_names), **found}


def _notes(study: Study, values: dict[str, dict[str, float]]) -> list[str]:
    """What a reader must know of the runs and the cases."""
    notes = []
    if study.missing:
        notes.append(f"Not finished and not counted: {', '.join(study.missing)}.")
    if study.left_out:
        names = [f"{case} (not in {', '.join(runs)})" for case, runs in list(study.left_out.items())[:10]]
        more = f" and {len(study.left_out) - 10} more" if len(study.left_out) > 10 else ""
        notes.append(
            "Test cases that some runs lack are left out, and scores computed again without them: "
            f"{', '.join(names)}{more}."
        )
    if unlabelled := max((run.cases.unlabelled for run in study.runs if run.cases is not None), default=0):
        notes.append(f"{_pictures(unlabelled)} without a true class: left out of the statistics over cases.")
    for network in study.networks:
        if len(network.runs) > 1 and distinct_seeds([values[run.name][study.score] for run in network.runs]) == 1:
            notes.append(
                f"All {len(network.runs)} seeds of '{network.name}' have the same {study.score}, so they count as one "
                "seed; does the bundle use its seed?"
            )
    if study.absent:
        notes.append(f"No test case has: {', '.join(study.absent)}. It counts in no mean.")
    tables = [run.cases for run in study.runs]
    scored = [None if table is None else table.of_score(study.score) for table in tables]
    if any(row is None for row in scored):
        notes.append(
            f"{study.score} is not a score of single cases here, so there is no test over cases and no share of the "
            "gap."
        )
    elif lost := sum(bool(np.isnan(row).any()) for row in zip(*[one for one in scored if one is not None])):
        notes.append(f"{lost} test cases have no {study.score} in one run at least; they are compared where they have.")
    if not any(row is None for row in scored) and (off := _off(study, values)) > 1e-4:
        notes.append(
            f"The mean over cases of {study.score} is not its value over the whole test set (up to {off:.4f} apart): a "
            "case without one of the regions, or a score that is no mean. Tests over cases speak of the former."
        )
    return notes


def _pictures(number: int) -> str:
    return "1 test picture is" if number == 1 else f"{number} test pictures are"


def _off(study: Study, values: dict[str, dict[str, float]]) -> float:
    """Largest distance of a run's score from the mean of its cases' scores."""
    distances = []
    for run in study.runs:
        scores = case_scores([run.cases], study.score)
        if scores is not None:
            distances.append(abs(float(scores.means()[0]) - values[run.name][study.score]))
    return max(distances, default=0.0)


def _plain(value: Any) -> Any:
    """Numbers of numpy as those of Python, and ``None`` for NaN and infinity, which JSON has not."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
