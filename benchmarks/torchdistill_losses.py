"""torchdistill's losses on two tensors, where it is there; ``make benchmark`` brings it.

It lies beside the environment, not in it: with torchvision it would change what ``import monai`` costs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

OPPONENTS = Path(sys.prefix, "opponents")
Loss = Callable[[Tensor, Tensor], Tensor]


def torchdistill_losses() -> dict[str, Loss]:
    """By the names of the cases; none where torchdistill is not installed.

    Their averages are torchdistill's own (over the batch alone, or over all positions), so values differ by a factor.
    """
    if OPPONENTS.is_dir() and str(OPPONENTS) not in sys.path:
        sys.path.append(str(OPPONENTS))
    try:
        from torchdistill.losses.mid_level import ATLoss, DISTLoss, KDLoss, RKDLoss, SPKDLoss
    except ImportError:
        return {}
    paths = {"student_module_path": "x", "student_module_io": "output"}
    paths |= {"teacher_module_path": "x", "teacher_module_io": "output"}
    outputs = {"student_output_path": "x", "teacher_output_path": "x"}
    pair = {side: {"path": "x", "io": "output"} for side in ("student", "teacher")}
    soft, dist = KDLoss(**paths, temperature=4.0, alpha=0.0), DISTLoss(**paths)
    by_rows = {"DIST, volume": _on_rows(_on_tensors(dist))}
    losses = {
        "soft targets, volume": soft,
        "soft targets, images": soft,
        "attention transfer": ATLoss({"pair": pair}),
        "DIST, images": dist,
        "RKD": RKDLoss(**outputs, dist_factor=1.0, angle_factor=2.0, reduction="mean"),
        "similarity": SPKDLoss(**outputs, reduction="batchmean"),
    }
    return by_rows | {name: _on_tensors(loss) for name, loss in losses.items()}


def _on_tensors(loss: Callable[..., Tensor]) -> Loss:
    return lambda student, teacher: loss({"x": {"output": student}}, {"x": {"output": teacher}})


def _on_rows(loss: Loss) -> Loss:
    """Positions as items of a batch: of logits (items, classes) alone the loss knows."""
    return lambda *logits: loss(*(x.movedim(1, -1).flatten(0, -2) for x in logits))
