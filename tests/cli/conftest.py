import json
from pathlib import Path

import pytest

import monai_kd


@pytest.fixture(autouse=True)
def _plain_output(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def bundles():
    """The folder of the repository's bundles."""
    return Path(monai_kd.__file__).parents[1] / "bundles"


@pytest.fixture
def to_yaml():
    """Writes the configuration of a bundle anew as YAML; skips where PyYAML is missing."""
    yaml = pytest.importorskip("yaml")

    def write(root):
        for file in (root / "configs").glob("*.json"):
            file.with_suffix(".yaml").write_text(yaml.safe_dump(json.loads(file.read_text(encoding="utf-8"))))
            file.unlink()
        return root

    return write


@pytest.fixture
def write_runs():
    """Writes a comparison of a baseline and a better student, two seeds each, as if it had been run."""

    def write(root):
        root.mkdir(parents=True, exist_ok=True)
        networks = {"baseline": {"role": "baseline"}, "distilled": {"role": "student"}}
        study = {"bundle": "task", "score": "meanDice", "seeds": [0, 1], "networks": networks}
        (root / "study.json").write_text(json.dumps(study))
        for name, score in (("baseline", 0.5), ("distilled", 0.7)):
            for seed in (0, 1):
                folder = root / name / f"seed_{seed}"
                folder.mkdir(parents=True)
                evaluation = {
                    "name": name,
                    "scores": {"meanDice": score + 0.001 * seed},
                    "cases": 4,
                    "cost": {"parameters": 10, "gmac": 0.1, "milliseconds": 1.0},
                    "input_shape": [1, 1, 8, 8],
                }
                (folder / f"{name}.evaluation.json").write_text(json.dumps(evaluation))
                (folder / "run.json").write_text(json.dumps({"network": name, "seed": seed, "seconds": 1.0}))
        return root

    return write
