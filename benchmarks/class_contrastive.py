"""Class-guided contrast, drawn as released and as the expectation over all draws.

One batch of 64 features of 128 channels against banks whose classes are as uneven as in APTOS-2019 (P = 20, K = 4096):
the loss, its gradient at the features and both heads, and the banks' update.

* expectation: ``ClassContrastiveLoss`` as it is, every row weighed by how often it would be drawn;
* sampled: the same with ``sampled=True``, positives and negatives drawn in each step;
* default: as the loss chooses between both;
* released: the drawn rows of both banks are gathered, (B, P + K, D), the exponentials kept, and the negatives' term
  repeated P times to be summed with the positives'. It gets its rows drawn before.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.comparing import Bar, Case, Found, memory_ratio, ratio
from monai_kd.losses import ClassContrastiveLoss, ContrastMemory

APTOS = [1805, 370, 999, 193, 295]  # images of each grade
BATCH, DIMENSION, POSITIVES, NEGATIVES = 64, 128, 20, 4096


class ReleasedForm:
    """The sampled loss as the released code computes it."""

    def __init__(self, memory: ContrastMemory, positives: int, negatives: int, temperature: float = 0.07) -> None:
        self.memory = memory
        self.positives = positives
        self.negatives = negatives
        self.temperature = temperature
        self.partitions = [-1.0, -1.0]

    def __call__(self, student: Tensor, teacher: Tensor, index: Tensor, table: Tensor) -> Tensor:
        """The loss of features (B, C) and drawn rows (B, P + K)."""
        ours, theirs = self.memory.embed(student, teacher)
        table = torch.cat([index.unsqueeze(1), table[:, 1:]], dim=1)
        scores = [
            self._scores(0, ours, self.memory.teacher_rows, table),
            self._scores(1, theirs, self.memory.student_rows, table),
        ]
        self.memory.update(index, ours, theirs)
        return self._contrast(scores[0]) + self._contrast(scores[1])

    def _scores(self, which: int, anchors: Tensor, rows: Tensor, table: Tensor) -> Tensor:
        drawn = rows.index_select(0, table.flatten()).view(*table.shape, -1)
        scores = torch.exp(torch.bmm(drawn, anchors.unsqueeze(2)) / self.temperature)
        if self.partitions[which] < 0:
            self.partitions[which] = (scores.mean() * len(rows)).item()
        return scores / self.partitions[which]

    def _contrast(self, scores: Tensor, eps: float = 1e-7) -> Tensor:
        noise = self.negatives / len(self.memory.labels)
        alike, others = scores.squeeze(2).split([self.positives, self.negatives], dim=1)
        positive = torch.log(alike / (alike + (noise + eps)))
        negative = torch.log(noise / (others + (noise + eps)))
        repeated = negative.reshape(-1, 1).repeat(1, self.positives)
        return -(positive.sum() + repeated.sum()) / (self.positives * len(scores))


def cases(quick: bool) -> list[Case]:
    small, middle, large = (500, 1000, 120_000) if quick else (2930, 10_000, 200_000)
    rounds = 3 if quick else 15
    three = ("expectation", "sampled", "released")
    return [
        Case(f"{small} rows", {form: _maker(form, small) for form in three}, rounds),
        Case(f"{middle} rows", {form: _maker(form, middle) for form in three}, rounds),
        Case(
            f"{large} rows",
            {form: _maker(form, large) for form in ("default", "expectation", "sampled")},
            min(rounds, 5),
        ),
    ]


def bars(found: Found) -> list[Bar]:
    result = []
    for (case, forms), limit in zip(list(found.items())[:2], (18, 10)):
        result += [
            Bar("P5", f"{case}, released / expectation", ratio(forms, "released", "expectation"), limit),
            Bar("P5", f"{case}, temporaries", memory_ratio(forms, "released", "expectation"), 8),
        ]
    case, forms = list(found.items())[2]
    default = Bar("P5", f"{case}, default / sampled", ratio(forms, "default", "sampled"), 1.05, most=True)
    return [*result, default]


def _maker(form: str, images: int) -> Callable[[], Callable[[], float]]:
    def prepare() -> Callable[[], float]:
        torch.manual_seed(0)
        labels = torch.multinomial(torch.tensor(APTOS, dtype=torch.float64), images, replacement=True)
        memory = ContrastMemory(labels, DIMENSION, dimension=DIMENSION)
        student, teacher = torch.randn(2, BATCH, DIMENSION)
        student.requires_grad_()
        index = torch.randperm(images)[:BATCH]
        if form == "released":
            released = ReleasedForm(memory, POSITIVES, NEGATIVES)
            table = draw(labels.numpy(), index.numpy(), POSITIVES, NEGATIVES)

            def loss() -> Tensor:
                return released(student, teacher, index, table)

        else:
            sampled = {"default": None, "expectation": False, "sampled": True}[form]
            ours = ClassContrastiveLoss(memory, POSITIVES, NEGATIVES, sampled=sampled)

            def loss() -> Tensor:
                return ours(student, teacher, labels[index], index)

        def step() -> float:
            student.grad = None
            memory.zero_grad()
            value = loss()
            value.backward()
            return value.item()

        return step

    return prepare


def draw(labels: np.ndarray, index: np.ndarray, positives: int, negatives: int) -> Tensor:
    """Rows for each anchor, drawn one image after the other with NumPy."""
    generator = np.random.default_rng(0)
    alike = [np.flatnonzero(labels == c) for c in range(len(APTOS))]
    others = [np.flatnonzero(labels != c) for c in range(len(APTOS))]
    rows = []
    for i in index:
        own, rest = alike[labels[i]], others[labels[i]]
        first = generator.choice(own, positives, replace=len(own) < positives)
        rows.append(np.concatenate([first, generator.choice(rest, negatives, replace=len(rest) < negatives)]))
    return torch.from_numpy(np.stack(rows))
