"""An exported network held against the one it was made from, on the same inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_kd.export.cases import Sample
from monai_kd.export.documents import Answer

__all__ = ["LEAST_AGREEMENT", "LIMITS", "Row", "Verification", "VerificationError", "same_for_batches", "verify"]

LIMITS: Mapping[str, tuple[str, float]] = {"f32": ("relative_max", 1e-3), "bf16": ("relative_rms", 0.1)}
"""By precision, what is held against which limit. int8 is judged by its accuracy on cases instead."""

LEAST_AGREEMENT = 0.99
"""Share of a segmentation's positions, over all inputs, that keep their label where nobody asked for the precision."""


class VerificationError(ValueError):
    """An exported network answers otherwise than the network it was made from.

    The first line of the message says how, the lines behind it are the table.
    """


@dataclass(frozen=True)
class Row:
    """One input.

    Attributes:
        input: where it is from.
        max_abs_difference: largest difference of two outputs.
        relative_max: that, by the largest output of the network.
        relative_rms: root mean square of the differences, by that of the outputs.
        agreement: share of positions with the same label: the largest channel, or the sign of a single one.
    """

    input: str
    max_abs_difference: float
    relative_max: float
    relative_rms: float
    agreement: float


@dataclass(frozen=True)
class Verification:
    """All inputs of a verification.

    Attributes:
        kind: "validation cases" or "noise".
        reason: why no cases were used, or ``None``.
        precision: of the exported network.
    """

    rows: tuple[Row, ...]
    kind: str
    reason: str | None
    precision: str

    @property
    def agreement(self) -> float:
        """Share of the positions of all inputs that have the same label."""
        return float(np.mean([row.agreement for row in self.rows]))

    def as_json(self) -> dict[str, Any]:
        """As ``export.json`` holds it."""
        measure, limit = LIMITS.get(self.precision, (None, None))
        return {
            "inputs": len(self.rows),
            "kind": self.kind,
            "reason": self.reason,
            "measure": measure,
            "limit": limit,
            "max_abs_difference": max(row.max_abs_difference for row in self.rows),
            "rows": [asdict(row) for row in self.rows],
        }

    def __str__(self) -> str:
        width = max(len("input"), *(len(row.input) for row in self.rows))
        lines = [f"{'input':{width}}  max difference  relative max  relative rms  same labels"]
        lines += [
            f"{row.input:{width}}  {row.max_abs_difference:14.3g}  {row.relative_max:12.3g}  {row.relative_rms:12.3g}  "
            f"{100 * row.agreement:9.3f} %"
            for row in self.rows
        ]
        return "\n".join(lines)


def verify(
    network: nn.Module,
    answer: Answer,
    samples: Iterable[Sample],
    kind: str,
    reason: str | None,
    precision: str,
    least_agreement: float = 0.0,
) -> Verification:
    """Compare an exported network with the one it was made from.

    Args:
        network: in evaluation mode, on the CPU; its output is one tensor.
        answer: the exported one.
        samples: inputs.
        kind, reason: see :class:`Verification`.
        precision: "f32", "bf16" or "int8"; :data:`LIMITS` says how near the outputs must be.
        least_agreement: least share of positions, over all inputs, with the same label.

    Raises:
        VerificationError: an output is not finite, has another shape, or differs by more than the limit; or too few
            labels agree.
    """
    rows = [_compare(network, answer, sample) for sample in samples]
    if not rows:
        raise VerificationError("there is no input to verify the export with.")
    found = Verification(tuple(rows), kind, reason, precision)
    measure, limit = LIMITS.get(precision, (None, np.inf))
    if measure is not None and not all(getattr(row, measure) <= limit for row in rows):
        worst = max(getattr(row, measure) for row in rows)
        raise VerificationError(
            f"the exported network answers otherwise than the bundle's: {measure} must be at most {limit:g} in "
            f"{precision}, it is {worst:.3g}.\n{found}\nNothing was written."
        )
    if found.agreement < least_agreement:
        raise VerificationError(
            f"the exported network gives other labels than the bundle's: {100 * least_agreement:g} % must be the same "
            f"in {precision}, {100 * found.agreement:.3f} % are.\n{found}"
        )
    return found


def same_for_batches(answer: Answer, shape: tuple[int, ...]) -> str | None:
    """Why an exported network does not take batches of any size; ``None`` if it does.

    Args:
        answer: see :func:`verify`.
        shape: (C, *spatial) of the input.
    """
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1)).numpy()
    answers = {}
    for count in (1, 3):
        try:
            answers[count] = np.concatenate([answer(images[at : at + count]) for at in range(0, 3, count)])
        except Exception as error:  # of the runtimes, each with errors of its own
            return f"a batch of {count} fails: {str(error).strip().splitlines()[0][:200]}"
    alone, together = answers[1], answers[3]
    if together.shape != alone.shape:
        return f"a batch of 3 gives an output of {together.shape}, its images one by one {alone.shape}"
    difference = float(np.abs(together - alone).max() / max(float(np.abs(alone).max()), 1e-30))
    if not difference <= LIMITS["f32"][1]:
        return f"a batch of 3 gives other outputs than its images one by one (relative max {difference:.3g})"
    return None


def _compare(network: nn.Module, answer: Answer, sample: Sample) -> Row:
    with torch.inference_mode():
        wanted = network(sample.image).numpy().astype(np.float64)
    found = np.asarray(answer(sample.image.numpy()), dtype=np.float64)
    if found.shape != wanted.shape:
        raise VerificationError(f"{sample.name}: the exported network gives {found.shape}, not {wanted.shape}.")
    if not np.isfinite(wanted).all() or not np.isfinite(found).all():
        raise VerificationError(f"{sample.name}: an output is not finite; check the checkpoint.")
    difference = np.abs(found - wanted)
    tiny = np.finfo(np.float32).tiny
    return Row(
        sample.name,
        float(difference.max()),
        float(difference.max() / max(np.abs(wanted).max(), tiny)),
        float(np.sqrt((difference**2).mean()) / max(np.sqrt((wanted**2).mean()), tiny)),
        float((_labels(found) == _labels(wanted)).mean()),
    )


def _labels(output: np.ndarray) -> np.ndarray:
    return output.argmax(axis=1) if output.shape[1] > 1 else output[:, 0] > 0
