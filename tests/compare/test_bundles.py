"""Bundles compared from end to end; what the report says is computed again from the predictions that were stored."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

import monai_kd
from monai_kd.compare import compare, plan_comparison
from monai_kd.data import HAM10000_CLASSES, lesion_image, make_ct_cases
from monai_kd.report.page import write_report

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

BUNDLES = Path(monai_kd.__file__).parents[1] / "bundles"
NAMES = ("teacher", "baseline", "distilled")
COMMON = {"device": "$torch.device('cpu')", "epochs": 1, "num_workers": 0, "log_interval": 1000}

LESIONS = {
    "image_size": 32,
    "batch_size": 8,
    "network_def#channels": [4, 6, 8, 16],
    "network_def#depths": [1, 1, 1, 1],
    "network_def#num_heads": 2,
    "network_def#dim_head": 4,
    "teacher_def#channels": [4, 6, 8],
    "teacher_def#depths": [2, 1, 2],
    "teacher_def#hidden_size": 8,
}
KIDNEYS = {
    "spacing": [8.0, 8.0, 8.0],
    "patch_size": [32, 32, 32],
    "dry_run_size": [32, 32, 32],
    "strides": [1, 2, 2],
    "deep_supervision_heads": 1,
    "epoch_length": 2,
    "network_def#filters": [4, 8, 8],
    "teacher_def#filters": [8, 8, 16],
}


def run(bundle, data, tiny, folder):
    """One seed of the bundle's comparison, and its report's numbers."""
    config = folder / "tiny.json"
    config.write_text(json.dumps({**COMMON, **tiny, "dataset_dir": str(data)}))
    runs = compare(plan_comparison(BUNDLES / bundle, seeds=[0], config_files=[config]), folder / "runs")
    return runs, json.loads(write_report(runs).with_suffix(".json").read_text(encoding="utf-8"))


def lesions(root):
    """Six lesions of each class, so that every split has every class."""
    (root / "images").mkdir(parents=True)
    rows = ["lesion_id,image_id,dx"]
    for index, name in enumerate(HAM10000_CLASSES):
        for seed in range(6):
            number = len(rows)
            Image.fromarray(lesion_image(index, (36, 44), seed=seed)).save(root / "images" / f"ISIC_{number:03}.jpg")
            rows.append(f"HAM_{name}_{seed},ISIC_{number:03},{name}")
    (root / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")
    return root


def test_numbers_of_a_classification_are_those_of_its_predictions(tmp_path):
    runs, report = run("hdkd_skin_lesion_classification", lesions(tmp_path / "data"), LESIONS, tmp_path)
    right = {}
    for name in NAMES:
        with open(runs / name / "seed_0" / f"{name}.predictions.csv", encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
        true = [row[2] for row in rows]
        predicted = [head[3 + int(np.argmax([float(cell) for cell in row[3:]]))] for row in rows]
        found = report["networks"][name]["scores"]["balanced_accuracy"]["mean"]
        assert found == pytest.approx(balanced_accuracy_score(true, predicted), abs=1e-6)
        assert (
            report["classification"]["confusion"][name] == confusion_matrix(true, predicted, labels=head[3:]).tolist()
        )
        right[name] = {row[0]: float(a == b) for row, a, b in zip(rows, true, predicted)}
    assert report["score"] == "balanced_accuracy"
    for row in report["comparisons"]["distilled"]["by_case"]:
        assert row["scores"] == {name: right[name][row["case"]] for name in NAMES}
    assert report["run"]["data"]["split"].keys() == {"training", "unlabelled", "validation", "test"}
    assert report["run"]["data"]["split"]["test"] == len(right["teacher"])
    assert (runs / "report.html").read_text(encoding="utf-8").count(
        "data:image/jpeg"
    ) > 0  # pictures of gained and lost cases


def test_numbers_of_a_segmentation_are_those_of_its_masks(tmp_path):
    ids = json.loads((Path(monai_kd.__file__).parent / "data" / "splits" / "kits19.json").read_text(encoding="utf-8"))
    ids = ids["training"][:3] + ids["validation"][:1] + ids["test"][:2]
    data = make_ct_cases(tmp_path / "data", count=6, organ="kidney", ids=ids, size=(40, 40, 32), spacing=(8.0,) * 3)
    runs, report = run("hlfd_kidney_tumor_segmentation", data, KIDNEYS, tmp_path)
    cases = report["run"]["data"]["test_cases"]
    assert len(cases) == 2
    for name in NAMES:
        dice = {"kidney": [], "tumour": []}
        for case in cases:
            truth = np.asarray(nibabel.load(case["label"]).dataobj)
            folder = Path(case["image"]).parent.name
            mask = nibabel.load(runs / name / "seed_0" / "masks" / folder / "imaging_seg.nii.gz")
            assert np.allclose(mask.affine, nibabel.load(case["image"]).affine)
            for region, labels in (("kidney", (1, 2)), ("tumour", (2,))):
                true, found = np.isin(truth, labels), np.isin(np.asarray(mask.dataobj), labels)
                total = true.sum() + found.sum()
                dice[region].append(2 * (true & found).sum() / total if total else np.nan)
        scores = report["networks"][name]["scores"]
        for region, values in dice.items():
            assert scores[f"Dice_{region}"]["mean"] == pytest.approx(np.nanmean(values), abs=1e-6)
        by_case = [row["scores"][name] for row in report["comparisons"]["distilled"]["by_case"]]
        assert by_case == pytest.approx(np.nanmean(list(dice.values()), axis=0).tolist(), abs=1e-6)
    assert report["networks"]["teacher"]["cost"]["parameters"] > report["networks"]["distilled"]["cost"]["parameters"]
    assert not (runs / "cache").exists()
