"""Metadata, README and logging of a student's bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import monai_kd

__all__ = ["LOGGING", "readme", "student_metadata"]

_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"

LOGGING = """[loggers]
keys=root

[handlers]
keys=consoleHandler

[formatters]
keys=fullFormatter

[logger_root]
level=INFO
handlers=consoleHandler

[handler_consoleHandler]
class=StreamHandler
level=INFO
formatter=fullFormatter
args=(sys.stdout,)

[formatter_fullFormatter]
format=%(asctime)s - %(name)s - %(levelname)s - %(message)s
"""


def student_metadata(teachers: Mapping[str, Any], name: str, sizes: tuple[int, int]) -> dict[str, Any]:
    """Metadata of a student: the teacher's, with a version, name and needs of its own and no scores yet.

    Args:
        teachers: of the teacher's bundle, of any schema version.
        name: of the teacher's bundle.
        sizes: parameters of student and teacher.
    """
    described = str(teachers.get("description", "")).rstrip(". ")
    packages = teachers.get("required_packages_version") or teachers.get("optional_packages_version") or {}
    own = {
        "schema": _SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"student of {name} {teachers.get('version', '')}".rstrip()},
        "monai_version": _installed("monai"),
        "pytorch_version": _installed("torch"),
        "numpy_version": _installed("numpy"),
        "required_packages_version": {
            **{package: _installed(package, str(named)) for package, named in packages.items()},
            "pytorch-ignite": _installed("pytorch-ignite"),
            "monai-kd": monai_kd.__version__,
        },
        "supported_apps": {},
        "name": f"{teachers.get('name', name)} (distilled)",
        "description": f"{described}. A student of {sizes[0]:,} parameters, distilled from {sizes[1]:,}.".lstrip(". "),
    }
    kept = {key: value for key, value in teachers.items() if key not in (*own, "optional_packages_version")}
    if "eval_metrics" in kept:
        kept["eval_metrics"] = {}  # the teacher's are not the student's
    required = {"task": name, "authors": "", "copyright": ""}
    return {**own, **{key: value for key, value in required.items() if key not in kept}, **kept}


def readme(
    name: str,
    teacher: str,
    student: Mapping[str, Any],
    terms: Mapping[str, Any],
    sizes: tuple[int, int],
    configs: Sequence[str],
) -> str:
    """``docs/README.md`` of a student's bundle."""
    settings = [key for key in terms if key != "terms"]
    keys = "".join(f"| `{key}` | {json.dumps(terms[key])} |\n" for key in settings)
    listed = "".join(f"* `{term.get('name')}`: `{_loss(term)}`\n" for term in terms["terms"])
    inference = (
        "## Inference\n\n`models/model.pt` is the network's plain `state_dict`; no part of `monai_kd` is needed.\n\n"
        "```\npython -m monai.bundle run --config_file configs/inference.json --dataset_dir DATA\n```\n\n"
        if "inference" in configs
        else ""
    )
    return f"""# {name}

A student of `{teacher}`: {sizes[0]:,} parameters, its teacher {sizes[1]:,}. Trainer, task loss, transforms and data are
the teacher's (see `teacher_README.md`, where there is one); `monai_kd` adds the terms below to the task's loss. Whether
the student gains by them is to be measured, against the baseline.

```
{json.dumps(student, indent=4)}
```

## Training

In this folder, with `monai-kd` installed. The student, written to `models/model.pt`; it learns from
`models/teacher.pt`, or the file at `--teacher_checkpoint`:

```
python -m monai.bundle run --config_file configs/train.json --dataset_dir DATA
```

The same network alone on the same recipe, `models/baseline.pt`:

```
python -m monai.bundle run --config_file "['configs/train.json','configs/baseline.json']" --dataset_dir DATA
```

`configs/teacher.json` in its place is the teacher's network; to train that again overwrites `models/teacher.pt`, unless
`--ckpt_dir` is given.

## Terms

{listed}
| key | value |
|---|---|
{keys}
## Evaluation

Student, baseline and teacher; scores and cost go to `<run_name>.evaluation.json` in `output_dir`, scores of each case
to `<run_name>.cases.csv` (of a classification its probabilities, `<run_name>.predictions.csv`):

```
python -m monai.bundle run --config_file "['configs/train.json','configs/evaluate.json']" --dataset_dir DATA
python -m monai.bundle run --config_file "['configs/train.json','configs/baseline.json','configs/evaluate.json']" \\
    --dataset_dir DATA
python -m monai.bundle run --config_file "['configs/train.json','configs/teacher.json','configs/evaluate.json']" \\
    --dataset_dir DATA
```

All of it with several seeds, and a report on whether the student gained; the teacher is scored as it is:

```
monai-kd compare . --output ../runs --set dataset_dir=DATA
```

{inference}## Intended use

As the teacher's. The student is another model: the teacher's scores, and any approval of it, are not the student's.
"""


def _loss(term: Mapping[str, Any]) -> str:
    loss = term.get("loss")
    return str(loss.get("_target_")) if isinstance(loss, Mapping) else str(loss)


def _installed(package: str, otherwise: str = "") -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return otherwise
