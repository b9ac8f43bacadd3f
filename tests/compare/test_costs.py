"""Which networks are timed, and with what."""

import json

from monai.bundle import ConfigParser

from monai_kd.compare.costs import measure_costs
from monai_kd.report.cost import load_costs


def recipe(channels):
    conv = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": channels, "kernel_size": 3}
    return ConfigParser({"net": conv})


def test_networks_of_one_kind_have_one_measurement(tmp_path):
    cost = {"parameters": 1, "gmac": 1.0, "milliseconds": 1.0}
    sizes = {"teacher": 8, "baseline": 16, "distilled": 16, "larger": 32}
    for name, size in sizes.items():
        found = {"name": name, "scores": {"a": 1.0}, "cases": 1, "cost": cost, "input_shape": [1, 1, size, size]}
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.evaluation.json").write_text(json.dumps(found))
    recipes = {name: recipe(4 if name == "teacher" else 2) for name in sizes}
    measure_costs(tmp_path, recipes, {name: tmp_path / name for name in sizes}, "net")
    costs, _ = load_costs(tmp_path)
    assert list(costs) == list(sizes)
    assert costs["baseline"] == costs["distilled"]
    assert (costs["teacher"].parameters, costs["baseline"].parameters) == (40, 20)
    assert costs["larger"].gmac > costs["distilled"].gmac  # the same layers on a larger input
