"""A distilled bundle compared with its baseline and teacher, to the end."""

import json

import pytest
import torch

from monai_kd.compare import compare, plan_comparison
from monai_kd.report.page import write_report
from monai_kd.zoo import distil_bundle

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

# The fixture's validation has one case; a test over cases needs more.
CASES = {"validate#dataset#data": "$[{'image': i, 'label': l} for i, l in zip(@images, @labels)]"}


def test_a_distilled_bundle_is_compared_case_by_case(zoo, tmp_path):
    teacher = zoo("spleen_ct_segmentation")
    bundle = distil_bundle(teacher, tmp_path / "student").root
    before = (bundle / "models" / "teacher.pt").read_bytes()
    (tmp_path / "cases.json").write_text(json.dumps(CASES))
    overrides = {
        "dataset_dir": str(teacher.with_name("data")),
        "train#trainer#max_epochs": 1,
        "device": "$torch.device('cpu')",
    }
    plan = plan_comparison(bundle, seeds=[0, 1], config_files=[tmp_path / "cases.json"], overrides=overrides)
    runs = compare(plan, tmp_path / "runs")

    report = json.loads(write_report(runs).with_suffix(".json").read_text(encoding="utf-8"))
    (result,) = report["comparisons"].values()
    assert result["cases"]["cases"] == 3
    assert {row["case"] for row in result["by_case"]} == {f"labelsTr/case_{i}.nii.gz" for i in range(3)}
    assert report["score"] == "val_mean_dice"
    assert {name: one["seeds"] for name, one in report["networks"].items()} == {
        "teacher": [0],
        "baseline": [0, 1],
        "distilled": [0, 1],
    }
    assert report["per_class"]["kinds"]["Dice"] == {"class 1": "Dice_class 1"}
    assert set(report["histories"]["distilled"]) == {"0", "1"}
    assert "hint" in report["histories"]["distilled"]["0"]
    assert len(list(runs.glob("*/seed_*/masks/imagesTr/case_*_seg.nii.gz"))) == 15

    # The teacher is scored as it is.
    assert not (runs / "teacher" / "seed_0" / "models").exists()
    assert (bundle / "models" / "teacher.pt").read_bytes() == before
    weights = [torch.load(runs / "distilled" / f"seed_{i}" / "models" / "model.pt", weights_only=True) for i in (0, 1)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
