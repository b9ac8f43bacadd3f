"""What is distilled if nobody says, as a part of a bundle's configuration."""

from __future__ import annotations

from typing import Any

__all__ = ["default_terms"]


def default_terms(activation: str, dense: bool, taps: tuple[str, str] | None) -> dict[str, Any]:
    """Keys of a configuration: the terms, and the numbers they refer to.

    Segmentation has soft targets and soft Dice to the teacher's probabilities beside the task's whole loss: alone,
    soft targets are ruled by the background. A classifier has soft targets in place of most of the task's loss. Both
    have a hint: features of the bottleneck by direction, for which a projection is learned.

    Args:
        activation: "sigmoid" or "softmax", of the outputs.
        dense: whether there is an output for each position.
        taps: layers of student and teacher for the hint; none if ``None``.

    Example:
        >>> [term["name"] for term in default_terms("softmax", dense=False, taps=None)["terms"]]
        ['soft_target']
    """
    sigmoid = activation == "sigmoid"
    settings: dict[str, Any] = {
        "temperature": 2.0 if dense else 4.0,
        "task_weight": 1.0 if dense else 0.3,
        "soft_target_weight": 1.0 if dense else 0.7,
    }
    soft_target = {"_target_": "monai_kd.losses.SoftTargetLoss", "temperature": "@temperature", "sigmoid": sigmoid}
    terms = [_term("soft_target", soft_target, "@soft_target_weight")]
    if dense:
        settings["teacher_dice_weight"] = 1.0
        dice = {"_target_": "monai_kd.losses.TeacherDiceLoss", "sigmoid": sigmoid}
        terms.append(_term("teacher_dice", dice, "@teacher_dice_weight"))
    if taps is not None:
        settings["hint_weight"] = 0.1
        terms.append(
            {
                **_term("hint", {"_target_": "monai_kd.losses.NormalizedHintLoss"}, "@hint_weight"),
                "student": taps[0],
                "teacher": taps[1],
                "adapter": {"_target_": "monai_kd.adapters.ProjectionAdapter", "_mode_": "callable"},
            }
        )
    return {**settings, "terms": terms}


def _term(name: str, loss: dict[str, Any], weight: str) -> dict[str, Any]:
    return {"_target_": "monai_kd.distiller.DistillationTerm", "name": name, "loss": loss, "weight": weight}
