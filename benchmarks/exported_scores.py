"""What an exported student scores on a test split: bf16 and int8 against float32, and against the bundle itself.

Not one of ``python -m benchmarks``, for it needs a student that was trained, and its data::

    python -m benchmarks.exported_scores NAME BUNDLE CKPT_DIR DATASET_DIR [--config FILE ...] [--set KEY=VALUE ...]

The student is exported in each precision with the bundle's own training cases for int8, and the bundle's
``evaluate.json`` scores it with ``inference_runtime.json``: MONAI's chain with the exported network in it. Scores are
mean Dice or balanced accuracy. "Lost on validation" is what ``monai-kd export`` measures; beyond 0.005 it would refuse
the student. The rows are added to ``results/exported_scores.json``, which ``python -m benchmarks.table`` reads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.__main__ import HERE, machine
from benchmarks.comparing import Bar
from benchmarks.students import BUNDLES

TORCH, LIMITS = "torch", {"bf16": 0.001, "int8": 0.005}
SCORES = ("meanDice", "balanced_accuracy")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exported_scores", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", help="of the case in the table")
    parser.add_argument("bundle", choices=sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
    parser.add_argument("ckpt_dir", type=Path, help="folder of model.pt")
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("--config", type=Path, action="append", default=[], help="a recipe behind train.json")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "exported_scores.json")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    changes = dict(change.split("=", 1) for change in options.changes)
    changes |= {"dataset_dir": str(options.dataset_dir.resolve()), "ckpt_dir": str(options.ckpt_dir.resolve())}
    root, rows = BUNDLES / options.bundle, []
    with tempfile.TemporaryDirectory() as scratch:
        for precision in (TORCH, "f32", *LIMITS):
            folder = Path(scratch, precision)
            validation = None if precision == TORCH else _export(root, folder, precision, options.config, changes)
            found = _evaluate(root, folder, precision, options.config, changes)
            score = next(name for name in SCORES if name in found["scores"])
            value = {"score": found["scores"][score]}
            if validation is not None and validation["drop"] is not None:
                value |= {"lost on validation": validation["drop"], "of validation cases": validation["cases"]}
            rows.append({"case": options.name, "form": precision, "rounds": 1, "seconds": None, "value": value})
            rows[-1] |= {"low": None, "high": None, "megabytes": None, "cases": found["cases"]}
            print(f"{options.name}, {precision}: {score} {value} on {found['cases']} cases", flush=True)
    _write(options.output, options.name, rows)


def _export(root: Path, folder: Path, precision: str, configs: list[Path], changes: dict[str, str]) -> Any:
    command = [sys.executable, "-W", "ignore", "-m", "monai_kd", "export", str(root), "-o", str(folder), "--json"]
    command += ["--precision", precision, "--max-drop", "1"]  # what it loses is the question here
    command += [word for path in configs for word in ("--config", str(path))]
    command += [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    said = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
    return json.loads(said[said.index("{\n") :])["accuracy"]


def _evaluate(root: Path, folder: Path, precision: str, configs: list[Path], changes: dict[str, str]) -> dict[str, Any]:
    own, output = root / "configs", folder / "scores"
    files = [own / "train.json", *configs, own / "evaluate.json"]
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--bundle_root", str(root)]
    command += ["--meta_file", str(own / "metadata.json"), "--logging_file", "False", "--device", "cpu"]
    if precision != TORCH:
        files.append(own / "inference_runtime.json")
        command += ["--exported_dir", str(folder), "--precision", precision, "--num_threads", "1"]
    command += [
        "--config_file",
        str([str(path) for path in files]),
        "--output_dir",
        str(output),
        "--run_name",
        "student",
    ]
    command += [word for key, value in changes.items() for word in (f"--{key}", value)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    found: dict[str, Any] = json.loads((output / "student.evaluation.json").read_text(encoding="utf-8"))
    return found


def _write(path: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """The file with these rows in the place of earlier ones of that name, and the bars of all of them."""
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    rows = [row for row in before if row["case"] != name] + rows
    bars = []
    for case in dict.fromkeys(row["case"] for row in rows):
        values = {row["form"]: row["value"] for row in rows if row["case"] == case}
        for precision, limit in LIMITS.items():
            drop, validation = values["f32"]["score"] - values[precision]["score"], values[precision]
            note = ""
            if validation.get("lost on validation", 0) > limit:
                note = (
                    f"It loses {validation['lost on validation']:.3f} on validation cases: monai-kd export refuses it."
                )
            what = f"{case}, {precision}, score lost on the test split"
            bars.append(Bar("P8", what, drop, limit, most=True, note=note))
    about = (__doc__ or "").split("\n\n")
    record = {"benchmark": "exported_scores", "what": about[0], "about": "\n\n".join((about[0], about[-1].strip()))}
    record |= {"quick": False, "machine": machine(), "rows": rows, "bars": [bar.as_json() for bar in bars]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
