"""What distillation needs to know of a trained bundle, read from its files as they are."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle.config_parser import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver
from monai.engines.trainer import SupervisedTrainer
from torch import nn

from monai_kd._bundle_configs import read_config
from monai_kd.errors import root_cause
from monai_kd.zoo.size_pattern import usual_size

__all__ = [
    "TeacherBundle",
    "evaluator_keys",
    "keys_of",
    "part_at",
    "read_teacher_bundle",
    "referred_key",
    "resolve",
]

Config = dict[str, Any]
_COLONS = re.compile(r"@\w+(?:::\w+)+")
_OURS = {"teacher", "teacher_def", "teacher_checkpoint", "teacher_sha256", "terms", "distiller", "distiller_def"}


@dataclass(frozen=True)
class TeacherBundle:
    """A trained bundle: its files, and where in ``train.json`` the parts lie ("train#trainer", ...)."""

    root: Path
    train: Config
    """As in the file."""
    resolved: Config
    """Without macros and relative references, for reading."""
    metadata: Config
    trainer: str
    network: str
    """Of the network's definition, with ``_target_``."""
    optimizer: str
    handlers: str
    """Of the list of the trainer's handlers."""
    evaluator: str | None
    evaluator_handlers: str | None

    def part(self, key: str) -> Any:
        """The part of the resolved configuration at "a#b#0"."""
        return part_at(self.resolved, key)

    @property
    def target(self) -> str:
        """``_target_`` of the network."""
        return str(self.part(self.network)["_target_"])

    @property
    def checkpoint(self) -> Path:
        """The file of its weights."""
        return self.root / "models" / "model.pt"

    def arguments(self) -> Config:
        """Arguments of the network, with all references resolved."""
        parser = self.parser()
        keys = [key for key in self.part(self.network) if not key.startswith("_")]
        try:
            return {key: _plain(parser.get_parsed_content(f"{self.network}#{key}")) for key in keys}
        except Exception as error:  # of MONAI's parser, around whatever went wrong
            raise ValueError(
                f"the arguments of {self.target} in '{self.root}' cannot be read: {root_cause(error)}"
            ) from error

    def parser(self) -> ConfigParser:
        """A parser of the resolved configuration, on the CPU."""
        parser = ConfigParser(copy.deepcopy(self.resolved))
        if "device" in parser:
            parser["device"] = "$torch.device('cpu')"
        return parser

    def build(self, arguments: Mapping[str, Any] | None = None, target: str | None = None) -> nn.Module:
        """The network, or another one, with random weights, on the CPU; the random state is as before."""
        definition = {**(self.arguments() if arguments is None else arguments), "_target_": target or self.target}
        with torch.random.fork_rng(devices=[]):
            try:
                network = ConfigParser({"network": definition}).get_parsed_content("network")
            except Exception as error:  # of MONAI's parser, around whatever went wrong
                raise ValueError(
                    f"{definition['_target_']} cannot be made for '{self.root}': {root_cause(error)}"
                ) from error
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"{definition['_target_']} of '{self.root}' is a {type(network).__name__}, expected a torch.nn.Module."
            )
        return network

    def input_shape(self) -> tuple[int, ...]:
        """(1, C, *spatial) of the images, as the metadata has it; the smallest size of a pattern such as "16*n"."""
        try:
            image = next(iter(self.metadata["network_data_format"]["inputs"].values()))
            channels, sizes = int(image["num_channels"]), [usual_size(size) for size in image["spatial_shape"]]
        except (KeyError, TypeError, ValueError, StopIteration, AttributeError) as error:
            raise ValueError(
                f"{self.root / 'configs' / 'metadata.json'}: network_data_format says no num_channels and "
                f"spatial_shape of the images ({type(error).__name__}: {error})."
            ) from None
        return (1, channels, *sizes)


def read_teacher_bundle(path: str | Path) -> TeacherBundle:
    """Read a bundle of the model zoo's layout; nothing in it is run but what its network's arguments refer to.

    Args:
        path: folder with ``configs/train.json`` (or YAML), ``configs/metadata.json`` and ``models/model.pt``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the training has no ``SupervisedTrainer``, or its parts are not where they can be found.
    """
    root = Path(path).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"no bundle at '{path}': expected a folder with configs/ and models/.")
    train_file, train = read_config(root, "train")
    _, metadata = read_config(root, "metadata")
    if not (root / "models" / "model.pt").is_file():
        raise FileNotFoundError(
            f"'{root.name}' has no models/model.pt, the teacher's weights. A bundle of the model zoo may keep them in "
            "large_files.yml: fetch them with python -m monai.bundle download_large_files."
        )
    if taken := sorted(_OURS & train.keys()):
        raise ValueError(
            f"{train_file.name} already has the keys {taken}: it distils by itself, or these names must change. "
            "Distil from a bundle that trains one network alone."
        )
    resolved = resolve(train)
    trainer = _trainer(resolved, train_file)
    engine = part_at(resolved, trainer)
    handlers = referred_key(resolved, engine.get("train_handlers"), list) or f"{trainer}#train_handlers"
    if not isinstance(part_at(resolved, handlers), list | None):
        raise ValueError(f"{train_file.name}: {trainer}#train_handlers is no list of handlers nor a reference to one.")
    network = referred_key(resolved, engine.get("network"), dict)
    while network is not None and str(part_at(resolved, network).get("_target_")).endswith("DataParallel"):
        network = referred_key(resolved, part_at(resolved, network).get("module"), dict)
    if network is None or "_target_" not in part_at(resolved, network) or not _is_reference(engine.get("network")):
        raise ValueError(
            f"{train_file.name}: cannot find the network; expected {trainer}#network to be '@network', and that to "
            "lead to a definition with _target_."
        )
    optimizer = referred_key(resolved, engine.get("optimizer"), dict)
    if optimizer is None or "params" not in part_at(resolved, optimizer):
        raise ValueError(f"{train_file.name}: cannot find the optimizer; expected {trainer}#optimizer with 'params'.")
    evaluator, checked = evaluator_keys(resolved)
    return TeacherBundle(
        root, train, resolved, metadata, trainer, network, optimizer, handlers, evaluator, evaluator_handlers=checked
    )


def resolve(config: Config) -> Config:
    """A copy without macros and relative references."""
    parser = ConfigParser(copy.deepcopy(config))
    parser.resolve_macro_and_relative_ids()
    resolved: Config = _with_hashes(parser.get())
    return resolved


def evaluator_keys(config: Config) -> tuple[str | None, str | None]:
    """Keys of the evaluator and of the list of its handlers in a resolved configuration; ``None`` without one."""
    evaluator = next((key for key, part in _parts(config) if _is_a(part, "SupervisedEvaluator")), None)
    if evaluator is None:
        return None, None
    handlers = referred_key(config, part_at(config, evaluator).get("val_handlers"), list)
    return evaluator, handlers or f"{evaluator}#val_handlers"


def part_at(config: Any, key: str) -> Any:
    """The part of a configuration at "a#b#0"; ``None`` where there is none."""
    for step in keys_of(key):
        try:
            config = config[int(step)] if isinstance(config, list) else config[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return None
    return config


def referred_key(config: Config, value: Any, kind: type) -> str | None:
    """Key of the first part of a kind that a reference or an expression leads to."""
    if not isinstance(value, str) or value[:1] not in ("@", "$"):
        return None
    for reference in ReferenceResolver.match_refs_pattern(value):
        part = part_at(config, reference)
        if isinstance(part, list if kind is list else dict) and (kind is list or "_target_" in part):
            return "#".join(keys_of(reference))
        if isinstance(part, str) and (found := referred_key(config, part, kind)) is not None:
            return found
    return None


def keys_of(key: str) -> list[str]:
    """The steps of "a#b#0" or "a::b::0"."""
    return re.split(r"#|::", key)


def _trainer(config: Config, file: Path) -> str:
    engines = [(key, part) for key, part in _parts(config) if "train_data_loader" in part]
    for key, part in engines:
        if _is_a(part, "SupervisedTrainer") or _is_trainer(part["_target_"]):
            return key
    found = ", ".join(str(part["_target_"]) for _, part in engines) or "none"
    raise ValueError(
        f"{file.name} has no SupervisedTrainer (engines found: {found}); only its one network and one loss can be "
        "distilled as they are. For another engine add a DistillationHandler by hand."
    )


def _is_trainer(target: str) -> bool:
    """Whether a class of somebody's own is MONAI's trainer too."""
    try:
        kind = ConfigParser({"kind": {"_target_": target, "_mode_": "callable"}}).get_parsed_content("kind")
    except Exception:  # a class of the bundle's own scripts, not on the path
        return False
    return isinstance(kind, type) and issubclass(kind, SupervisedTrainer)


def _is_a(part: Mapping[str, Any], name: str) -> bool:
    return str(part["_target_"]).rpartition(".")[2] == name


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("@")


def _parts(config: Any, key: str = "") -> Iterator[tuple[str, Config]]:
    """All components (with ``_target_``) by key."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield key, config
        items = list(config.items())
    else:
        items = [(str(i), part) for i, part in enumerate(config)] if isinstance(config, list) else []
    for step, part in items:
        yield from _parts(part, f"{key}#{step}" if key else str(step))


def _with_hashes(config: Any) -> Any:
    """References as bundles write them, "@a#b"; the parser makes them "@a::b", which not every reader knows."""
    if isinstance(config, list):
        return [_with_hashes(part) for part in config]
    if isinstance(config, dict):
        return {key: _with_hashes(part) for key, part in config.items()}
    return _COLONS.sub(lambda found: found[0].replace("::", "#"), config) if isinstance(config, str) else config


def _plain(value: Any) -> Any:
    """Tuples and MONAI's wrappers as what JSON has."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value
