from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import ActivationsD
from torch import nn

from monai_kd.handlers import SavePredictions
from monai_kd.report.case_tables import read_cases

NAMES = ("nv", "mel", "bkl")
ROWS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.25, 0.5, 0.25], [0.3, 0.4, 0.3], [0.9, 0.05, 0.05]])
FILES = ["/set/d.jpg", "/set/b.jpg", "/set/x/a.jpg", "/set/y/a.jpg", "/set/c.jpg"]
LABELS = [0, 1, 1, 2, 0]


def items(files=FILES, labels=LABELS, rows=ROWS) -> list[dict]:
    data = [{"image": MetaTensor(row.log(), meta={"filename_or_obj": file})} for row, file in zip(rows, files)]
    return [item | ({} if label is None else {"label": label}) for item, label in zip(data, labels)]


def evaluate(data: list[dict], save: SavePredictions, batch_size: int = 2, **kwargs) -> None:
    kwargs.setdefault("postprocessing", ActivationsD(keys="pred", softmax=True))
    loader = DataLoader(Dataset(data), batch_size=batch_size)
    SupervisedEvaluator(torch.device("cpu"), loader, nn.Identity(), val_handlers=[save], **kwargs).run()


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_one_row_an_image_in_the_order_of_the_data(tmp_path):
    path = tmp_path / "new" / "predictions.csv"
    save = SavePredictions(path, NAMES)
    for _ in range(2):  # the second run starts anew
        evaluate(items(), save)
    rows = read(path)
    assert list(rows[0]) == ["image", "class", "label", *NAMES]
    assert [row["image"] for row in rows] == FILES
    assert [row["class"] for row in rows] == ["nv", "bkl", "mel", "mel", "nv"]
    assert [row["label"] for row in rows] == ["nv", "mel", "mel", "bkl", "nv"]
    found = torch.tensor([[float(row[name]) for name in NAMES] for row in rows])
    torch.testing.assert_close(found, ROWS, atol=1e-6, rtol=1e-5)
    assert list(path.parent.iterdir()) == [path]


def test_without_labels(tmp_path):
    path = tmp_path / "predictions.csv"
    evaluate(items(labels=[None] * 5), SavePredictions(path, NAMES, root="/set"))
    rows = read(path)
    assert list(rows[0]) == ["image", "class", *NAMES]
    assert [row["image"] for row in rows] == ["d.jpg", "b.jpg", "x/a.jpg", "y/a.jpg", "c.jpg"]


def test_an_image_without_a_label_has_an_empty_cell(tmp_path):
    path = tmp_path / "predictions.csv"
    evaluate(items(labels=[0, None, 1, 2, 0]), SavePredictions(path, NAMES), batch_size=1)
    assert [row["label"] for row in read(path)] == ["nv", "", "mel", "bkl", "nv"]


def test_without_decollation(tmp_path):
    path = tmp_path / "predictions.csv"
    network = nn.Softmax(dim=1)
    batch = {"image": MetaTensor(ROWS.log()), "label": torch.tensor(LABELS)[:, None]}
    save = SavePredictions(path, NAMES)
    SupervisedEvaluator(torch.device("cpu"), [batch], network, val_handlers=[save], decollate=False).run()
    rows = read(path)
    assert [row["class"] for row in rows] == ["nv", "bkl", "mel", "mel", "nv"]
    assert [row["image"] for row in rows] == [f"unnamed_0_0000{i}" for i in range(5)]


def test_names_are_quoted_and_no_formulas(tmp_path):
    path = tmp_path / "predictions.csv"
    files = ['/set/a,"b".jpg', "=cmd|' /C calc'!A0.jpg", "@x.jpg", "-1.jpg", "/set/=2+3.jpg"]
    evaluate(items(files), SavePredictions(path, ("nv", "mel, in situ", "bkl"), root="/set"))
    rows = read(path)
    assert [row["image"] for row in rows] == ['a,"b".jpg', "'=cmd|' /C calc'!A0.jpg", "'@x.jpg", "'-1.jpg", "'=2+3.jpg"]
    assert rows[2]["class"] == "mel, in situ"
    assert float(rows[2]["mel, in situ"]) == pytest.approx(0.5)


def test_images_outside_root_keep_their_name(tmp_path):
    path = tmp_path / "predictions.csv"
    evaluate(items(["/settings/d.jpg", "/set/../other/b.jpg", *FILES[2:]]), SavePredictions(path, NAMES, root="/set/"))
    assert [row["image"] for row in read(path)][:3] == ["/settings/d.jpg", "/set/../other/b.jpg", "x/a.jpg"]


def test_one_process_numbers_images_that_come_twice(tmp_path):
    path = tmp_path / "run.predictions.csv"
    files = ["/set/d.jpg", "/set/a.jpg", "/set/d.jpg", "/set/d.jpg", "/set/a.jpg"]
    evaluate(items(files), SavePredictions(path, NAMES, root="/set"))
    names = ["d.jpg", "a.jpg", "d.jpg#2", "d.jpg#3", "a.jpg#2"]
    assert [row["image"] for row in read(path)] == names
    assert read_cases(tmp_path, "run").names == tuple(names)


def test_an_interrupted_run_or_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "predictions.csv"
    path.write_text("old")
    rows = ROWS.clone()
    rows[4, 1] = torch.nan
    with pytest.raises(ValueError, match=r"1 of 5 images are not finite, the first that of '/set/c\.jpg'"):
        evaluate(items(rows=rows), SavePredictions(path, NAMES))

    def fail(*_):
        raise OSError("disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        evaluate(items(), SavePredictions(path, NAMES))
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def _save_a_share(rank: int, folder: str) -> None:
    # What a DistributedSampler hands out: every second image, the first one again; then one image for two processes.
    for turn, share in enumerate([[[0, 2, 4], [1, 3, 0]][rank], [[3], []][rank]]):
        save = SavePredictions(f"{folder}/predictions{turn}_{rank}.csv", NAMES)
        data = items()
        if share:
            evaluate([data[i] for i in share], save)
        else:
            save._reset()
            save._write()


@pytest.mark.slow
def test_two_processes_write_what_one_does(tmp_path, in_processes):
    in_processes(_save_a_share)
    evaluate(items(), SavePredictions(tmp_path / "one.csv", NAMES))
    assert (tmp_path / "predictions0_0.csv").read_text(encoding="utf-8") == (tmp_path / "one.csv").read_text(
        encoding="utf-8"
    )
    assert [row["image"] for row in read(tmp_path / "predictions1_0.csv")] == ["/set/y/a.jpg"]
    assert not list(tmp_path.glob("*_1.csv"))


def test_messages(tmp_path):
    for names in ("ab", ["a"], ["a", "a"], ["a", "label"]):
        with pytest.raises(ValueError, match="two or more different names, none of them image, class, label"):
            SavePredictions(tmp_path / "p.csv", names)
    save = SavePredictions(tmp_path / "p.csv", NAMES)
    with pytest.raises(ValueError, match="Apply a softmax to logits"):
        evaluate(items(), save, postprocessing=None)
    with pytest.raises(ValueError, match=r"from 0 to 2 \(nv, mel, bkl\); '/set/b\.jpg' has 3"):
        evaluate(items(labels=[0, 3, 1, 2, 0]), save)
    with pytest.raises(ValueError, match=r"shape \(2,\) for a, b; got a prediction of shape \(3,\)"):
        evaluate(items(), SavePredictions(tmp_path / "p.csv", ["a", "b"]))
    assert not list(tmp_path.iterdir())
