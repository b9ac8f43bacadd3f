"""Accuracy of an exported network on a bundle's validation cases, before and after quantisation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from monai.data.dataloader import DataLoader
from monai.data.dataset import Dataset
from monai.engines.evaluator import SupervisedEvaluator
from monai.inferers.inferer import SlidingWindowInferer
from torch import Tensor, nn

from monai_kd._bundle_scripts import importable
from monai_kd.errors import root_cause
from monai_kd.export.cases import NoCases, Sample, open_cases
from monai_kd.export.documents import Answer
from monai_kd.export.student_bundle import StudentBundle

__all__ = ["Accuracy", "AccuracyError", "compare_accuracy"]

AGREEMENT = "agreement"


class AccuracyError(ValueError):
    """A quantised network loses more accuracy than was allowed."""


@dataclass(frozen=True)
class Accuracy:
    """A score of two networks on the same validation cases.

    Attributes:
        score: the bundle's own, or "agreement": the share of images that get the same label, or of the positions that
            either network calls foreground.
        reason: why the bundle's own was not used, or ``None``.
        cases: how many.
        before: of the float32 network.
        after: of the exported one.
        max_drop: the most that ``before - after`` may be.
    """

    score: str
    reason: str | None
    cases: int
    before: float
    after: float
    max_drop: float

    @property
    def drop(self) -> float:
        """What is lost; negative if the exported network is better."""
        return self.before - self.after

    def as_json(self) -> dict[str, Any]:
        """As ``export.json`` holds it."""
        return {**asdict(self), "drop": self.drop}

    def __str__(self) -> str:
        return (
            f"{self.score} on {self.cases} validation cases: f32 {self.before:.4f}, exported {self.after:.4f}, "
            f"drop {self.drop:+.4f} (at most {self.max_drop:g})"
        )


def compare_accuracy(
    student: StudentBundle, before: Answer, after: Answer, cases: int, max_drop: float, samples: Sequence[Sample]
) -> Accuracy:
    """Score two forms of a bundle's network by the bundle's own validation: inferer, post-processing, key metric.

    Where the bundle has no such score, the labels of both forms are compared.

    Args:
        student: the bundle.
        before: the network in float32.
        after: the exported one.
        cases: how many validation cases to take, spread over their list.
        max_drop: the most that the score may be lower.
        samples: inputs for the comparison of labels.

    Raises:
        AccuracyError: the score is lower by more than that, or is no number.
    """
    try:
        name, first, count = _score(student, before, cases)
    except NoCases as error:
        shares = [_agreement(before(sample.image.numpy()), after(sample.image.numpy())) for sample in samples]
        if not shares:
            raise AccuracyError(f"int8 is not exported unseen: {error}") from error
        found = Accuracy(AGREEMENT, str(error), len(shares), 1.0, float(np.mean(shares)), max_drop)
    else:
        try:
            _, second, _ = _score(student, after, cases)
        except NoCases as error:
            raise AccuracyError(f"int8 has no score beside {name} {first:.4f} of f32: {error}") from error
        found = Accuracy(name, None, count, first, second, max_drop)
    if not found.drop <= max_drop:
        raise AccuracyError(
            f"int8 loses too much: {found}. Calibrate with more cases, allow more with max_drop, or export in bf16. "
            "Nothing was written."
        )
    return found


class _Exported(nn.Module):
    """What an evaluator and an inferer call."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.answer(np.ascontiguousarray(images.detach().cpu().numpy(), dtype=np.float32)))


def _score(student: StudentBundle, answer: Answer, count: int) -> tuple[str, float, int]:
    """Name and value of the bundle's key metric, and the number of cases."""
    with open_cases(student, "validation") as cases, importable(student.root):
        items = [cases.items[place] for place in cases.spread(count)]
        parser = student.training()
        parts = {}
        for key in ("inferer", "postprocessing", "key_metric"):
            if parser.get(f"validate#{key}") is None:
                raise NoCases(f"the bundle has no validate#{key} to score with.")
        try:
            for key in ("inferer", "postprocessing", "key_metric"):
                parts[key] = parser.get_parsed_content(f"validate#{key}")
            if isinstance(parts["inferer"], SlidingWindowInferer):
                parts["inferer"].roi_size = student.spatial_shape  # the one size that an exported network takes
            with _without_logs():
                evaluator = SupervisedEvaluator(
                    device=torch.device("cpu"),
                    val_data_loader=DataLoader(Dataset(items, cases.transform), batch_size=1),
                    network=_Exported(answer),
                    inferer=parts["inferer"],
                    postprocessing=parts["postprocessing"],
                    key_val_metric=parts["key_metric"],
                )
                evaluator.run()
        except Exception as error:  # of the bundle's own parts, and of MONAI's around them
            raise NoCases(f"the bundle's validation cannot be run: {root_cause(error)}") from error
        name = str(evaluator.state.key_metric_name)
        value = float(evaluator.state.metrics[name])
    if not np.isfinite(value):
        raise NoCases(f"the bundle's score {name} of {len(items)} cases is {value}.")
    return name, value, len(items)


def _agreement(first: np.ndarray, second: np.ndarray) -> float:
    a, b = (each > 0 if each.shape[1] == 1 else each.argmax(axis=1) for each in (first, second))
    asked = (a > 0) | (b > 0) if first.ndim > 2 else np.ones_like(a, dtype=bool)
    return float((a == b)[asked].mean()) if asked.any() else 1.0


class _without_logs:  # a context, used as a word
    """Engines tell every run, twice."""

    def __enter__(self) -> None:
        self._before = logging.root.manager.disable
        logging.disable(logging.INFO)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._before)
