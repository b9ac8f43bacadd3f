"""Requests to MONAI Label: a teacher and its student in torch, and the student in OpenVINO, on the same CT.

Run it with the environment of ``make test-label``, which has MONAI Label:

    .venv-label/bin/python -W ignore -m benchmarks.label_infer

``make benchmark`` does not run it. One server has all forms, as bundles in MONAI Label's own app with the windows of
the kidney bundle; requests go to them in turn, round after round. A time is the CPU seconds that the server takes for
a request, on one thread; of a request the server says how much of it was the network.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import torch
from monai.bundle import ConfigParser

from benchmarks.comparing import figure
from benchmarks.ct_volumes import generated
from benchmarks.students import BUNDLES, KIDNEY, precisions, volume_network
from monai_kd.export import export_bundle
from tests.label import label_server

TORCH = {"teacher_torch": "teacher", "student_torch": "student"}
RUNTIME = {f"student_openvino_{precision}": precision for precision in ("f32", "bf16")}
BASE = "student_torch"
LATENCIES = re.compile(r"Latencies => Total: ([\d.]+); Pre: [\d.]+; Inferer: ([\d.]+);")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_infer", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="requests of each form, after one that does not count")
    parser.add_argument("--size", type=int, nargs=3, default=(160, 160, 96), help="voxels of the CT, of 1.6 mm")
    options = parser.parse_args()
    torch.set_num_threads(1)
    label_server.REQUEST_SECONDS = 3600  # a teacher on one thread
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
        os.environ["BENCHMARKS_SCRATCH"] = scratch
        root = Path(scratch)
        studies = root / "studies"
        studies.mkdir()
        shutil.copy(generated(tuple(options.size), (1.6, 1.6, 1.6)), studies / "case.nii.gz")
        app = label_server.new_app(root)
        names = write_bundles(app / "model", root)
        with label_server.serve(app, studies, names, root / "server.log") as server:
            print(table(measure(server, names, options.rounds, root)))


def write_bundles(models: Path, root: Path) -> list[str]:
    """The bundles that are served; their names."""
    for name, role in TORCH.items():
        bundle = bundle_folder(models, name)
        torch.save(volume_network(role).state_dict(), bundle / "models" / "model.pt")
    teacher = models / "teacher_torch" / "configs" / "inference.json"
    write_config(teacher, network_def=read_config(BUNDLES / KIDNEY / "configs" / "train.json")["teacher_def"])
    served = {name: precision for name, precision in RUNTIME.items() if precision in precisions()}
    for name, precision in served.items():
        exported = root / precision
        export_bundle(models / BASE, exported, precision=precision, overrides={"dataset_dir": str(root / "no data")})
        bundle = bundle_folder(models, name)
        shutil.copy(models / BASE / "models" / "model.pt", bundle / "models")
        override = read_config(bundle / "configs" / "inference_runtime.json")
        more = {"exported_dir": str(exported), "precision": precision, "num_threads": 1}
        write_config(bundle / "configs" / "inference.json", **{**override, **more})
    return [*TORCH, *served]


def bundle_folder(models: Path, name: str) -> Path:
    """The kidney bundle without training and weights, under a name."""
    shutil.copytree(BUNDLES / KIDNEY / "configs", models / name / "configs")
    (models / name / "configs" / "train.json").unlink()
    (models / name / "models").mkdir()
    return models / name


def read_config(path: Path) -> dict[str, Any]:
    return dict(ConfigParser.load_config_files(str(path)))


def write_config(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**read_config(path), **changes}), encoding="utf-8")


def measure(server: label_server.Server, names: list[str], rounds: int, root: Path) -> dict[str, dict[str, Any]]:
    """CPU seconds, the network's share of the time, and the labels, by name."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": [], "network": []} for name in names}
    for turn in range(rounds + 1):
        for name in names:
            before = server_seconds()
            query = {"image": "case", "output": "image"}
            answer, said = server.post(f"/infer/{name}", params=query, data={"params": label_server.UINT8})
            seconds = server_seconds() - before
            total, network = map(float, LATENCIES.search(said).groups())  # type: ignore[union-attr]
            if turn:
                found[name]["seconds"].append(seconds)
                found[name]["network"].append(network / total)
            (root / "label.nii.gz").write_bytes(answer.content)
            found[name]["labels"] = np.asarray(nibabel.load(root / "label.nii.gz").dataobj)
            print(f"round {turn}, {name}: {seconds:.1f} s", flush=True)
    return found


def server_seconds() -> float:
    """CPU seconds of the processes that this one has started and that still run."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(time.user + time.system for time in times)


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row a form: the ratio to the student in torch is taken round by round."""
    base = found[BASE]
    rows = ["| served | CPU seconds | times the student in torch | network's share | same labels |"]
    rows.append("| --- | ---: | ---: | ---: | ---: |")
    for name, form in found.items():
        ratios = [a / b for a, b in zip(form["seconds"], base["seconds"])]
        spread = f"{figure(min(ratios))} to {figure(max(ratios))}"
        same = "-" if name.startswith("teacher") else f"{np.mean(form['labels'] == base['labels']):.4%}"
        cells = (
            name.replace("_", " "),
            figure(statistics.median(form["seconds"])),
            f"{figure(statistics.median(ratios))} ({spread})",
            f"{statistics.median(form['network']):.0%}",
            same,
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
