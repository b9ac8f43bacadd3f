import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_kd.data import APTOS_CLASSES, DataError, aptos_datalist, check_classes

PARTS = ("training", "validation", "test")


def write(root, grades, pixels=lambda number: number):
    """Images of the names and grades, the bytes of number n depending on ``pixels(n)`` alone."""
    (root / "train_images").mkdir(exist_ok=True)
    for number, name in enumerate(grades):
        values = np.random.default_rng(pixels(number)).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(values).save(root / "train_images" / f"{name}.png")
    write_table(root, grades)
    return root


def write_table(root, grades):
    lines = [f"{name},{grade}" for name, grade in grades.items()]
    (root / "train.csv").write_text("\n".join(["id_code,diagnosis", *lines]))


GRADES = {f"{number:04x}": number % 5 for number in range(60)}


@pytest.fixture
def root(tmp_path):
    return write(tmp_path, GRADES)


def names(data):
    return sorted(Path(item["image"]).stem for items in data.values() for item in items)


def test_images_get_the_grade_of_the_table(root, caplog):
    data = aptos_datalist(root)
    assert names(data) == sorted(GRADES)
    for item in (item for part in PARTS for item in data[part]):
        assert item["label"] == GRADES[Path(item["image"]).stem]
    for part, count in zip(PARTS, (42, 5, 12)):
        assert len(data[part]) == pytest.approx(count, abs=1)
        assert {item["label"] for item in data[part]} == set(range(len(APTOS_CLASSES)))
    report = check_classes([item for part in PARTS for item in data[part]], len(APTOS_CLASSES))
    assert not report.errors + report.warnings, str(report)
    assert not caplog.records


def test_order_of_the_table_does_not_matter(root):
    before = aptos_datalist(root, labelled_fraction=0.5)
    rows = list(GRADES.items())
    random.Random(0).shuffle(rows)
    write_table(root, dict(rows))
    assert aptos_datalist(str(root), labelled_fraction=0.5) == before


def test_arguments_reach_the_split(root):
    tests = [aptos_datalist(root, fold=fold, folds=3)["test"] for fold in range(3)]
    assert names(dict(enumerate(tests))) == sorted(GRADES)
    assert aptos_datalist(root, val_fraction=0)["validation"] == []
    training = aptos_datalist(root, labelled_fraction=0.01)["training"]
    assert Counter(item["label"] for item in training if "label" in item) == dict.fromkeys(range(5), 1)
    assert sorted(item["index"] for item in training)[-5:] == list(range(5))
    assert aptos_datalist(root, seed=1) != aptos_datalist(root, seed=2)
    with pytest.raises(ValueError, match="folds must be 2 or more"):
        aptos_datalist(root, folds=0)


def test_of_equal_images_one_is_kept_if_the_grades_agree(tmp_path, caplog):
    # 5 and 10 repeat 0 with its grade; 1 and 2 are one image with two grades, and so are 3, 8 and 14.
    same = {5: 0, 10: 0, 2: 1, 8: 3, 14: 3}
    write(tmp_path, GRADES, lambda number: same.get(number, number))
    data = aptos_datalist(tmp_path)
    gone = {f"{number:04x}" for number in (5, 10, 1, 2, 3, 8, 14)}
    assert names(data) == sorted(set(GRADES) - gone)
    write_table(tmp_path, dict(reversed(GRADES.items())))
    assert aptos_datalist(tmp_path) == data
    assert caplog.messages == 2 * [
        "images with equal bytes: 2 left out that repeat another's image and grade, 5 left out whose grades differ."
    ]


def test_all_that_does_not_fit_is_said_at_once(root):
    (root / "train_images" / "0000.png").unlink()
    (root / "train_images" / "extra.png").write_bytes(b"")
    write_table(root, {**GRADES, "0003": 5, "0004": ""})
    with (root / "train.csv").open("a") as file:
        file.write("\n0007,2")
    with pytest.raises(DataError) as caught:
        aptos_datalist(root)
    assert str(caught.value).splitlines()[1:] == [
        "1 id_code listed more than once: 0007",
        "1 of 60 listed images not found (is the download complete, is all of it unpacked?): 0000",
        f"1 images not listed in train.csv: {root / 'train_images' / 'extra.png'}",
        "2 rows with a diagnosis that is none of 0, 1, 2, 3, 4: 0003 '5', 0004 ''",
    ]


def test_wrong_folders_say_what_is_expected(root):
    with pytest.raises(FileNotFoundError, match=r"no train\.csv or no train_images/ in .*nowhere"):
        aptos_datalist(root / "nowhere")
    (root / "train.csv").unlink()
    with pytest.raises(FileNotFoundError, match="expected both"):
        aptos_datalist(root)
