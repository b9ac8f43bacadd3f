"""A comparison that is killed again and again ends as one that was never stopped."""

import json
import multiprocessing
import os
import random
import runpy
import signal
import time

import pytest

RUNNER = """
import json, os, pathlib, sys, time
arguments = json.load(open(sys.argv[2]))
folder, models = pathlib.Path(arguments["output_dir"]), pathlib.Path(arguments["ckpt_dir"])
evaluation = arguments["config_file"][-1].endswith("evaluate.json")
name, seed = arguments["run_name"], arguments["seed"]
stage = f"{name} {seed} {'evaluation' if evaluation else 'training'}"
calls = pathlib.Path(os.environ["CALLS"])

def tell(what):
    with calls.open("a") as file:
        file.write(f"{what} {stage}\\n")

tell("begins")
time.sleep(0.15)
score = (sum(map(ord, name)) + 7 * seed) % 10 / 10
if evaluation:
    cost = {"parameters": 1, "gmac": 1.0, "milliseconds": 1.0}
    scores = {"meanDice": float((models / "model.pt").read_text(encoding="utf-8"))}
    found = {"name": name, "scores": scores, "cases": 3, "cost": cost, "input_shape": [1, 1, 8, 8]}
    rows = "".join(f"case_{i},{score + i / 100}\\n" for i in range(8))
    (folder / f"{name}.cases.csv").write_text("case,meanDice\\n" + rows)
    time.sleep(0.15)
    (folder / f"{name}.evaluation.json").write_text(json.dumps(found))
else:
    models.mkdir(parents=True)  # what an interrupted training left is gone
    (models / "model.pt").write_text("half")
    time.sleep(0.15)
    (models / "model.pt").write_text(str(score))
tell("ends")
"""

COMPARE = """
import os, sys
from monai_kd.compare import compare, plan_comparison, run
os.setsid()
os.environ["CALLS"] = calls
run.RUNNER = (sys.executable, runner)
compare(plan_comparison(bundle, seeds=[0, 1]), output, "the command")
"""


@pytest.fixture
def start(tmp_path):
    """Begin or go on with the comparison ``name``, as a process group of its own."""
    configs = tmp_path / "bundle" / "configs"
    configs.mkdir(parents=True)
    network = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 3}
    for name in ("train", "evaluate", "teacher", "baseline", "metadata"):
        (configs / f"{name}.json").write_text(json.dumps({"network_def": network} if name == "train" else {}))
    (tmp_path / "runner.py").write_text(RUNNER)
    (tmp_path / "compare.py").write_text(COMPARE)
    # Imports MONAI once for all processes.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["monai_kd.compare"])

    def begin(name):
        words = {
            "bundle": str(tmp_path / "bundle"),
            "output": str(tmp_path / name),
            "calls": str(tmp_path / f"{name}.calls"),
            "runner": str(tmp_path / "runner.py"),
        }
        process = context.Process(target=runpy.run_path, args=(str(tmp_path / "compare.py"), words))
        process.start()
        return process

    return begin


def finish(process):
    process.join(timeout=300)
    assert process.exitcode == 0


def kept(folder):
    """What a report is made of; the time that runs and passes took differs."""
    files = {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".json", ".csv", ".pt") and path.name not in ("cost.json", "study.json")
    }
    for name, text in files.items():
        if name.endswith(("run.json", "trained.json")):
            files[name] = {key: value for key, value in json.loads(text).items() if key != "seconds"}
        elif name.endswith(("training.json", "evaluation.json")):
            files[name] = text.replace(str(folder), "")
    study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    return files, {key: value for key, value in study.items() if key != "created"}


def test_killed_anywhere_it_ends_the_same(start, tmp_path):
    finish(start("whole"))
    rng = random.Random(0)
    log = tmp_path / "killed.calls"
    for _ in range(5):
        before = len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0
        process = start("killed")
        while (
            process.is_alive()
            and (len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0) < before + 3
        ):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    finish(start("killed"))
    assert kept(tmp_path / "killed") == kept(tmp_path / "whole")
    lines = log.read_text(encoding="utf-8").splitlines()
    assert len(lines) > len(
        (tmp_path / "whole.calls").read_text(encoding="utf-8").splitlines()
    )  # it was stopped in the middle of runs
    for stage in {line.partition(" ")[2] for line in lines}:
        # At most the kill between a run's end and its last file makes a run be repeated, never twice in a row.
        assert 1 <= lines.count(f"ends {stage}") <= 2
