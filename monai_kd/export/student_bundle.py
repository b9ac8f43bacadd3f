"""A trained bundle, read for its export: the student's network, and what is done around it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle.config_parser import ConfigParser
from monai.bundle.utils import merge_kv
from torch import nn

from monai_kd._bundle_configs import find_config, load_config, read_config
from monai_kd._bundle_scripts import importable
from monai_kd.checkpoints import load_weights
from monai_kd.errors import root_cause
from monai_kd.export.known import PipelineRefused
from monai_kd.export.pipeline import output_activation, translate_pipeline

__all__ = ["StudentBundle", "read_student"]

Config = dict[str, Any]
_PREPROCESSING = ("preprocessing", "pre_transforms")
_POSTPROCESSING = ("postprocessing", "post_transforms")


@dataclass(frozen=True)
class StudentBundle:
    """A bundle and its trained student.

    Attributes:
        root: of the bundle.
        network: the student on the CPU, with its weights, in evaluation mode and without gradients.
        inference: ``inference.json`` with the changes that were asked for, but for folders and devices.
        metadata: ``metadata.json``.
        changes: files and overrides behind the bundle's own files, for its training configuration.
        channels: of the input.
        spatial_shape: of the input.
        pipeline: see :func:`~monai_kd.export.pipeline.translate_pipeline`, or ``None``.
        pipeline_refused: then, why.
        activation: see :func:`~monai_kd.export.pipeline.output_activation`.
        class_names: of the bundle, if it has them.
    """

    root: Path
    network: nn.Module
    inference: Config
    metadata: Config
    changes: tuple[tuple[Path, ...], Mapping[str, Any]]
    channels: int
    spatial_shape: tuple[int, ...]
    pipeline: Config | None
    pipeline_refused: str | None
    activation: str | None
    class_names: tuple[str, ...] | None

    def training(self) -> ConfigParser:
        """The training configuration with the same changes; nothing of it is made yet.

        Raises:
            FileNotFoundError: the bundle has none.
        """
        file, _ = read_config(self.root, "train")
        return _parser(self.root, file, *self.changes)


def read_student(
    bundle: str | Path,
    checkpoint: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    configs: Sequence[str | Path] = (),
    spatial_shape: Sequence[int] | None = None,
) -> StudentBundle:
    """Build the student of a bundle as its ``inference.json`` says, and load its weights strictly.

    Args:
        bundle: its folder.
        checkpoint: in the bundle's ``ckpt_dir`` (or ``models``), or a path; by default the bundle's ``checkpoint``, or
            ``model.pt`` where it names none.
        overrides: keys of the configuration.
        configs: files behind ``inference.json``, such as ``configs/demo.json``.
        spatial_shape: of the input, where the bundle leaves it open.

    Raises:
        FileNotFoundError: the bundle, one of its files or the checkpoint is missing.
        ValueError: the network cannot be made, or the shape of its input is not known, or is another one.
        CheckpointError: the weights are not of this network.
    """
    root = Path(bundle).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"no bundle at '{bundle}': expected a folder with configs/ and models/.")
    file, content = read_config(root, "inference")
    _, metadata = read_config(root, "metadata")
    files, changed = tuple(Path(one) for one in configs), dict(overrides or {})
    parser = _parser(root, file, files, changed)
    inference = _portable(content, _parser(root, file, files, changed, here=False)) if files or changed else content
    with ExitStack() as stack:
        stack.enter_context(importable(root))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        network = _network(parser, file)
        load_weights(network, _checkpoint(parser, root, checkpoint))
        channels, declared = _declared_input(metadata, root)
        post, _ = _part(parser, _POSTPROCESSING)
        pipeline, refused = _pipeline(parser, channels)
        names = _value(parser, "class_names")
        roi = _roi(_part(parser, ("inferer",))[0])
    used = tuple(pipeline.get("roi_size") or pipeline["size"]) if pipeline else roi or declared
    if spatial_shape is not None and used is not None and tuple(spatial_shape) != tuple(used):
        raise ValueError(
            f"spatial_shape is {tuple(spatial_shape)}, the bundle calls its network with {tuple(used)}; change that "
            "in the bundle's configuration, by overrides."
        )
    shape = used or spatial_shape
    if shape is None:
        raise ValueError(
            f"'{root.name}' leaves the size of its network's input open ({refused}); say it with spatial_shape."
        )
    return StudentBundle(
        root,
        network.eval().requires_grad_(False),
        inference,
        metadata,
        (files, changed),
        channels,
        tuple(int(size) for size in shape),
        pipeline,
        refused,
        output_activation(post),
        tuple(str(name) for name in names) if names else None,
    )


def _parser(
    root: Path, file: Path, files: Sequence[Path], overrides: Mapping[str, Any], here: bool = True
) -> ConfigParser:
    parser = ConfigParser()
    try:
        parser.read_config(str(file))
        for path in files:
            for key, value in _changes(path, parser, root).items():
                merge_kv(parser, key, value)
        for key, value in overrides.items():
            parser[key] = value
    except (KeyError, ValueError, FileNotFoundError) as error:
        raise ValueError(f"{file.name} with these changes cannot be read: {root_cause(error)}") from error
    if here:
        parser["bundle_root"] = str(overrides.get("bundle_root", root))
        if "device" in parser:
            parser["device"] = "$torch.device('cpu')"
    return parser


def _changes(path: Path, parser: ConfigParser, root: Path) -> Config:
    """What a file changes here; not changes (``a#b``) within a part that only the training configuration has."""
    changes = load_config(path)
    if not isinstance(changes, dict):
        raise ValueError(f"'{path}' holds a {type(changes).__name__}, expected a configuration by keys.")
    training = read_config(root, "train")[1] if find_config(root, "train") else {}
    kept = {}
    for key, value in changes.items():
        part = key.lstrip("+").replace("::", "#").split("#")[0]
        if part in parser or part not in training or part == key:
            kept[key if part in parser else key.lstrip("+")] = value
    return kept


def _portable(content: Config, parser: ConfigParser) -> Config:
    """The configuration with its changes, without what belongs to this machine and its data."""
    merged: Config = copy.deepcopy(parser.get())
    merged.pop("_meta_", None)
    own = {key for key in merged if key.endswith("_dir") or key in ("bundle_root", "device", "checkpoint", "datalist")}
    kept = {key: value for key, value in merged.items() if key not in own or key in content}
    return {key: content[key] if key in own else value for key, value in kept.items()}


def _network(parser: ConfigParser, file: Path) -> nn.Module:
    if parser.get("network_def") is None:
        raise ValueError(f"{file.name} has no 'network_def', the network that is exported.")
    try:
        network = parser.get_parsed_content("network_def")
    except Exception as error:  # of MONAI's parser, around whatever went wrong
        raise ValueError(f"network_def of {file.name} cannot be made: {root_cause(error)}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"network_def of {file.name} is a {type(network).__name__}, expected a torch.nn.Module.")
    return network.cpu()


def _checkpoint(parser: ConfigParser, root: Path, checkpoint: str | Path | None) -> Path:
    folder = Path(_value(parser, "ckpt_dir") or root / "models")
    if checkpoint is None:
        named = _value(parser, "checkpoint") if isinstance(parser.get("checkpoint"), str) else None
        checkpoint = named if isinstance(named, str) else "model.pt"
    inside = folder / checkpoint
    return inside if inside.is_file() or not Path(checkpoint).is_file() else Path(checkpoint)


def _declared_input(metadata: Config, root: Path) -> tuple[int, tuple[int, ...] | None]:
    """Channels of the input, and its size, if the metadata says one."""
    try:
        image = next(iter(metadata["network_data_format"]["inputs"].values()))
        channels, sizes = int(image["num_channels"]), image.get("spatial_shape", [])
    except (KeyError, TypeError, ValueError, StopIteration, AttributeError) as error:
        raise ValueError(
            f"{root / 'configs' / 'metadata.json'}: network_data_format says no num_channels of the images "
            f"({type(error).__name__}: {error})."
        ) from None
    closed = bool(sizes) and all(isinstance(size, int) for size in sizes)
    return channels, tuple(sizes) if closed else None


def _part(parser: ConfigParser, names: Sequence[str]) -> tuple[Any, str | None]:
    """The first of these that the configuration has; ``None`` and the reason where it cannot be made."""
    for name in names:
        if parser.get(name) is not None:
            try:
                return parser.get_parsed_content(name), None
            except Exception as error:  # as above
                return None, f"{name} cannot be made: {root_cause(error)}"
    return None, f"the bundle has no {names[0]}."


def _pipeline(parser: ConfigParser, channels: int) -> tuple[Config | None, str | None]:
    before, first = _part(parser, _PREPROCESSING)
    inferer, second = _part(parser, ("inferer",))
    behind, third = _part(parser, _POSTPROCESSING)
    if reason := first or second or (third if any(parser.get(name) is not None for name in _POSTPROCESSING) else None):
        return None, reason
    try:
        return translate_pipeline(before, inferer, behind, channels), None
    except PipelineRefused as refused:
        return None, str(refused)


def _value(parser: ConfigParser, key: str) -> Any:
    return parser.get_parsed_content(key) if parser.get(key) is not None else None


def _roi(inferer: Any) -> tuple[int, ...] | None:
    roi = getattr(inferer, "roi_size", None)
    return tuple(roi) if isinstance(roi, list | tuple) and min(roi, default=0) > 0 else None
