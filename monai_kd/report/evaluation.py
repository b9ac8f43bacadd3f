"""The result of one evaluated network, stored where a report finds it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from monai_kd._files import write_whole
from monai_kd.report._stored import expect, is_count, is_number, measured, read_object
from monai_kd.report.cost import Cost, network_cost

__all__ = ["Evaluation", "load_evaluations", "save_evaluation"]

_SUFFIX = ".evaluation.json"
_KEYS = {"name", "scores", "cases", "cost", "input_shape"}


@dataclass(frozen=True)
class Evaluation:
    """Scores and cost of one network on one test split."""

    name: str
    scores: dict[str, float]
    cases: int
    cost: Cost
    input_shape: tuple[int, ...]


def save_evaluation(
    directory: str | Path,
    name: str,
    metrics: Mapping[str, Any],
    cases: int,
    network: nn.Module | Sequence[nn.Module],
    input_shape: Sequence[int],
) -> Path:
    """Measure the cost of ``network`` and write it with its scores to ``<directory>/<name>.evaluation.json``.

    Args:
        directory: made if it does not exist.
        name: of the row in a report ("teacher", "baseline", "distilled", ...).
        metrics: ``evaluator.state.metrics``; numbers are kept. NaN is a score that no case has, such as the distance to
            a tumour that was never predicted; ``null`` in the file.
        cases: number of test cases behind them.
        network: the network that was evaluated, or all of an ensemble, whose costs are added.
        input_shape: one input of it, (B, C, *spatial), B = 1 for the time of one case.

    Raises:
        ValueError: no number among the metrics, none but NaN, or an infinite one.
    """
    scores = {key: float(value) for key, value in metrics.items() if _is_number(value)}
    if not scores:
        raise ValueError(f"no numbers among the metrics of '{name}': {sorted(metrics)}.")
    lost = [key for key, value in scores.items() if not math.isfinite(value)]
    if len(lost) == len(scores) or any(math.isinf(scores[key]) for key in lost):
        raise ValueError(f"the metrics {lost} of '{name}' are not finite; was the test split empty?")
    result = Evaluation(name, scores, cases, network_cost(network, input_shape), tuple(input_shape))
    path = Path(directory) / f"{name}{_SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = asdict(result)
    raw["scores"] = {key: None if math.isnan(value) else value for key, value in scores.items()}
    write_whole(path, json.dumps(raw, indent=2, allow_nan=False) + "\n")
    return path


def load_evaluations(directory: str | Path) -> dict[str, Evaluation]:
    """All evaluations below ``directory`` by name.

    Raises:
        FileNotFoundError: none is there.
        ValueError: one cannot be read, or is not as :func:`save_evaluation` writes it.
    """
    every = (_read(path) for path in sorted(Path(directory).rglob(f"*{_SUFFIX}")))
    found = {one.name: one for one in every}
    if not found:
        raise FileNotFoundError(f"no *{_SUFFIX} below '{directory}'; run the bundle's evaluate.json first.")
    return found


def _read(path: Path) -> Evaluation:
    raw = read_object(path)
    expect(raw.keys() == _KEYS, path, f"it has {', '.join(sorted(_KEYS))}", sorted(raw))
    expect(_is_name(raw["name"]), path, "'name' is a file's name", raw["name"])
    scores, shape = raw["scores"], raw["input_shape"]
    right = isinstance(scores, dict) and scores and all(one is None or is_number(one) for one in scores.values())
    expect(right, path, "'scores' are numbers by name, null for none", scores)
    expect(is_count(raw["cases"]), path, "'cases' is a whole number from 0", raw["cases"])
    right = isinstance(shape, list) and len(shape) > 1 and all(is_count(size) and size > 0 for size in shape)
    expect(right, path, "'input_shape' has whole numbers from 1", shape)
    known = {key: math.nan if value is None else float(value) for key, value in scores.items()}
    cost = measured(Cost, raw["cost"], path, "'cost'")
    return Evaluation(raw["name"], known, raw["cases"], cost, tuple(shape))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and not set(value) & set("/\\\0")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or getattr(value, "ndim", None) == 0
