import csv
import os
import random
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_kd.data import (
    BRAIN_MRI_CLASSES,
    DataError,
    brain_mri_datalist,
    check_classes,
    make_brain_mri_images,
    near_duplicate_groups,
)

PARTS = ("training", "validation", "test")


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    return Path(make_brain_mri_images(tmp_path_factory.mktemp("generated") / "slices", count=120, size=48))


def write_noise(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24), dtype=np.uint8)).save(path)


@pytest.fixture
def flat(tmp_path):
    """Ten images a class, no two of them alike."""
    for number in range(40):
        name = BRAIN_MRI_CLASSES[number % 4]
        write_noise(tmp_path / name / f"{name}_{number:02d}.jpg", number)
    return tmp_path


def write_groups(root, groups, columns=("image", "near_duplicate_group")):
    with (root / "groups.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *groups.items()])


def images(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.jpg"))


def names(root, items):
    return [Path(item["image"]).relative_to(root).as_posix() for item in items]


def problems(root):
    with pytest.raises(DataError) as caught:
        brain_mri_datalist(root)
    return str(caught.value).splitlines()


def test_images_get_the_class_of_their_folder(generated, flat):
    for root in (generated, flat):
        data = brain_mri_datalist(root)
        items = [item for part in PARTS for item in data[part]]
        assert sorted(names(root, items)) == images(root)
        assert all(BRAIN_MRI_CLASSES[item["label"]] == Path(item["image"]).parent.name for item in items)
        report = check_classes(items, 4)
        assert not report.errors + report.warnings, str(report)


def test_published_parts_are_put_together(generated):
    test = names(generated, brain_mri_datalist(generated)["test"])
    assert {name.split("/")[0] for name in test} == {"Training", "Testing"}


def test_no_near_duplicates_are_in_two_parts(generated):
    paths = [str(generated / name) for name in images(generated)]
    group = dict(zip(paths, near_duplicate_groups(paths)))
    count = len(set(group.values()))
    assert count < 115
    for fold in range(5):
        data = brain_mri_datalist(generated, fold=fold, seed=fold)
        homes = [{group[item["image"]] for item in data[part]} for part in PARTS]
        assert all(homes)
        assert sum(map(len, homes)) == len(set.union(*homes)) == count


def test_folds_hold_all_images_once(flat):
    tests = [names(flat, brain_mri_datalist(flat, fold=fold)["test"]) for fold in range(5)]
    assert sorted(name for test in tests for name in test) == images(flat)
    for fold in range(5):
        data = brain_mri_datalist(flat, fold=fold)
        assert [Counter(item["label"] for item in data[part]) for part in PARTS] == [
            Counter(dict.fromkeys(range(4), count)) for count in (7, 1, 2)
        ]


def test_groups_of_the_table_come_first(flat):
    """Images of a group stay together though they are not alike; images that are alike need not."""
    shutil.copy(flat / "glioma" / "glioma_00.jpg", flat / "glioma" / "glioma_99.jpg")
    groups = {name: name if "9" in name else f"g{int(name[-6:-4]) // 8}" for name in images(flat)}
    write_groups(flat, groups)
    alone = 0
    for fold in range(3):
        data = brain_mri_datalist(flat, fold=fold, folds=3)
        homes = [{groups[name] for name in names(flat, data[part])} for part in PARTS]
        assert sum(map(len, homes)) == len(set.union(*homes))
        home = {name: part for part in PARTS for name in names(flat, data[part])}
        alone += home["glioma/glioma_00.jpg"] != home["glioma/glioma_99.jpg"]
    assert alone


def test_order_of_files_and_rows_and_place_do_not_matter(flat, tmp_path_factory, monkeypatch):
    before = brain_mri_datalist(str(flat), labelled_fraction=0.5)
    groups = {name: name for name in images(flat)}
    rows = list(groups.items())
    random.Random(0).shuffle(rows)
    write_groups(flat, dict(rows))
    walk = os.walk

    def shuffled(top, **kwargs):
        for folder, subfolders, files in walk(top, **kwargs):
            random.Random(1).shuffle(files)
            yield folder, subfolders, files

    monkeypatch.setattr(os, "walk", shuffled)
    assert brain_mri_datalist(flat, labelled_fraction=0.5) == before
    (flat / "groups.csv").unlink()
    assert brain_mri_datalist(flat, labelled_fraction=0.5) == before
    other = tmp_path_factory.mktemp("other") / "slices"
    shutil.copytree(flat, other)
    moved = brain_mri_datalist(other, labelled_fraction=0.5)
    assert {part: names(other, items) for part, items in moved.items()} == {
        part: names(flat, items) for part, items in before.items()
    }


def test_arguments_reach_the_split(flat):
    assert brain_mri_datalist(flat, val_fraction=0)["validation"] == []
    training = brain_mri_datalist(flat, labelled_fraction=0.01)["training"]
    assert Counter(item["label"] for item in training if "label" in item) == dict.fromkeys(range(4), 1)
    assert [item["index"] for item in training if "label" in item] == list(range(4))
    assert {item["index"] for item in training if "label" not in item} == {-1}
    assert brain_mri_datalist(flat, seed=1) != brain_mri_datalist(flat, seed=2)
    with pytest.raises(ValueError, match="fold must be one of 0 to 4 with folds=5, got 5"):
        brain_mri_datalist(flat, fold=5)


def test_what_else_the_folder_holds_is_passed_over(flat):
    before = brain_mri_datalist(flat)
    write_noise(flat / "preview" / "a.jpg", 90)
    write_noise(flat / "glioma" / ".thumbnail.jpg", 91)
    (flat / "glioma" / "notes.txt").write_text("glioma")
    assert brain_mri_datalist(flat) == before


def test_missing_and_empty_folders_are_said_at_once(flat):
    shutil.rmtree(flat / "notumor")
    for path in (flat / "pituitary").iterdir():
        path.unlink()
    (flat / "glioma" / "more").mkdir()
    write_noise(flat / "glioma" / "more" / "glioma_00.png", 3)
    lines = problems(flat)
    assert lines[0] == f"not all of the images are in '{flat}':"
    assert lines[1].startswith(f"two images of one name: {flat / 'glioma' / 'glioma_00.jpg'} and")
    assert [line.split(" (")[0] for line in lines[2:]] == [
        f"no image in {flat / 'notumor'}",
        f"no image in {flat / 'pituitary'}",
    ]


def test_one_published_part_is_not_enough(generated, tmp_path):
    shutil.copytree(generated / "Training", tmp_path / "Training")
    assert len(problems(tmp_path)) == 5
    assert problems(tmp_path)[1].startswith(f"no image in {tmp_path / 'Testing' / 'glioma'}")


def test_all_that_does_not_fit_the_table_is_said_at_once(flat):
    groups = dict.fromkeys(images(flat), "g")
    del groups["glioma/glioma_00.jpg"]
    groups["glioma/nowhere.jpg"] = "g"
    groups["glioma/glioma_04.jpg"] = ""
    write_groups(flat, groups)
    with (flat / "groups.csv").open("a") as file:
        file.write("notumor/notumor_02.jpg,g\n")
    assert problems(flat) == [
        f"images in '{flat}' and groups.csv do not fit:",
        "1 images listed more than once: notumor/notumor_02.jpg",
        "1 images not listed in groups.csv (remove it to look for near duplicates anew): glioma/glioma_00.jpg",
        "1 of 40 listed images not found (is the download complete?): glioma/nowhere.jpg",
        "1 rows without near_duplicate_group: glioma/glioma_04.jpg",
    ]
    write_groups(flat, groups, columns=("image", "group"))
    assert "no column near_duplicate_group; expected image, near_duplicate_group, got image, group" in problems(flat)[0]


def test_unreadable_images_are_said_at_once(flat):
    for name in ("glioma_00", "glioma_04"):
        (flat / "glioma" / f"{name}.jpg").write_text("no image")
    lines = problems(flat)
    assert lines[0] == "2 of 40 images cannot be read:"
    assert [line.split(":")[0] for line in lines[1:]] == [
        str(flat / "glioma" / f"{name}.jpg") for name in ("glioma_00", "glioma_04")
    ]


def test_wrong_folders_say_what_is_expected(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no folder of a class in .*; expected glioma, meningioma"):
            brain_mri_datalist(folder)


def test_progress_is_shown_when_asked_for(flat, capfd):
    brain_mri_datalist(flat)
    assert "near duplicates" not in capfd.readouterr().err
    brain_mri_datalist(flat, progress=True)
    assert "near duplicates" in capfd.readouterr().err


def real():
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("set MONAI_KD_DATA to a folder with brain_tumor_mri/ to test on real slices")
    root = Path(os.environ["MONAI_KD_DATA"]) / "brain_tumor_mri"
    if not root.is_dir():
        pytest.skip("no brain_tumor_mri below $MONAI_KD_DATA")
    with (root / "groups.csv").open(newline="", encoding="utf-8") as file:
        return root, {row["image"]: row["near_duplicate_group"] for row in csv.DictReader(file)}


def test_on_brain_tumor_mri():
    root, groups = real()
    tests = []
    for fold in range(5):
        data = brain_mri_datalist(root, fold=fold)
        assert sum(len(items) for items in data.values()) == 1400
        homes = [{groups[name] for name in names(root, data[part])} for part in PARTS]
        assert sum(map(len, homes)) == len(set.union(*homes)) == 1283
        for part, share in zip(PARTS, (0.7, 0.1, 0.2)):
            found = Counter(item["label"] for item in data[part])
            assert all(abs(found[label] - share * 350) <= 4 for label in range(4))
        tests += names(root, data["test"])
    assert len(set(tests)) == len(tests) == 1400
    report = check_classes([item for items in data.values() for item in items], 4)
    assert not report.errors, str(report)


def test_near_duplicates_hold_the_known_groups_of_brain_tumor_mri():
    root, groups = real()
    found = near_duplicate_groups([root / name for name in groups])
    known = defaultdict(set)
    for group, head in zip(groups.values(), found):
        known[group].add(head)
    assert all(len(heads) == 1 for heads in known.values())
    # More are joined, for slices next to each other are alike; but never many.
    assert len(set(found)) > 1100
    assert max(Counter(found).values()) < 10
