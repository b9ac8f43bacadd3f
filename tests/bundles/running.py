"""Bundles run as a user runs them, and what they leave read back."""

import ast
import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from PIL import Image

from monai_kd.errors import user_message

BUNDLES = Path(__file__).parents[2] / "bundles"
PYTHON = [sys.executable, "-W", "ignore"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


class Bundle:
    """A folder of bundles/. Configurations are named as in its ``configs``, or are paths of their own."""

    def __init__(self, name):
        self.folder = BUNDLES / name
        self.configs = self.folder / "configs"

    def places(self, data, folder):
        """What every run is told: where data are read and results written, without a GPU and without workers."""
        return {
            "bundle_root": str(self.folder),
            "dataset_dir": str(data),
            "ckpt_dir": str(folder / "models"),
            "output_dir": str(folder / "eval"),
            "device": "cpu",
            "num_workers": 0,
        }

    def paths(self, names):
        return [str(self.configs / name) for name in names]

    def workflow(self, *names, kind="train", **overrides):
        return ConfigWorkflow(
            config_file=self.paths(names),
            meta_file=str(self.configs / "metadata.json"),
            logging_file=False,
            workflow_type=kind,
            **overrides,
        )

    def run(self, *names, **overrides):
        flow = self.workflow(*names, **overrides)
        flow.initialize()
        flow.run()
        flow.finalize()
        return flow

    def stop(self, done, *names, **overrides):
        """The run, interrupted in the middle of the epoch after so many."""
        flow = self.workflow(*names, **overrides)
        flow.initialize()
        trainer = flow.parser.get_parsed_content("train#trainer")

        def interrupt():
            raise KeyboardInterrupt

        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=done * trainer.state.epoch_length + 1), interrupt)
        with pytest.raises(KeyboardInterrupt):
            flow.run()
        assert trainer.state.epoch == done + 1

    def stop_within(self, step, *names, **overrides):
        """The run, sent SIGTERM in that step, counted over all epochs."""
        flow = self.workflow(*names, **overrides)
        flow.initialize()
        trainer = flow.parser.get_parsed_content("train#trainer")
        trainer.add_event_handler(Events.ITERATION_STARTED(once=step), lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(SystemExit) as caught:
            flow.run()
        assert caught.value.code == 143

    def unstarted(self, *names, **overrides):
        """The parser of a run whose ``initialize`` is left out."""
        flow = self.workflow(*names, **overrides)
        flow.parser["initialize"] = []
        flow.initialize()
        return flow.parser

    def message_of(self, *names, **overrides):
        """The one line with which the run ends."""
        with pytest.raises(Exception) as caught:  # noqa: PT011
            self.run(*names, **overrides)
        return user_message(caught.value)

    def words(self, launcher, *names, **overrides):
        """The command line of the run."""
        words = [*launcher, "-m", "monai.bundle", "run", "--config_file", str(self.paths(names))]
        words += ["--logging_file", "False", "--meta_file", str(self.configs / "metadata.json")]
        for key, value in overrides.items():
            words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
        return words

    def start(self, launcher, *names, **overrides):
        """The run in processes of its own."""
        words = self.words(launcher, *names, **overrides)
        return subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment()
        )

    def command(self, launcher, *names, **overrides):
        """Exit status, output, and the part of it meant as errors, of the run in processes of its own."""
        return finished(self.start(launcher, *names, **overrides))

    def own_keys(self, name):
        return set(json.loads((self.configs / name).read_text(encoding="utf-8")))

    def readme(self):
        return (self.folder / "docs" / "README.md").read_text(encoding="utf-8")

    def readme_commands(self):
        """The words of each command of the README, in its order."""
        blocks = re.findall(r"^```\n((?:python|torchrun|for) .*?)^```", self.readme(), re.MULTILINE | re.DOTALL)
        lines = "".join(blocks).replace("\\\n", " ").splitlines()
        return [shlex.split(line) for line in lines if line.split()[0] in ("python", "torchrun")]

    def readme_runs(self):
        """Configurations and overrides of each bundle that the README's commands run."""
        return [files_and_keys(words) for words in self.readme_commands() if "monai.bundle" in words]


def environment():
    """Of a process that sums in the order of this one."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def finished(process):
    """Exit status, output, and the part of it meant as errors, of a run that was started."""
    try:
        shown, errors = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, shown + errors, errors


def files_and_keys(words):
    """Configurations and overrides of a command line that runs a bundle."""
    options = words[words.index("run") + 1 :]
    given = {key.removeprefix("--"): value for key, value in zip(options[::2], options[1::2])}
    configs = given.pop("config_file")
    return ast.literal_eval(configs) if configs.startswith("[") else [configs], given


def weights(path):
    return torch.load(path, weights_only=True)


def differing(a, b, where=""):
    """Where two states are not bit-equal."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in differing(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [found for i, pair in enumerate(zip(a, b)) for found in differing(*pair, f"{where}/{i}")]
    equal = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
    return [] if equal else [where]


def results(folder):
    """What a training leaves in ``places``, by file: checkpoints and the table of its epochs."""
    models = {f"models/{name}": weights(folder / "models" / name) for name in files(folder / "models")}
    return models | {f"eval/{path.name}": path.read_bytes() for path in (folder / "eval").glob("*.history.csv")}


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def seen(path, size=32, hidden=None):
    """A picture in a network's size, uint8 (3, size, size), made without MONAI; ``hidden`` is blacked out."""
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float()
    if hidden is not None:
        pixels[(slice(None), *hidden)] = 0
    return torch.nn.functional.interpolate(pixels[None], size=(size, size), mode="area")[0].to(torch.uint8)


def standardised(picture):
    """A picture of 8 bits, (3, H, W), less ImageNet's mean, in its standard deviations."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
    return (picture.float() - mean) / std


def normalised(path, size=32, hidden=None):
    """What a network sees of a file, made without MONAI."""
    return standardised(seen(path, size, hidden))
