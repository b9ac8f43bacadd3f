"""The settings of a bundle's training: checked before anything is made of them, and those that make a run this one."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Number, Real
from typing import Any

import torch
from monai.utils.misc import ensure_tuple

__all__ = ["check_settings", "run_settings"]

_SHOWN = 100
# A run goes on with other values of these. What another batch size changes, the length of an epoch, is held elsewhere.
_MAY_CHANGE = frozenset(
    ["batch_size", "cache_rate", "device", "epochs", "log_interval", "num_workers", "run_name", "sw_batch_size"]
)


def check_settings(**settings: Any) -> dict[str, Any]:
    """Refuse values that a setting cannot have, all in one message that names them.

    A bundle calls this first, by the names of its keys: ``"$check_settings(epochs=@epochs, seed=@seed, ...)"``.
    Otherwise a wrong value fails somewhere within PyTorch, after minutes, or is taken for another one: on the command
    line ``--amp false`` is a text, which Python takes for true.

    Args:
        settings: by their names, which this knows.

    Returns:
        The settings.

    Raises:
        TypeError: a name that this does not know.
        ValueError: values out of range or of another kind.

    Example:
        >>> check_settings(epochs=100, learning_rate=1e-4, seed=0)
        {'epochs': 100, 'learning_rate': 0.0001, 'seed': 0}
        >>> check_settings(epochs="ten", learning_rate=1e-4, batch_size=0)
        Traceback (most recent call last):
        ValueError: settings that cannot be used:
          epochs must be a whole number from 1, got 'ten'
          batch_size must be a whole number from 1, got 0
    """
    if unknown := sorted(settings.keys() - _RULES.keys()):
        raise TypeError(f"settings without a rule: {', '.join(unknown)}.")
    wrong = [(name, value, _RULES[name]) for name, value in settings.items() if not _RULES[name][1](value)]
    lines = [f"  {name} must be {what}, got {repr(value)[:_SHOWN]}" for name, value, (what, _) in wrong]
    if not wrong and "hu_min" in settings and "hu_max" in settings and not settings["hu_min"] < settings["hu_max"]:
        lines.append(f"  hu_min must be below hu_max, got {settings['hu_min']} and {settings['hu_max']}")
    if lines:
        raise ValueError("\n".join(["settings that cannot be used:", *lines]))
    return settings


def run_settings(settings: Mapping[str, Any], **items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a stopped run and the one that goes on with it have in common, for ``ResumeCheckpoint``.

    Args:
        settings: by their names; those with which a run may go on differently (epochs, batch_size, num_workers, ...)
            are left out.
        items: data lists by their names; of each, number and digest are kept. The same items in another folder have
            the same one; in another order, with other classes, or where others have a label, they have not.

    Returns:
        Plain values by name.

    Example:
        >>> items = [{"image": "/data/a.png", "label": 0}, {"image": "/data/b.png"}]
        >>> run_settings({"seed": 0, "epochs": 100}, training=items)
        {'seed': 0, 'training': '2 items (fac52caf1a2f)'}
    """
    kept = {name: value for name, value in settings.items() if name not in _MAY_CHANGE}
    return kept | {name: f"{len(listed)} items ({_digest(listed)})" for name, listed in items.items()}


def _digest(items: Sequence[Mapping[str, Any]]) -> str:
    folders = {os.path.dirname(os.path.abspath(path)) for item in items for path in ensure_tuple(item["image"])}
    root = os.path.commonpath(folders) if folders else ""
    lines = [
        [os.path.relpath(path, root) for path in ensure_tuple(item["image"])]
        + [{key: value if isinstance(value, Number) else None for key, value in item.items()}]
        for item in items
    ]
    return hashlib.sha256(json.dumps(lines, sort_keys=True, default=float).encode()).hexdigest()[:12]


def _is_count(value: Any, least: int, end: float = math.inf) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) < end


def _is_number(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    right = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    return right and least <= float(value) <= most


def _is_list(value: Any, rule: Callable[[Any], bool], lengths: Iterable[int] = ()) -> bool:
    several = isinstance(value, list | tuple) and len(value) > 0 and all(map(rule, value))
    return several and (not (allowed := tuple(lengths)) or len(value) in allowed)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _are_names(value: Any) -> bool:
    return _is_list(value, _is_name) and len(set(value)) == len(value)


def _is_device(value: Any) -> bool:
    try:
        torch.device(value)
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


Rule = tuple[str, Callable[[Any], bool]]
_FROM_1: Rule = ("a whole number from 1", lambda value: _is_count(value, 1))
_FROM_0: Rule = ("a whole number from 0", lambda value: _is_count(value, 0))
_FROM_2: Rule = ("a whole number from 2", lambda value: _is_count(value, 2))
_SEED: Rule = ("a whole number from 0 to 2**32 - 1", lambda value: _is_count(value, 0, 2**32))
_NUMBER: Rule = ("a number", _is_number)
_NOT_NEGATIVE: Rule = ("a number from 0", lambda value: _is_number(value, 0))
_POSITIVE: Rule = ("a number above 0", lambda value: _is_number(value) and value > 0)
_SHARE: Rule = ("a number from 0 to 1", lambda value: _is_number(value, 0, 1))
_BELOW_1: Rule = ("a number from 0 to below 1", lambda value: _is_number(value, 0, 1) and value < 1)
_ABOVE_0: Rule = ("a number above 0 and at most 1", lambda value: _is_number(value, 0, 1) and value > 0)
_YES_NO: Rule = ("True or False (on the command line with a capital letter)", lambda value: isinstance(value, bool))
_SIZES: Rule = ("two or three whole numbers from 1", lambda value: _is_list(value, _FROM_1[1], (2, 3)))
_THREE: Rule = ("three numbers", lambda value: _is_list(value, _is_number, (3,)))
_NAMES: Rule = ("a list of different names", _are_names)

_RULES: Mapping[str, Rule] = {
    "affine_tolerance": _NOT_NEGATIVE,
    "alpha": _SHARE,
    "amp": _YES_NO,
    "bank_momentum": _BELOW_1,
    "batch_size": _FROM_1,
    "brightness": _NOT_NEGATIVE,
    "cache_rate": _SHARE,
    "class_names": _NAMES,
    "colour": _NOT_NEGATIVE,
    "consistency_weight": _NOT_NEGATIVE,
    "contrast": _NOT_NEGATIVE,
    "contrast_weight": _NOT_NEGATIVE,
    "deep_supervision_heads": _FROM_0,
    "device": ("a device such as 'cpu' or 'cuda:0'", _is_device),
    "distillation_weight": _NOT_NEGATIVE,
    "ema_decay": _SHARE,
    "embedding_dimension": _FROM_1,
    "epochs": _FROM_1,
    "exponent": ("a number from 1", lambda value: _is_number(value, 1)),
    "feature_weight": _NOT_NEGATIVE,
    "first_epoch": _FROM_1,
    "flip_prob": _SHARE,
    "fold": _FROM_0,
    "folds": _FROM_2,
    "fusion_weight": _NOT_NEGATIVE,
    "gamma": _NOT_NEGATIVE,
    "gradient_clip": _POSITIVE,
    "hounsfield": _YES_NO,
    "hu_max": _NUMBER,
    "hu_min": _NUMBER,
    "image_size": _FROM_1,
    "key_score": ("a name", _is_name),
    "label_values": ("a list of whole numbers from 0", lambda value: _is_list(value, _FROM_0[1])),
    "labelled_fraction": _ABOVE_0,
    "learning_rate": _POSITIVE,
    "log_interval": _FROM_1,
    "mask_overlay": _YES_NO,
    "mean": _THREE,
    "native_resolution": _YES_NO,
    "negatives": _FROM_1,
    "num_heads": _FROM_1,
    "num_workers": _FROM_0,
    "overlap": _BELOW_1,
    "pad_value": _NUMBER,
    "patch_size": _SIZES,
    "pixel_weight": _NOT_NEGATIVE,
    "positives": _FROM_1,
    "ramp_length": _FROM_0,
    "relation_weight": _NOT_NEGATIVE,
    "response_weight": _NOT_NEGATIVE,
    "rotate_prob": _SHARE,
    "rotation": _NOT_NEGATIVE,
    "run_name": ("a name of a file, without a folder", lambda value: _is_name(value) and not set(value) & set("/\\\0")),
    "scales": ("a list of numbers above 0", lambda value: _is_list(value, _POSITIVE[1])),
    "seed": _SEED,
    "sharpen_prob": _SHARE,
    "spacing": ("two or three numbers", lambda value: _is_list(value, _is_number, (2, 3))),
    "split_seed": _SEED,
    "std": ("three numbers above 0", lambda value: _is_list(value, _POSITIVE[1], (3,))),
    "sw_batch_size": _FROM_1,
    "task_weight": _NOT_NEGATIVE,
    "teacher_epochs": _FROM_1,
    "teacher_learning_rate": _POSITIVE,
    "teacher_names": _NAMES,
    "temperature": _POSITIVE,
    "test_fraction": _BELOW_1,
    "translation": _SHARE,
    "tumour_value": ("a whole number from 0, or None", lambda value: value is None or _is_count(value, 0)),
    "val_fraction": _BELOW_1,
    "val_interval": _FROM_1,
    "weight_decay": _NOT_NEGATIVE,
    "weighted_bce": _YES_NO,
}
