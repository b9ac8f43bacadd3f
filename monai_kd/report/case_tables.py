"""The test cases of one run: scores of a segmentation, or predictions of a classification."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_kd.report._stored import read_rows
from monai_kd.report.statistics import Array, CaseScores

__all__ = ["CaseTable", "case_scores", "read_cases"]

_REGION = "Dice_"


@dataclass(frozen=True)
class CaseTable:
    """What one run says of each test case.

    Args:
        names: of the cases.
        scores: of a segmentation, by name; shape (cases,), NaN where a case has none.
        class_names: of a classification; empty otherwise.
        labels: index of each case's true class, of a classification.
        probabilities: of a classification, shape (cases, classes).
        unlabelled: pictures of a classification that have no true class, and so are none of the cases.
    """

    names: tuple[str, ...]
    scores: dict[str, Array] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    labels: NDArray[np.int64] | None = None
    probabilities: Array | None = None
    unlabelled: int = 0

    @property
    def regions(self) -> tuple[str, ...]:
        """Regions of a segmentation that have a Dice of their own."""
        return tuple(name.removeprefix(_REGION) for name in self.scores if name.startswith(_REGION))

    def take(self, names: Sequence[str]) -> CaseTable:
        """These cases, in this order."""
        place = {name: index for index, name in enumerate(self.names)}
        rows = np.array([place[name] for name in names], dtype=np.int64)
        return replace(
            self,
            names=tuple(names),
            scores={name: values[rows] for name, values in self.scores.items()},
            labels=None if self.labels is None else self.labels[rows],
            probabilities=None if self.probabilities is None else self.probabilities[rows],
        )

    def absent(self, tables: Sequence[CaseTable]) -> tuple[str, ...]:
        """Classes without a true case, or regions whose Dice no case of ``tables``, all runs' tables, has."""
        if self.labels is not None:
            present = set(self.labels.tolist())
            return tuple(name for index, name in enumerate(self.class_names) if index not in present)
        known = [name for name in self.regions if all(_REGION + name in table.scores for table in tables)]
        return tuple(name for name in known if all(np.isnan(table.scores[_REGION + name]).all() for table in tables))

    def of_score(self, score: str) -> Array | None:
        """The score of every case, shape (cases,); ``None`` where it is none of single cases.

        A segmentation's is its column; ``meanDice`` without one is the mean over the regions that the case has. A
        classification's accuracy is 1 or 0: was it right?
        """
        if self.labels is not None and self.probabilities is not None:
            right = (self.probabilities.argmax(axis=1) == self.labels).astype(np.float64)
            return right if score in ("accuracy", "balanced_accuracy", "macro_recall") else None
        if score in self.scores:
            return self.scores[score]
        if score != "meanDice" or not self.regions:
            return None
        values = np.stack([self.scores[_REGION + name] for name in self.regions])
        count = (~np.isnan(values)).sum(axis=0)
        return np.divide(np.nansum(values, axis=0), count, out=np.full(len(count), np.nan), where=count > 0)


def case_scores(tables: Sequence[CaseTable | None], score: str) -> CaseScores | None:
    """Scores of the same cases in all seeds of a network; ``None`` where the score is none of single cases.

    Balanced accuracy is the mean over classes of "was it right?", so that the true classes are its strata.

    Example:
        >>> table = CaseTable(("a", "b"), {"Dice_liver": np.array([0.5, 0.7])})
        >>> case_scores([table, table], "meanDice").means()
        array([0.6, 0.6])
    """
    rows = [None if table is None else table.of_score(score) for table in tables]
    if not rows or any(row is None or np.isnan(row).all() for row in rows):
        return None
    first = tables[0]
    strata = first.labels if first is not None and score != "accuracy" else None
    return CaseScores(np.stack([row for row in rows if row is not None]), strata)


def read_cases(folder: Path, network: str) -> CaseTable | None:
    """The table of a run's folder: ``<network>.cases.csv`` or ``<network>.predictions.csv``; ``None`` without one.

    Pictures without a true class are left out.

    Raises:
        ValueError: a table without cases, one that names a case twice, or one with what is no number or no class.
    """
    for ending, parse in ((".cases.csv", _segmentation), (".predictions.csv", _classification)):
        path = folder / f"{network}{ending}"
        if not os.path.lexists(path):
            continue
        head, *rows = read_rows(path) or [[]]
        names = [row[0] for row in rows if row]
        if not names or len(set(names)) != len(names):
            twice = next((name for name in names if names.count(name) > 1), None)
            raise ValueError(f"'{path}' " + (f"names the case '{twice}' twice." if twice else "has no cases."))
        try:
            return parse(tuple(names), head, [row for row in rows if row])
        except (ValueError, IndexError) as error:
            raise ValueError(f"'{path}' cannot be read: {error}.") from error
    return None


def _segmentation(names: tuple[str, ...], head: list[str], rows: list[list[str]]) -> CaseTable:
    values = np.array([[float(cell) if cell else math.nan for cell in row[1:]] for row in rows]).reshape(len(rows), -1)
    if np.isinf(values).any():
        raise ValueError("a score is infinite")
    if len(set(head)) != len(head):
        raise ValueError(f"two columns have one name: {', '.join(head)[:200]}")
    return CaseTable(names, dict(zip(head[1:], values.T, strict=True)))


def _classification(names: tuple[str, ...], head: list[str], rows: list[list[str]]) -> CaseTable | None:
    if head[:3] != ["image", "class", "label"]:
        return None  # pictures without a true class have no score
    class_names = tuple(head[3:])
    if unknown := sorted({row[2] for row in rows if row[2]} - set(class_names)):
        raise ValueError(f"the true classes {unknown} are none of {', '.join(class_names)}")
    known = [(name, row) for name, row in zip(names, rows) if row[2]]
    if not known:
        raise ValueError("no picture has a true class")
    return CaseTable(
        tuple(name for name, _ in known),
        class_names=class_names,
        labels=np.array([class_names.index(row[2]) for _, row in known], dtype=np.int64),
        probabilities=np.array([[float(cell) for cell in row[3:]] for _, row in known]),
        unlabelled=len(rows) - len(known),
    )
