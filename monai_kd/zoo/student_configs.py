"""The configuration files of a student's bundle, made of its teacher's."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from monai_kd.zoo.teacher_bundle import Config, TeacherBundle, keys_of

__all__ = ["evaluate_config", "method_configs", "multi_gpu_config", "other_config", "train_config"]

_SEED = re.compile(r"(set_determinism\((?:seed\s*=\s*)?)(\d+)(\s*[,)])")
_OLD_RUNS = ("training", "evaluating", "inferring")  # of bundles written before `initialize` and `run`
# By their paths: a list of imports would be of one file alone.
_FIRST = [{"_target_": "monai_kd.errors.readable_errors"}, {"_target_": "monai_kd.overrides.check_overrides"}]
_FILE = "model.pt"
_PATH = re.compile(r"/model\.pt(['\"])")


def train_config(
    bundle: TeacherBundle,
    student: Mapping[str, Any],
    terms: Mapping[str, Any],
    input_shape: Sequence[int],
) -> Config:
    """``train.json``: the teacher's, with the student in the network's place and the distillation added.

    Args:
        bundle: of the teacher.
        student: definition of the student's network.
        terms: "terms" and the keys that they refer to.
        input_shape: of the dry run that sizes adapters, (B, C, *spatial) with B >= 2.

    Raises:
        ValueError: a key of ``terms`` has another meaning in the teacher's training.
    """
    config = _named_by_key(with_run(copy.deepcopy(bundle.train)))
    added: Config = {
        "checkpoint": _FILE,
        "run_name": "distilled",
        "seed": _seed(config),
        "teacher_checkpoint": "$@ckpt_dir + '/teacher.pt'",
        "teacher_sha256": None,
        "teacher_def": _without_downloads(bundle),
        "teacher": {
            "_target_": "monai_kd.teachers.FrozenTeacher",
            "network": "@teacher_def",
            "checkpoint": "@teacher_checkpoint",
            "sha256": "@teacher_sha256",
        },
        "task_weight": 1.0,
        **terms,
        "distiller_def": {
            "_target_": "monai_kd.distiller.Distiller",
            "student": _network_reference(bundle),
            "teacher": "@teacher",
            "terms": "@terms",
            "input_shape": list(input_shape),
        },
        "distiller": f"$@distiller_def.to({_device(bundle)})",
    }
    if taken := sorted(key for key in added.keys() & config.keys() if key != "seed"):
        raise ValueError(f"the teacher's training has keys of its own named {taken}; rename them there.")
    config = {**_folders(config), **config, **added}
    _set(config, bundle.network, dict(student))
    _set(config, f"{bundle.optimizer}#params", _with_adapters(bundle.part(f"{bundle.optimizer}#params")))
    _set(config, bundle.handlers, _handlers(bundle))
    _save(config, bundle)
    config["initialize"] = _FIRST + _seeded(config.get("initialize"), bundle)
    config["run"] = config.get("run") or [f"$@{bundle.trainer}.run()"]
    for last in ("initialize", "run", "finalize"):
        if last in config:
            config[last] = config.pop(last)
    return config


def method_configs(bundle: TeacherBundle) -> dict[str, Config]:
    """``baseline.json`` (the student alone) and ``teacher.json`` (the teacher's network), to follow ``train.json``."""
    alone = {"distiller": None, f"{bundle.optimizer}#params": bundle.part(f"{bundle.optimizer}#params")}
    return {
        "baseline": {"run_name": "baseline", "checkpoint": "baseline.pt", **alone},
        "teacher": {"run_name": "teacher", "checkpoint": "teacher.pt", **alone, bundle.network: "@teacher_def"},
    }


def evaluate_config(bundle: TeacherBundle, teachers: Config | None) -> Config:
    """``evaluate.json``: the teacher's with the checkpoint's name as a key, or a plain one if it has none.

    Its scores and the network's cost are also written to ``<output_dir>/<run_name>.evaluation.json``.

    Raises:
        ValueError: the teacher has neither ``evaluate.json`` nor an evaluator in ``train.json``.
    """
    if teachers is not None:
        config = _named_by_key(with_run(copy.deepcopy(teachers)))
        # Without what the student's training makes first: neither teacher nor optimizer is needed.
        before = with_run(copy.deepcopy(bundle.train)).get("initialize", [])
        config.setdefault("initialize", [_by_key(step) for step in before])
    elif bundle.evaluator is not None:
        config = {
            f"{bundle.evaluator}#val_handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
            "initialize": [f"$load_weights(@{bundle.network}, @ckpt_dir + '/' + @checkpoint)"],
            "run": [f"$@{bundle.evaluator}.run()"],
        }
    else:
        raise ValueError(f"'{bundle.root.name}' has no configs/evaluate.json, and train.json no evaluator.")
    config["initialize"] = _FIRST + config["initialize"]
    imports = ["$from monai_kd.checkpoints import load_weights", "$from monai_kd.report import save_evaluation"]
    key = "imports" if "imports" in config else "+imports"
    config = {key: [*config.pop(key, []), *imports], **config}
    if bundle.evaluator is not None and "run" in config:
        config["run"] = [
            *config["run"],
            f"$save_evaluation(@output_dir, @run_name, @{bundle.evaluator}.state.metrics, "
            f"len(@{bundle.evaluator}.data_loader.dataset), {_network_reference(bundle)}, {bundle.input_shape()})",
        ]
    return config


def multi_gpu_config(bundle: TeacherBundle, teachers: Config) -> Config:
    """``multi_gpu_train.json``: the teacher's, with the adapters of all processes kept equal."""
    config = with_run(copy.deepcopy(teachers))
    device = _device(bundle)
    made, ids = f"@distiller_def.to({device})", f"[{device}] if torch.device({device}).type == 'cuda' else None"
    config["distiller"] = (
        f"$torch.nn.parallel.DistributedDataParallel({made}, device_ids={ids}) "
        f"if list(@distiller_def.parameters()) else {made}"
    )
    if "initialize" in config:
        config["initialize"] = _FIRST + _seeded(config["initialize"], bundle)
    return config


def other_config(bundle: TeacherBundle, teachers: Config, student: Mapping[str, Any], scaled: bool) -> Config:
    """Any other file: the teacher's with the student in its network's place.

    Args:
        bundle: of the teacher.
        teachers: content of its file.
        student: definition of the student's network.
        scaled: the student is the teacher's network with other numbers, of which the file may have some of its own.
    """
    config = with_run(copy.deepcopy(teachers))
    for key, part in config.items():
        if isinstance(part, Mapping) and part.get("_target_") == bundle.target:
            changed = {name: value for name, value in student.items() if value != bundle.part(bundle.network).get(name)}
            config[key] = {**part, **changed} if scaled else dict(student)
    if isinstance(config.get("bundle_root"), str) and not config["bundle_root"].startswith(("$", "@")):
        config["bundle_root"] = "."
    return config


def with_run(config: Config) -> Config:
    """``initialize`` and ``run`` for a configuration that has one list with a name of its own."""
    for key in _OLD_RUNS:
        if "run" not in config and isinstance(config.get(key), list):
            steps = config.pop(key)
            first = next((i for i, step in enumerate(steps) if ".run()" in str(step)), len(steps))
            config |= {"initialize": [*config.get("initialize", []), *steps[:first]], "run": steps[first:]}
    return config


def _network_reference(bundle: TeacherBundle) -> str:
    """The network as the trainer has it: on its device, in its wrapper."""
    return str(bundle.part(bundle.trainer)["network"])


def _device(bundle: TeacherBundle) -> str:
    device = bundle.part(bundle.trainer)["device"]
    return device.removeprefix("$") if isinstance(device, str) and device[:1] in "@$" else repr(device)


def _folders(config: Config) -> Config:
    """Keys that a bundle may lack."""
    root = config.get("bundle_root")
    if root is not None and not str(root).startswith(("$", "@")):
        config["bundle_root"] = "."
    return {
        "imports": [],
        "bundle_root": ".",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
    }


def _without_downloads(bundle: TeacherBundle) -> Config:
    definition: Config = copy.deepcopy(bundle.part(bundle.network))
    return {**definition, "pretrained": False} if "pretrained" in definition else definition


def _with_adapters(params: Any) -> Any:
    """The optimizer's parameters and those of the distiller, as groups if they are groups."""
    ours = "list(@distiller.parameters())"
    if isinstance(params, list):
        return [*params, {"params": f"${ours}"}]
    expression = str(params).removeprefix("$")
    if "param_groups" in expression or "'params'" in expression or '"params"' in expression:
        return f"$list({expression}) + [{{'params': {ours}}}]"
    return f"$list({expression}) + {ours}"


def _handlers(bundle: TeacherBundle) -> list[Any]:
    """The distillation goes first: bundles drop their last handlers in all but one process, by number."""
    distillation = {
        "_target_": "monai_kd.handlers.DistillationHandler",
        "_disabled_": "$@distiller is None",
        "distiller": "@distiller",
        "task_weight": "@task_weight",
    }
    handlers = list(bundle.part(bundle.handlers) or [])
    at = max((i for i, handler in enumerate(handlers) if _is(handler, "ValidationHandler")), default=None)
    history = {"_target_": "monai_kd.handlers.SaveHistory", "path": "$@output_dir + '/' + @run_name + '.history.csv'"}
    if at is None:
        return [distillation, history, *handlers]
    history["validator"] = handlers[at]["validator"]
    return [distillation, *handlers[: at + 1], history, *handlers[at + 1 :]]


def _save(config: Config, bundle: TeacherBundle) -> None:
    """The network's file is named by a key; where the teacher's training writes no such file, one is saved."""
    if _saved_by_key(config):
        return
    saver = {
        "_target_": "CheckpointSaver",
        "save_dir": "@ckpt_dir",
        "save_dict": {"model": _network_reference(bundle)},
    }
    if bundle.evaluator_handlers is not None:
        best = {**saver, "save_key_metric": True, "key_metric_filename": "@checkpoint"}
        _set(config, bundle.evaluator_handlers, [*(bundle.part(bundle.evaluator_handlers) or []), best])
    else:
        last = {**saver, "save_final": True, "final_filename": "@checkpoint"}
        _set(config, bundle.handlers, [*_handlers(bundle), last])


def _saved_by_key(config: Any) -> bool:
    """Whether a ``CheckpointSaver`` writes the network's file; its name becomes the key."""
    found = False
    parts = list(config.values()) if isinstance(config, dict) else config if isinstance(config, list) else []
    if isinstance(config, dict) and _is(config, "CheckpointSaver"):
        for name in ("key_metric_filename", "final_filename"):
            if config.get(name) == _FILE:
                config[name] = "@checkpoint"
                found = True
    return any([found, *map(_saved_by_key, parts)])


def _named_by_key(config: Any) -> Any:
    """'.../model.pt' in expressions, and of a ``CheckpointLoader``, as the folder and the key."""
    if isinstance(config, list):
        return [_named_by_key(part) for part in config]
    if isinstance(config, str) and config.startswith("$"):
        return _PATH.sub(r"/\1 + @checkpoint", config)
    if not isinstance(config, dict):
        return config
    path = config.get("load_path")
    if _is(config, "CheckpointLoader") and isinstance(path, str) and not path.startswith(("$", "@")):
        config = {**config, "load_path": f"${path!r}"}
    return {key: _named_by_key(part) for key, part in config.items()}


def _is(part: Any, name: str) -> bool:
    return isinstance(part, Mapping) and str(part.get("_target_")).rpartition(".")[2] == name


def _seed(config: Config) -> Any:
    if "seed" in config:
        return config["seed"]
    found = [match for step in config.get("initialize") or [] if (match := _SEED.search(str(step)))]
    return int(found[0][2]) if found else 0


def _by_key(step: Any) -> Any:
    """A step of ``initialize`` with its seed as the key."""
    return _SEED.sub(r"\1@seed\3", step) if isinstance(step, str) else step


def _seeded(steps: Any, bundle: TeacherBundle) -> list[Any]:
    """Student and baseline begin with the same weights and see the same batches, whatever the teacher draws."""
    seed = "$monai.utils.set_determinism(seed=@seed)"
    again = [f"$@{bundle.network}", f"$@{bundle.optimizer}", seed]
    steps = [_by_key(step) for step in steps or []]
    at = next((i for i, step in enumerate(steps) if "set_determinism" in str(step)), None)
    return [seed, *again, *steps] if at is None else [*steps[: at + 1], *again, *steps[at + 1 :]]


def _set(config: Any, key: str, value: Any) -> None:
    *steps, last = keys_of(key)
    for step in steps:
        config = config[int(step)] if isinstance(config, list) else config[step]
    config[int(last) if isinstance(config, list) else last] = value
