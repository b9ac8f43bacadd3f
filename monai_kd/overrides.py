"""Misspelt keys of a bundle's run, which MONAI adds to the configuration without a word."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from monai.bundle.config_parser import ConfigParser
from monai.bundle.scripts import create_workflow, update_kwargs
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS
from monai.bundle.workflows import ConfigWorkflow

from monai_kd._bundle_configs import SUFFIXES, load_config

__all__ = ["check_overrides", "did_you_mean", "missing_part", "override_problems"]

_REFERENCE = re.compile(r"[@%](#*|(?:::)*)(\w+(?:(?:#|::)\w+)*)")
_WORDS = {"true": "True", "false": "False", "null": "'$None'"}
_READ_AS_TEXT = re.compile(r"\bstr\(@(\w+)\)\.lower\(\)")
_WHOLE = "#*"
_NOTE = "nothing reads it (a note's key begins with '_')."
# What MONAI itself asks for: lists that it runs, arguments of its run.
_MONAIS = {"imports", "initialize", "run", "finalize", "workflow_name", *inspect.signature(ConfigWorkflow).parameters}


def check_overrides() -> None:
    """Refuse keys that the ``monai.bundle run`` in progress was given and its configuration does not have.

    MONAI adds such a key to the configuration, where nothing reads it: a misspelt ``--epohcs 3`` trains the default
    number of epochs. A bundle calls this at the beginning of ``initialize``. It knows what ``run`` (or
    ``create_workflow``) was called with, by ``args_file`` too; called from anywhere else, as when a program makes a
    ``ConfigWorkflow`` of its own, it does nothing.

    Raises:
        ValueError: as :func:`override_problems` finds it, all in one message.

    Example:
        >>> check_overrides()  # nothing runs
    """
    given = _given()
    if given is not None and (problems := override_problems(*given)):
        raise ValueError("\n".join(problems))


def override_problems(files: Sequence[str | Path], overrides: Mapping[str, Any] | None = None) -> list[str]:
    """What is wrong with the keys of a run, a line each.

    The first file that has ``run`` is the bundle's own. A key of an override, or of another file, is one of that file
    or of one before, or one that something refers to (``@key``, ``%key``). A file of a bundle may also hold keys of the
    others beside it, for it may follow several. Of a path "a#b", each part must be there; what is within a component
    (``_target_``), or in a mapping that is referred to as a whole, may be new. A key that begins with "_" is a note.
    The words ``true``, ``false`` and ``null`` arrive as text on the command line, which Python takes for true: they are
    problems too, unless a bundle takes the word itself (``str(@key).lower()``).

    Args:
        files: configurations in the order in which they are merged.
        overrides: by key, as MONAI gets them.

    Raises:
        ValueError: a file cannot be read.

    Example:
        >>> import json, tempfile
        >>> train = Path(tempfile.mkdtemp(), "train.json")
        >>> _ = train.write_text(json.dumps({"epochs": 100, "amp": True}))
        >>> override_problems([train], {"epochs": 3, "helper": 1, "amp": "$@helper > 0"})
        []
        >>> override_problems([train], {"epohcs": 3})
        ["no key 'epohcs' in train.json; did you mean 'epochs'?"]
        >>> override_problems([train], {"amp": "false"})
        ["'amp' was given the text 'false', which is not the value; write --amp False."]
    """
    overrides = dict(overrides or {})
    contents = [load_config(Path(file)) for file in files]
    tracking = _tracking(overrides.get("tracking"))
    texts = list(_texts([contents, overrides, tracking]))
    references = {name for text in texts for name in _references(text)}
    words = {name for text in texts for name in _READ_AS_TEXT.findall(text)}
    programs = [number for number, content in enumerate(contents) if isinstance(content, Mapping) and "run" in content]
    folders = {Path(files[number]).resolve().parent for number in programs}
    first = programs[0] if programs else 0
    problems, before, known = [], [files[first]], _merged([files[first]])
    for number, (file, content) in enumerate(zip(files, contents)):
        if number != first and isinstance(content, Mapping):
            unknown = _unknown(known, content, references)
            beside = _beside(Path(file)) if unknown and Path(file).resolve().parent in folders else set()
            place = f"{_names(before)}, which {Path(file).name} sets"
            problems += [_problem(known, key, place) for key in unknown if key.removeprefix("+") not in beside]
            before.append(file)
            known = _merged(before)
    known = _merged(files)
    unknown = _unknown(known, overrides, references | set(tracking))
    problems += [_problem(known, key, _names(files)) for key in unknown]
    return problems + [
        f"'{key}' was given the text '{value}', which is not the value; write --{key} {_WORDS[value.lower()]}."
        for key, value in overrides.items()
        if isinstance(value, str) and value.lower() in _WORDS and key not in words
    ]


def did_you_mean(name: str, known: Iterable[str], count: int = 1) -> str:
    """The closest of the known names as a question, or nothing.

    Example:
        >>> did_you_mean("epohcs", ["epochs", "seed"])
        "did you mean 'epochs'?"
    """
    close = get_close_matches(name, list(known), n=count, cutoff=0.6)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else ""


def missing_part(config: Any, key: str) -> tuple[str, list[str]] | None:
    """The first part of the path "a#b" that a configuration lacks and the names beside it; ``None`` if it is whole."""
    steps, component = _steps(key), False
    for depth, step in enumerate(steps):
        component = component or (depth > 0 and isinstance(config, Mapping) and "_target_" in config)
        if isinstance(config, list) and step.isdecimal() and int(step) < len(config):
            config = config[int(step)]
        elif isinstance(config, Mapping) and step in config:
            config = config[step]
        elif isinstance(config, Mapping):
            if component:
                return None  # an argument that it has a default for, or an entry of one
            before = "".join(f"{one}#" for one in steps[:depth])
            return before + step, [f"{before}{name}" for name in config]
        else:
            return None  # of an expression or a list: MONAI says what it cannot do
    return None


def _unknown(config: Any, keys: Iterable[str], references: set[str]) -> list[str]:
    """Those of the keys that the configuration lacks, that nothing refers to and that are not MONAI's own."""
    found = []
    for key in keys:
        lacking, _ = missing_part(config, key) or ("", [])
        steps = lacking.split("#")
        is_monais = lacking in _MONAIS or any(step.startswith("_") for step in steps)
        around = {"#".join(steps[:-1]) + _WHOLE, f"#{steps[-2]}{_WHOLE}"} if len(steps) > 1 else set()
        if lacking and not is_monais and not {lacking, f"#{steps[-1]}", *around} & references:
            found.append(key)
    return found


def _problem(config: Any, key: str, place: str) -> str:
    lacking, beside = missing_part(config, key) or (key, [])
    guess = did_you_mean(lacking, beside)
    return f"no key '{lacking}' in {place}; {guess or _NOTE}"


def _steps(key: str) -> list[str]:
    return key.removeprefix("+").replace("::", "#").split("#")


def _references(text: str) -> Iterator[str]:
    """Keys that a value refers to, and the paths before them; relative ones as "#name". What is meant as a whole also
    ends with "#*"."""
    for relative, path in _REFERENCE.findall(text):
        steps = _steps(path)
        yield from (f"#{step}" for step in steps if relative)
        yield from ("#".join(steps[: end + 1]) for end in range(len(steps)))
        yield (f"#{steps[-1]}" if relative else "#".join(steps)) + _WHOLE


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)


def _beside(file: Path) -> set[str]:
    """Keys of the other configurations in the folder of a file."""
    names: set[str] = set()
    for other in file.resolve().parent.iterdir():
        if other.suffix in SUFFIXES and other.name not in ("metadata.json", file.name):
            try:
                content = load_config(other)
            except (ImportError, ValueError):
                continue  # not of this run
            names |= {_steps(key)[0] for key in content} if isinstance(content, Mapping) else set()
    return names


def _merged(files: Sequence[str | Path]) -> Any:
    merged = ConfigParser()
    merged.read_config([str(file) for file in files])
    return merged.get()


def _tracking(given: Any) -> Mapping[str, Any]:
    """What experiment tracking adds to a configuration, by key; its settings are MONAI's, a file's or a mapping."""
    if not isinstance(given, Mapping):
        known = isinstance(given, str) and given in DEFAULT_EXP_MGMT_SETTINGS
        given = DEFAULT_EXP_MGMT_SETTINGS[given] if known else load_config(Path(given)) if given else {}
    added = given.get("configs") if isinstance(given, Mapping) else None
    return added if isinstance(added, Mapping) else {}


def _names(files: Sequence[str | Path]) -> str:
    return ", ".join(Path(file).name for file in files)


def _given() -> tuple[list[str], dict[str, Any]] | None:
    """Files and overrides of the call of ``create_workflow`` that this one is within.

    An expression of a bundle can name neither, nor the parser that has merged them.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not create_workflow.__code__:
        frame = frame.f_back
    if frame is None:
        return None
    called = frame.f_locals
    every = update_kwargs(args=called["args_file"], config_file=called["config_file"], **called["kwargs"])
    files = every.pop("config_file", None)
    if files is None:
        return None
    return [str(files)] if isinstance(files, str | Path) else list(files), every
