"""Folders of comparisons made by hand, small enough to be recomputed by the tests."""

import csv
import json

import numpy as np
import pytest

LEVELS = {"teacher": 0.85, "baseline": 0.70, "distilled": 0.78}
SKILLS = {"teacher": 2.6, "baseline": 1.0, "distilled": 1.9}
COST = {"parameters": 1000, "gmac": 0.5, "milliseconds": 2.0}


def write_table(path, head, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])


class Runs:
    """Writes study.json and finished runs below ``root``."""

    def __init__(self, root, score, seeds, roles, **about):
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        study = {
            "bundle": "kidney_tumor_segmentation",
            "bundle_version": "0.1.0",
            "command": ["monai-kd", "compare", "bundles/kidney", "--seeds", *map(str, seeds)],
            "config_files": ["configs/train.json", "configs/demo.json"],
            "overrides": {"epochs": 4},
            "score": score,
            "seeds": list(seeds),
            "networks": {
                name: {
                    "role": role,
                    "files": [] if role == "student" else [f"{role}.json"],
                    "seeds": list(seeds[:2] if role == "teacher" else seeds),
                }
                for name, role in roles.items()
            },
            "data": {"dataset_dir": str(root / "data"), "test_cases": 0, "split": {"training": 40, "test": 24}},
            "versions": {"monai": "1.6.1", "torch": "2.13.0"},
            "git": None,
            "created": "2026-01-31 12:00",
        }
        (root / "study.json").write_text(json.dumps(study | about))

    def edit(self, change):
        """Change study.json by a function."""
        path = self.root / "study.json"
        study = json.loads(path.read_text(encoding="utf-8"))
        change(study)
        path.write_text(json.dumps(study))

    def run(self, name, seed, scores, head, rows, kind, cost=COST, history=True):
        folder = self.root / name / f"seed_{seed}"
        (folder / "models").mkdir(parents=True)
        (folder / "models" / f"{name}.pt").write_bytes(bytes(cost["parameters"] * 4))
        raw = {"name": name, "scores": scores, "cases": len(rows), "cost": cost, "input_shape": [1, 1, 32, 32, 32]}
        (folder / f"{name}.evaluation.json").write_text(json.dumps(raw))
        write_table(folder / f"{name}.{kind}.csv", head, rows)
        if history:
            noise = np.random.default_rng(seed + 7)
            term = ["soft_target"] if name not in ("teacher", "baseline") else []
            final = next(iter(scores.values()))
            table = []
            for epoch in range(1, 11):
                fall = float(np.exp(-epoch / 4)) * noise.uniform(0.95, 1.05)
                value = f"{final * (1 - np.exp(-epoch / 3)):.4f}" if epoch % 2 == 0 else ""
                table.append([epoch, 0.2 + fall, *[0.5 * fall] * len(term), value])
            write_table(folder / f"{name}.history.csv", ["epoch", "loss", *term, next(iter(scores))], table)
        checkpoint = f"{name}/seed_{seed}/models/{name}.pt"
        done = {"network": name, "seed": seed, "seconds": 61.5, "checkpoint": checkpoint}
        (folder / "run.json").write_text(json.dumps(done))
        return folder


@pytest.fixture
def segmentation(tmp_path):
    """Builds a comparison of segmentations; returns its ``Runs`` and the Dice by (network, seed), shape (cases, 2)."""

    def build(
        root=None,
        levels=LEVELS,
        seeds=(0, 1, 2),
        cases=24,
        regions=("kidney", "tumour"),
        spread=0.05,
        auxiliary=(),
        **about,
    ):
        roles = {name: name if name in ("teacher", "baseline") else "student" for name in levels}
        roles |= dict.fromkeys(auxiliary, "auxiliary")
        runs = Runs(root or tmp_path / "runs", "meanDice", seeds, roles, **about)
        dice = {}
        hard = np.random.default_rng(1).normal(0, 0.08, (cases, len(regions)))
        for place, (name, level) in enumerate(levels.items()):
            for seed in seeds[: 2 if roles[name] == "teacher" else None]:
                noise = np.random.default_rng([place, seed])
                values = level + hard + noise.normal(0, spread, hard.shape) + noise.normal(0, 0.005)
                dice[name, seed] = values = np.clip(values - 0.1 * np.arange(len(regions)), 0, 1).round(6)
                write_segmentation(runs, name, seed, values, regions)
        return runs, dice

    return build


def write_segmentation(runs, name, seed, values, regions=("kidney", "tumour"), names=None):
    """One run; ``values`` is Dice, shape (cases, regions), NaN where a case has none."""
    names = names or [f"labelsTr/case_{index:03}.nii.gz" for index in range(len(values))]
    means = {f"Dice_{region}": column[~np.isnan(column)] for region, column in zip(regions, values.T)}
    means = {key: float(column.mean()) if len(column) else None for key, column in means.items()}
    known = [mean for mean in means.values() if mean is not None]
    scores = {"meanDice": float(np.mean(known)) if known else None, **means, "cases": len(values)}
    rows = [[n, *("" if np.isnan(v) else v for v in row)] for n, row in zip(names, values)]
    cost = {"parameters": 4000, "gmac": 2.0, "milliseconds": 8.0} if name == "teacher" else COST
    return runs.run(name, seed, scores, ["case", *means], rows, "cases", cost)


@pytest.fixture
def classification(tmp_path):
    """Builds a comparison of classifications; returns its ``Runs``, the true classes and the probabilities."""

    def build(
        root=None,
        score="balanced_accuracy",
        classes=("naevus", "melanoma", "keratosis"),
        images=90,
        absent=(),
        skills=SKILLS,
        auxiliary=(),
    ):
        from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

        roles = {name: name if name in ("teacher", "baseline") else "student" for name in skills}
        roles |= dict.fromkeys(auxiliary, "auxiliary")
        runs = Runs(root or tmp_path / "predictions", score, (0, 1), roles, bundle="skin_lesion_classification")
        generator = np.random.default_rng(3)
        present = [index for index, name in enumerate(classes) if name not in absent]
        labels = generator.choice(present, images, p=[0.6, *[0.4 / (len(present) - 1)] * (len(present) - 1)])
        easy = generator.normal(0, 1, (images, len(classes)))
        found = {}
        for place, (name, skill) in enumerate(skills.items()):
            for seed in (0, 1):
                noise = np.random.default_rng([place, seed]).normal(0, 0.5, easy.shape)
                logits = easy + noise + skill * np.eye(len(classes))[labels]
                p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
                found[name, seed] = p = p.round(6)
                scores = {
                    score: None,
                    "accuracy": accuracy_score(labels, p.argmax(1)),
                    "balanced_accuracy": balanced_accuracy_score(labels, p.argmax(1)),
                    "macro_auc": np.mean([roc_auc_score(labels == k, p[:, k]) for k in present]),
                    **{
                        f"recall_{one}": (p.argmax(1)[labels == k] == k).mean() if k in present else None
                        for k, one in enumerate(classes)
                    },
                }
                rows = [
                    [f"images/img_{i:03}.png", classes[p[i].argmax()], classes[labels[i]], *p[i]] for i in range(images)
                ]
                head = ["image", "class", "label", *classes]
                runs.run(name, seed, scores, head, rows, "predictions")
        return runs, labels, found

    return build
