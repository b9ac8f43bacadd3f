"""What the evaluation of a student's bundle keeps of each test case, and what its networks are compared in."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle.config_parser import ConfigParser
from monai.bundle.utils import merge_kv

from monai_kd.zoo.activation import SOFTMAX, components, output_activation
from monai_kd.zoo.teacher_bundle import Config, evaluator_keys, keys_of, part_at, referred_key, resolve

__all__ = ["class_names", "compare_config", "keep_cases"]

_PROBABILITIES, _TRUE_CLASS, _MASK = "probabilities", "true_class", "mask"
_TO_INDEX = "$lambda label: torch.as_tensor(label).argmax() if torch.as_tensor(label).numel() > 1 else label"
_TO_LABELS = "$lambda mask: mask.argmax(0, keepdim=True) if len(mask) > 1 else mask.round()"
_LAST = ("initialize", "run", "finalize")


def keep_cases(evaluate: Config, train: Config, metadata: Config, shape: Sequence[int]) -> Config:
    """``evaluate.json`` with tables of its test cases, as far as the bundle's post-processing allows.

    * Segmentation: scores of every case, and the Dice of every class (``SaveCases``); masks too where ``masks_dir`` is
      given, of outputs that are one label map.
    * Classification by softmax: the probabilities of every image (``SavePredictions``) and their scores; its
      post-processing mostly leaves classes only, so they are copied before.

    Args:
        evaluate: of the student.
        train: of the student, which goes before it.
        metadata: of the teacher.
        shape: of the network's output, (B, C, *spatial) or (B, C).
    """
    evaluate = dict(evaluate)
    config = _merged(train, evaluate)
    evaluator, handlers = evaluator_keys(config)
    listed = None if handlers is None else part_at(config, handlers)
    if evaluator is None or handlers is None or not isinstance(listed, list | None):
        return evaluate
    names = class_names(metadata, shape[1])
    saver: Config | None
    if len(shape) > 2:
        saver = _case_saver(config, evaluator, names)
        if "masks_dir" not in config:
            _save_masks(evaluate, config, evaluator, shape)
    else:
        saver = _prediction_saver(evaluate, config, evaluator, names)
    if saver is not None:
        # All processes gather, and bundles drop their last handlers in all but one process, by number.
        kept = [one for one in listed or [] if "CheckpointSaver" not in str(_target(one))]
        _put(evaluate, handlers, [saver, *kept])
    last = {key: evaluate.pop(key) for key in _LAST if key in evaluate}
    return {**evaluate, **last}


def compare_config(evaluate: Config, train: Config, network: str) -> Config:
    """``compare.json``: the teacher as it is, scored; baseline and student trained, in the evaluator's key metric.

    Args:
        evaluate: of the student.
        train: of the student.
        network: key of its definition.
    """
    config = _merged(train, evaluate)
    evaluator, _ = evaluator_keys(config)
    key = {} if evaluator is None else _metrics(config, evaluator, "key_val_metric") or {}
    score, metric = next(iter(key.items()), ("meanDice", None))
    more = {} if evaluator is None else _metrics(config, evaluator, "additional_metrics") or {}
    if str(_target(metric)).endswith("Accuracy") and "ClassificationMetrics" in str(_target(more.get("accuracy"))):
        score = "accuracy"  # theirs counts each number of a one-hot vector, ours images
    return {
        "score": score,
        "network": network,
        "networks": {
            "teacher": {"role": "teacher", "files": ["teacher.json"], "checkpoint": "teacher.pt"},
            "baseline": {"role": "baseline", "files": ["baseline.json"]},
            "distilled": {"role": "student", "needs": {"teacher_checkpoint": "teacher"}},
        },
    }


def class_names(metadata: Config, channels: int) -> list[str]:
    """Names of the output's channels, as the metadata has them; by number where it has not as many different ones."""
    try:
        known = next(iter(metadata["network_data_format"]["outputs"].values()))["channel_def"]
        names = [str(known[key]) for key in sorted(known, key=int)]
    except (KeyError, TypeError, ValueError, StopIteration, AttributeError):
        names = []
    fits = len(names) == channels or (channels == 1 and len(names) == 2)
    return names if fits and len(set(names)) == len(names) else [f"class {channel}" for channel in range(channels)]


def _merged(train: Config, evaluate: Config) -> Config:
    """Both files as ``monai.bundle run`` takes them together."""
    parser = ConfigParser({})
    for config in (train, evaluate):
        for key, value in copy.deepcopy(config).items():
            merge_kv(parser, key, value)
    return resolve(parser.get())


def _case_saver(config: Config, evaluator: str, names: Sequence[str]) -> Config:
    metrics = {
        name: metric
        for argument in ("key_val_metric", "additional_metrics")
        for name, metric in (_metrics(config, evaluator, argument) or {}).items()
    }
    dice = next((name for name, metric in metrics.items() if str(_target(metric)).endswith("MeanDice")), None)
    saver = {
        "_target_": "monai_kd.handlers.SaveCases",
        "path": "$@output_dir + '/' + @run_name + '.cases.csv'",
        "class_names": list(names),
    }
    return saver if dice is None else {**saver, "dice": dice}


def _save_masks(evaluate: Config, config: Config, evaluator: str, shape: Sequence[int]) -> None:
    """Label maps at the image's own grid, behind the post-processing."""
    key, steps = _steps(config, evaluator)
    flat = len(shape) == 4
    turned = any(part.get("reverse_indexing") is False for part in components(config))
    if key is None or (flat and turned) or not _one_map(config, shape[1]):
        return
    binary, ending = shape[1] <= 2, ".png" if flat else ".nii.gz"
    root = "@dataset_dir" if "dataset_dir" in config else ""
    save: Config = {
        "keys": _MASK,
        "output_dir": "@masks_dir",
        "data_root_dir": root,
        "output_ext": ending,
        "output_postfix": "seg",
        "folder_layout": {
            "_target_": "monai_kd.data.InsideLayout",
            "output_dir": "@##output_dir",
            "postfix": "@##output_postfix",
            "extension": "@##output_ext",
            "parent": "@##separate_folder",
            "data_root_dir": "@##data_root_dir",
            "makedirs": True,
        },
        "output_dtype": "$np.uint8",
        **({"scale": 255 if binary else None} if flat else {}),
        "resample": True,
        "mode": "nearest",
        "separate_folder": False,
        "print_log": False,
    }
    added = [
        ("CopyItemsd", {"keys": "pred", "names": _MASK}),
        ("Lambdad", {"keys": _MASK, "func": _TO_LABELS}),
        ("SaveImaged", save),
    ]
    off = {"_disabled_": "$@masks_dir is None"}
    evaluate["masks_dir"] = None
    _put_steps(evaluate, config, key, [*steps, *({"_target_": name, **off, **more} for name, more in added)])


def _one_map(config: Config | list[Config], channels: int) -> bool:
    try:
        return channels == 1 or output_activation(config, channels) == SOFTMAX
    except ValueError:
        return False


def _prediction_saver(evaluate: Config, config: Config, evaluator: str, names: Sequence[str]) -> Config | None:
    """The saver, with what it needs in ``evaluate``; ``None`` where no step has probabilities of exclusive classes."""
    key, steps = _steps(config, evaluator)
    if key is None or len(names) < 2 or not _one_map(steps, len(names)):
        return None
    at = next((i for i, step in enumerate(steps) if str(_target(step)).startswith("AsDiscrete")), len(steps))
    added: list[Config] = [
        {"_target_": "CopyItemsd", "keys": ["pred", "label"], "names": [_PROBABILITIES, _TRUE_CLASS]},
        {"_target_": "Lambdad", "keys": _TRUE_CLASS, "func": _TO_INDEX},
    ]
    if not any(str(_target(step)).startswith("Activations") for step in steps[:at]):
        added.append({"_target_": "Activationsd", "keys": _PROBABILITIES, "softmax": True})
    _put_steps(evaluate, config, key, [*steps[:at], *added, *steps[at:]])
    scores = {
        "_target_": "monai_kd.metrics.ClassificationMetrics",
        "class_names": list(names),
        "score": "accuracy",
        "output_transform": f"$monai.handlers.from_engine(['{_PROBABILITIES}', '{_TRUE_CLASS}'])",
    }
    more = _metrics(config, evaluator, "additional_metrics")
    taken = {*(_metrics(config, evaluator, "key_val_metric") or {}), *(more or {})}
    if more is not None and "accuracy" not in taken:
        _put(evaluate, f"{evaluator}#additional_metrics", {**more, "accuracy": scores})
    return {
        "_target_": "monai_kd.handlers.SavePredictions",
        "path": "$@output_dir + '/' + @run_name + '.predictions.csv'",
        "class_names": list(names),
        "pred_key": _PROBABILITIES,
        "label_key": _TRUE_CLASS,
    }


def _metrics(config: Config, evaluator: str, argument: str) -> Config | None:
    """Metrics of the evaluator by name; ``None`` where an expression makes them."""
    value = part_at(config, evaluator).get(argument)
    while isinstance(value, str) and value.startswith("@"):
        value = part_at(config, value[1:])
    return {} if value is None else value if isinstance(value, dict) and "_target_" not in value else None


def _steps(config: Config, evaluator: str) -> tuple[str | None, list[Config]]:
    """Key and transforms of the evaluator's post-processing; no key where they are not listed."""
    given = part_at(config, evaluator).get("postprocessing")
    key = f"{evaluator}#postprocessing" if isinstance(given, dict) else referred_key(config, given, dict)
    steps = [] if key is None else part_at(config, f"{key}#transforms")
    listed = isinstance(steps, list) and all(isinstance(step, dict) for step in steps)
    return (key, steps) if listed else (None, [])


def _put_steps(evaluate: Config, config: Config, key: str, steps: Sequence[Any]) -> None:
    _put(evaluate, key, {**part_at(config, key), "transforms": list(steps)})


def _put(evaluate: Config, key: str, value: Any) -> None:
    """Set a part that the file may have, whole or in pieces, under other spellings of its key."""
    place = keys_of(key)
    for known in list(evaluate):
        if keys_of(known)[: len(place)] == place:
            del evaluate[known]
    evaluate[key] = value


def _target(part: Any) -> str:
    return str(part.get("_target_")).rpartition(".")[2] if isinstance(part, Mapping) else ""
