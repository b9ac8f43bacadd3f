"""From the bundle of a teacher to a new bundle that trains its student."""

from __future__ import annotations

import inspect
import json
import shutil
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai.networks.nets
import torch
from monai.bundle.config_parser import ConfigParser
from torch import Tensor, nn

from monai_kd._bundle_configs import SUFFIXES, load_config, read_config
from monai_kd._bundle_scripts import importable
from monai_kd._files import write_whole
from monai_kd.checkpoints import load_weights
from monai_kd.errors import root_cause
from monai_kd.taps import describe, dry_run
from monai_kd.zoo.activation import output_activation
from monai_kd.zoo.bottleneck import bottleneck_taps
from monai_kd.zoo.default_terms import default_terms
from monai_kd.zoo.evaluation import compare_config, keep_cases
from monai_kd.zoo.scaling import network_name, scale_network
from monai_kd.zoo.student_configs import (
    evaluate_config,
    method_configs,
    multi_gpu_config,
    other_config,
    train_config,
)
from monai_kd.zoo.student_docs import LOGGING, readme, student_metadata
from monai_kd.zoo.teacher_bundle import Config, TeacherBundle, read_teacher_bundle
from monai_kd.zoo.teacher_files import copy_files

__all__ = ["DistilledBundle", "distil_bundle"]

_DRY_SIZES = (64, 96, 128)  # voxels a side that a dry run tries before the full size
_OUTSIDE = ("spatial_dims", "in_channels", "n_input_channels", "out_channels", "num_classes", "img_size")


@dataclass(frozen=True)
class DistilledBundle:
    """What :func:`distil_bundle` wrote."""

    root: Path
    student: Config
    """Definition of the student's network."""
    terms: tuple[str, ...]
    """Names of the distillation terms."""
    taps: tuple[str, str] | None
    """Layers of student and teacher that the default hint taps; ``None`` without one."""
    student_parameters: int
    teacher_parameters: int


def distil_bundle(
    teacher_bundle: str | Path,
    output: str | Path,
    width: float = 0.25,
    student: Mapping[str, Any] | str | Path | None = None,
    terms: Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | Path | None = None,
    activation: str | None = None,
) -> DistilledBundle:
    """Write a bundle that distils a trained bundle's network into a smaller one, on the same recipe.

    Trainer, losses, transforms and data are the teacher's. The student's bundle has its teacher's other files too,
    ``baseline.json`` (the student alone) and ``teacher.json``, and runs with ``python -m monai.bundle run``. The
    student is built, the teacher's weights are loaded and all terms are tried on zeros before anything appears at
    ``output``. A warning says where the student is larger than its teacher.

    Args:
        teacher_bundle: folder in the model zoo's layout, with ``models/model.pt``; it is not changed.
        output: folder of the new bundle; must not exist, or be empty.
        width: factor of the teacher's channels, see ``monai_kd.zoo.scale_network``.
        student: another network in place of the scaled one: a definition with ``_target_`` and arguments (no
            references), a JSON or YAML file of it (alone or under "network_def"), or a ``_target_``. Channels of images
            and outputs that it does not give are the teacher's.
        terms: other terms in place of the default ones (``monai_kd.zoo.default_terms``): a list of
            ``DistillationTerm`` definitions, or a mapping of "terms" and keys that they refer to, or a JSON or YAML
            file of either.
        activation: "softmax" or "sigmoid" of the output, where the bundle does not say it.

    Returns:
        What was written.

    Raises:
        FileExistsError: something is at ``output``.
        FileNotFoundError: a file of the teacher's bundle is missing.
        ImportError: a file is YAML, and PyYAML is missing.
        ValueError: what cannot be read, scaled or distilled, with the reason.
    """
    output = Path(output).absolute()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"'{output}' is there already; give another folder, or remove it.")
    bundle = read_teacher_bundle(teacher_bundle)
    if output.is_relative_to(bundle.root):
        raise ValueError(f"'{output}' lies in the teacher's bundle; give a folder outside of it.")
    with importable(bundle.root):
        parts = _parts(bundle, width, student, terms, activation)
        temporary = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
        try:
            _write(bundle, parts, temporary, output.name)
            _check(temporary, bundle)
            if output.exists():
                output.rmdir()
            temporary.rename(output)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    ours, theirs = parts.sizes
    if ours > theirs:
        warnings.warn(
            f"the student has {ours:,} parameters and is larger than its teacher, which has {theirs:,}.", stacklevel=2
        )
    return DistilledBundle(
        root=output,
        student=parts.student,
        terms=tuple(str(term.get("name")) for term in parts.terms["terms"]),
        taps=parts.taps,
        student_parameters=ours,
        teacher_parameters=theirs,
    )


@dataclass(frozen=True)
class _Parts:
    student: Config
    scaled: bool
    terms: Config
    taps: tuple[str, str] | None
    dry_shape: tuple[int, ...]
    answer: tuple[int, ...]
    sizes: tuple[int, int]


def _parts(
    bundle: TeacherBundle,
    width: float,
    student: Mapping[str, Any] | str | Path | None,
    terms: Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | Path | None,
    activation: str | None,
) -> _Parts:
    """Student, terms and taps, found with both networks at hand."""
    if activation not in (None, "sigmoid", "softmax"):
        raise ValueError(f"activation is 'sigmoid' or 'softmax', got '{activation}'.")
    written = bundle.arguments()
    arguments = {**written, "pretrained": False} if "pretrained" in written else written
    teacher = load_weights(bundle.build(arguments), bundle.checkpoint)
    if student is None:
        scaled = scale_network(bundle.target, arguments, width)
        # What is not scaled stays as it is written, with its references.
        changes = {name: value for name, value in scaled.items() if value != written.get(name)}
        definition = {**bundle.part(bundle.network), **changes}
        ours = bundle.build(scaled)
    else:
        definition = _definition(student, arguments)
        ours = bundle.build({k: v for k, v in definition.items() if k != "_target_"}, definition["_target_"])
    shape = _dry_shape(ours, teacher, bundle.input_shape())
    answer = _same_answer(ours, teacher, shape)
    taps = None
    if terms is None:
        activation = activation or output_activation(bundle.resolved, answer[1])
        taps = bottleneck_taps(ours, teacher, shape)
        found = default_terms(activation, dense=len(answer) == len(shape), taps=taps)
    else:
        found = _given_terms(terms)
    sizes = tuple(sum(parameter.numel() for parameter in network.parameters()) for network in (ours, teacher))
    return _Parts(definition, student is None, found, taps, shape, answer, sizes)  # type: ignore[arg-type]


def _definition(student: Mapping[str, Any] | str | Path, teachers: Mapping[str, Any]) -> Config:
    """A network's definition, with the teacher's channels of images and outputs where it has none."""
    content: Any = student
    if isinstance(student, str | Path):
        content = _file(student) if Path(student).suffix in SUFFIXES else {"_target_": str(student)}
    definition: Config = dict(content.get("network_def", content))
    target = definition.get("_target_")
    if not isinstance(target, str):
        raise ValueError(f"a student is a network's definition with _target_, got the keys {sorted(definition)}.")
    kind = getattr(monai.networks.nets, network_name(target), None)
    taken = inspect.signature(kind).parameters if kind is not None else {}
    spelling = {"num_classes": "out_channels", "n_input_channels": "in_channels"}
    known = {name: teachers[name] for name in _OUTSIDE if name in teachers}
    known |= {short: known[long] for long, short in spelling.items() if long in known and short not in known}
    known |= {long: known[short] for long, short in spelling.items() if short in known and long not in known}
    return {**{name: value for name, value in known.items() if name in taken}, **definition}


def _given_terms(terms: Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | Path) -> Config:
    content: Any = _file(terms) if isinstance(terms, str | Path) else terms
    content = dict(content) if isinstance(content, Mapping) else {"terms": list(content)}
    listed = content.get("terms")
    if not isinstance(listed, list) or not listed or not all(isinstance(term, Mapping) for term in listed):
        raise ValueError(
            "terms are a list of definitions {'_target_': 'monai_kd.distiller.DistillationTerm', 'name': ..., "
            f"'loss': ...}}, alone or under the key 'terms'; got {sorted(content)}."
        )
    return content


def _file(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file at '{path}'.")
    return load_config(Path(path))


def _dry_shape(student: nn.Module, teacher: nn.Module, full: tuple[int, ...]) -> tuple[int, ...]:
    """(2, C, *spatial) that both networks take in training: small, for adapters need proportions alone."""
    shapes = dict.fromkeys((2, full[1], *(min(size, most) for most in full[2:])) for size in _DRY_SIZES)
    shapes[(2, *full[1:])] = None
    for shape in shapes:
        try:
            for network in (student, teacher):
                with dry_run(network, training=True):
                    network(torch.zeros(shape))
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
            reason = f"{type(network).__name__} says: {error}"
            continue
        return shape
    raise ValueError(f"the networks do not take the images of shape {full} that metadata.json describes; {reason}")


def _same_answer(student: nn.Module, teacher: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of what both networks answer."""
    answers = []
    for network in (student, teacher):
        with dry_run(network, training=False):
            answer = network(torch.zeros(shape))
        answers.append(answer[0] if isinstance(answer, list | tuple) else answer)
    ours, theirs = answers
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor) or ours.shape != theirs.shape:
        raise ValueError(
            f"the student answers {describe(ours)}, its teacher {describe(theirs)}, for images {shape}; both must "
            "answer with one tensor (or a list that begins with it) of the same shape."
        )
    return tuple(ours.shape)


def _write(bundle: TeacherBundle, parts: _Parts, folder: Path, name: str) -> None:
    """All files of the student's bundle."""
    copy_files(bundle.root, folder)
    (folder / "configs").mkdir()
    (folder / "models").mkdir()
    (folder / "docs").mkdir(exist_ok=True)
    shutil.copyfile(bundle.checkpoint, folder / "models" / "teacher.pt")
    found = {file.stem: file for file in sorted((bundle.root / "configs").iterdir()) if file.is_file()}
    configs: dict[str, Config] = {}
    for stem, file in found.items():
        if file.suffix not in SUFFIXES:
            shutil.copyfile(file, folder / "configs" / file.name)
        elif stem not in ("train", "metadata", "baseline", "teacher", "compare"):
            content = load_config(file)
            if isinstance(content, dict):
                configs[stem] = other_config(bundle, content, parts.student, parts.scaled)
            else:  # a list of data
                shutil.copyfile(file, folder / "configs" / file.name)
    configs["train"] = train_config(bundle, parts.student, parts.terms, parts.dry_shape)
    evaluate = evaluate_config(bundle, configs.get("evaluate"))
    configs["evaluate"] = keep_cases(evaluate, configs["train"], bundle.metadata, parts.answer)
    configs["compare"] = compare_config(configs["evaluate"], configs["train"], bundle.network)
    if "multi_gpu_train" in configs:
        configs["multi_gpu_train"] = multi_gpu_config(bundle, configs["multi_gpu_train"])
    configs |= method_configs(bundle)
    configs["metadata"] = student_metadata(bundle.metadata, bundle.root.name, parts.sizes)
    for stem, config in configs.items():
        write_whole(folder / "configs" / f"{stem}.json", json.dumps(config, indent=4) + "\n")
    if not (folder / "configs" / "logging.conf").is_file():
        write_whole(folder / "configs" / "logging.conf", LOGGING)
    text = folder / "docs" / "README.md"
    if text.is_file():
        text.rename(text.with_name("teacher_README.md"))
    write_whole(text, readme(name, bundle.root.name, parts.student, parts.terms, parts.sizes, sorted(configs)))


def _check(folder: Path, bundle: TeacherBundle) -> None:
    """Make teacher, student and distiller from the written files, on the CPU."""
    _, config = read_config(folder, "train")
    parser = ConfigParser({**config, "bundle_root": str(folder)})
    if "device" in parser:
        parser["device"] = "$torch.device('cpu')"
    with torch.random.fork_rng(devices=[]):
        try:
            parser.get_parsed_content("distiller_def")
        except Exception as error:  # of MONAI's parser, around whatever went wrong
            raise ValueError(f"the student of '{bundle.root.name}' cannot be distilled: {root_cause(error)}") from error
