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
from monai_kd.report.cost import Cost, network_cost

__all__ = ["Evaluation", "load_evaluations", "save_evaluation"]

_SUFFIX = ".evaluation.json"


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
    """
    found = {}
    for path in sorted(Path(directory).rglob(f"*{_SUFFIX}")):
        raw = json.loads(path.read_text(encoding="utf-8"))
        shape = tuple(raw.pop("input_shape"))
        scores = {key: math.nan if value is None else value for key, value in raw["scores"].items()}
        found[raw["name"]] = Evaluation(**{**raw, "scores": scores, "cost": Cost(**raw["cost"])}, input_shape=shape)
    if not found:
        raise FileNotFoundError(f"no *{_SUFFIX} below '{directory}'; run the bundle's evaluate.json first.")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or getattr(value, "ndim", None) == 0
