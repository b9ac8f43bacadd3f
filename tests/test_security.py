"""What the package may not do, whatever it is given: read pickles, run text, start a shell."""

import ast
import json
import re
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for room in ("monai_kd", "label_app", "deploy_app") for path in (ROOT / room).rglob("*.py"))
# By their whole name, however they were imported.
REFUSED = re.compile(
    r"os\.(system|popen|startfile|exec\w+|spawn\w+|posix_spawnp?)|pty\.spawn|subprocess\.(getoutput|getstatusoutput)|"
    r"tempfile\.mktemp|(\w+\.)*(read_pickle|to_pickle|unsafe_load)|yaml\.(load|load_all|full_load|full_load_all)|"
    r"torch\.(\w+\.)+load|torch\.(hub|package)\b.*|numpy\.(\w+\.)+(load|read_array)|runpy\.\w+"
)
CALLED = {"eval", "exec", "compile", "__import__"}  # of Python itself; others may have the name
# Of ``pickle`` two names alone: what a broken file may raise.
PICKLES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "jsonpickle"}
ERRORS = {"pickle.UnpicklingError", "pickle.PicklingError"}
SHELLS = {f"subprocess.{name}" for name in ("run", "call", "check_call", "check_output", "Popen")}
SAME = {"torch.serialization.load": "torch.load", "numpy.lib.npyio.load": "numpy.load", "posix.system": "os.system"}
STATED = {
    "monai_kd/export/torchscript.py": {"torch.jit.load"},  # the file that it has just written
}


def imported(tree):
    """What names of a module stand for, by ``import`` and ``from``; the usual ones anyway."""
    found = {"np": "numpy", "pd": "pandas", "th": "torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                found[one.asname or one.name.partition(".")[0]] = one.name if one.asname else one.name.partition(".")[0]
        if isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            found |= {one.asname or one.name: f"{source}.{one.name}" for one in node.names}
    return found


def name(node, known):
    """ "a.b.c" of an expression, from the module that it comes from."""
    if isinstance(node, ast.Attribute):
        whole = f"{name(node.value, known)}.{node.attr}"
    else:
        whole = known.get(node.id, node.id) if isinstance(node, ast.Name) else "?"
    return SAME.get(whole, whole).removeprefix("builtins.")


def is_pickle(whole):
    return whole.partition(".")[0] in PICKLES and whole not in ERRORS


def faults(source):
    """Lines of a module that do what none may."""
    tree = ast.parse(source)
    known, found = imported(tree), []
    # "pickle" is refused, but as a part of the two names
    parts = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and name(node, known) in ERRORS
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import):
            found += [(one.name, line) for one in node.names if one.name != "pickle" and is_pickle(one.name)]
        elif isinstance(node, ast.ImportFrom):
            wholes = [f"{node.module}.{one.name}" for one in node.names]
            bad = [one for one in wholes if is_pickle(one) or one.endswith(".*") or REFUSED.fullmatch(one)]
            found += [(one, line) for one in bad if not node.level]
        elif isinstance(node, ast.Name | ast.Attribute):
            whole = name(node, known)
            if REFUSED.fullmatch(whole) or (is_pickle(whole) and id(node) not in parts):
                found.append((whole, line))
        elif isinstance(node, ast.Call):
            found += [(what, line) for what in faults_of_call(node, name(node.func, known))]
    return found


def faults_of_call(node, called):
    given, hidden = {}, any(isinstance(one, ast.Starred) for one in node.args)
    for keyword in node.keywords:
        if keyword.arg is not None:
            given[keyword.arg] = keyword.value
        elif isinstance(keyword.value, ast.Dict) and all(isinstance(key, ast.Constant) for key in keyword.value.keys):
            given |= {key.value: value for key, value in zip(keyword.value.keys, keyword.value.values)}
        else:
            hidden = True

    def says(value, expected):
        return isinstance(value, ast.Constant) and value.value is expected

    if called in CALLED:
        yield called
    for key, expected in (("shell", False), ("allow_pickle", False), ("weights_only", True)):
        if key in given and not says(given[key], expected):
            yield key
    if called == "torch.load" and (hidden or "weights_only" not in given):
        yield called
    if called == "numpy.load" and (hidden or not all(says(value, False) for value in node.args[2:3])):
        yield called
    if called in SHELLS and (hidden or len(node.args) > 1):
        yield called


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_in_a_file_is_executed(path):
    stated = STATED.get(path.relative_to(ROOT).as_posix(), set())
    assert [fault for fault in faults(path.read_text(encoding="utf-8")) if fault[0] not in stated] == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "import builtins; builtins.eval(text)",
        "from builtins import exec as do; do(text)",
        "import pickle; pickle.loads(b'')",
        "import pickle as p; p.loads(b'')",
        "import pickle; getattr(pickle, 'loads')",
        "from pickle import loads",
        "from pickle import *",
        "import _pickle",
        "import joblib as j; j.load(path)",
        "from joblib import load",
        "import dill.source",
        "pd.read_pickle(path)",
        "import pandas as tables; tables.read_pickle(path)",
        "frame.to_pickle(path)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=strict)",
        "torch.load(path, **how)",
        "torch.load(path, **{'weights_only': False})",
        "torch.load(path, **{'weights_only': True, **how})",
        "from torch import load; load(path)",
        "import torch as t; t.load(path)",
        "import torch.serialization; torch.serialization.load(path)",
        "from torch import serialization; serialization.load(path)",
        "import torch.jit as j; j.load(path)",
        "from torch.hub import load_state_dict_from_url",
        "PersistentDataset(data, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "import numpy; numpy.load(path, None, True)",
        "from numpy import load; load(path, None, flag)",
        "np.load(path, **how)",
        "np.load(*how)",
        "subprocess.run(words, shell=True)",
        "from subprocess import run; run(words, **{'shell': True})",
        "from subprocess import run as start; start(words, **how)",
        "import subprocess; subprocess.Popen(words, -1, None, None, None, None, None, True, True)",
        "from subprocess import getoutput; getoutput(words)",
        "os.system(words)",
        "import os as o; o.system(words)",
        "from os import system; system(words)",
        "from os import system as start; map(start, words)",
        "from os import *",
        "start = os.popen",
        "os.execvp(words[0], words)",
        "yaml.load(text)",
        "from yaml import unsafe_load; unsafe_load(text)",
    ],
)
def test_the_rule_finds_it(line):
    assert faults(line)


@pytest.mark.parametrize(
    "line",
    [
        "network.eval()",
        "re.compile(text)",
        "import pickle; wrong = pickle.UnpicklingError",
        "import pickle as p; wrong = (p.UnpicklingError, OSError)",
        "from pickle import UnpicklingError; wrong = UnpicklingError",
        "torch.load(p, weights_only=True)",
        "from torch import load; load(p, weights_only=True)",
        "np.load(path)",
        "np.load(path, None, False)",
        "import subprocess; subprocess.run(words, check=True)",
        "import yaml; yaml.safe_load(text)",
        "json.load(file)",
        "from .pickle import loads",
        "make(**how)",
    ],
)
def test_the_rule_passes_over_it(line):
    assert not faults(line)


def test_configurations_of_the_bundles_start_nothing():
    """They are programs all the same; ours have no call that a reader would have to look at twice."""
    suspicious = re.compile(
        r"\b(eval|exec|open|urlopen|__import__)\(|\b(system|popen|subprocess|pickle|weights_only)\b"
    )
    for path in (ROOT / "bundles").glob("*/configs/*.json"):
        assert not (found := suspicious.search(path.read_text(encoding="utf-8"))), f"{path}: {found}"


# What SECURITY.md says.


def versions():
    """Rows of its table, (package, version)."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w-]+)(?: \(extra `\w+`\))? \| ([\d.]+) \|", text, re.MULTILINE)
    assert len(rows) >= 5
    return rows


def number(version):
    return [int(part) for part in version.split(".")]


@pytest.mark.parametrize(("package", "least"), versions())
def test_installed_and_tested_versions_are_above_known_holes(package, least):
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    required = re.findall(rf"^{package}>=([\d.]+)", "\n".join(lines), re.MULTILINE)
    assert set(required) == {least}
    tested = dict(
        line.lower().split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    )
    assert number(tested[package]) >= number(least)


def test_keys_that_it_names_are_there():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+_sha256)`", text))
    trains = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "bundles").glob("*/configs/train.json")]
    assert named == {key for train in trains for key in train if key.endswith("_sha256")}
