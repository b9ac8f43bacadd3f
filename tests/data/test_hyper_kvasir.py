import logging
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from monai_kd.data import HYPER_KVASIR_CLASSES, DataError, check_classes, hyper_kvasir_datalist

PARTS = ("training", "validation", "test")
HEADER = "file-name;class-name;split-index"
# The folders of the download spell some classes otherwise than the split.
FOLDERS = {"hemorroids": "hemorrhoids", "oesophagitis-a": "esophagitis-a", "polyp": "polyps"}


def rows(folds=2):
    """Six images of rare classes, twelve of the others, cut into folds in their order."""
    found = []
    for label, name in enumerate(HYPER_KVASIR_CLASSES):
        count = 6 if label % 4 else 12
        found += [(f"{label:02d}{number:02d}-uuid", name, number * folds // count) for number in range(count)]
    return found


def write_split(root, table, name="2_fold_split.csv", suffix=".jpg", header=HEADER, encoding="utf-8"):
    lines = [header, *(f"{file}{suffix};{label};{split}" for file, label, split in table)]
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def write_noise(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path, quality=90)


@pytest.fixture
def root(tmp_path):
    for number, (file, name, _) in enumerate(rows()):
        folder = tmp_path / "labeled-images" / "lower-gi-tract" / "findings" / FOLDERS.get(name, name)
        write_noise(folder / f"{file}.jpg", number)
    write_split(tmp_path, rows())
    return tmp_path


def names(items):
    return [Path(item["image"]).stem for item in items]


def find(root, name):
    return next(root.rglob(f"{name}.jpg"))


def problems(root, **kwargs):
    with pytest.raises(DataError) as caught:
        hyper_kvasir_datalist(root, **kwargs)
    return str(caught.value).splitlines()


def test_classes():
    assert len(HYPER_KVASIR_CLASSES) == 23
    assert tuple(sorted(HYPER_KVASIR_CLASSES)) == HYPER_KVASIR_CLASSES


@pytest.mark.parametrize("folds", [2, 5])
def test_the_test_part_is_the_official_split(root, folds):
    table = rows(folds)
    split = write_split(root, table, f"{folds}_fold_split.csv")
    known = {file: (HYPER_KVASIR_CLASSES.index(name), number) for file, name, number in table}
    for fold in range(folds):
        data = hyper_kvasir_datalist(root, fold=fold, split_file=split, seed=fold)
        assert sorted(names(data["test"])) == sorted(file for file, _, number in table if number == fold)
        assert sorted(name for part in PARTS for name in names(data[part])) == sorted(known)
        for item in (item for part in PARTS for item in data[part]):
            assert item["label"] == known[Path(item["image"]).stem][0]
        assert all(names(data[part]) == sorted(names(data[part])) for part in PARTS)
    assert not check_classes([item for part in PARTS for item in data[part]], 23).errors


def test_every_class_is_in_every_part_though_it_has_six_images(root):
    for fold in (0, 1):
        data = hyper_kvasir_datalist(root, fold=fold)
        counts = [Counter(item["label"] for item in data[part]) for part in PARTS]
        assert all(len(count) == 23 for count in counts)
        for label in range(23):
            assert [count[label] for count in counts] == ([2, 1, 3] if label % 4 else [5, 1, 6])


def test_validation_takes_its_share_by_seed(root):
    data = hyper_kvasir_datalist(root, val_fraction=0.25)
    assert Counter(item["label"] for item in data["validation"])[0] == 3
    assert hyper_kvasir_datalist(root, val_fraction=0)["validation"] == []
    one, two = (hyper_kvasir_datalist(root, seed=seed) for seed in (1, 2))
    assert names(one["validation"]) != names(two["validation"])
    assert names(one["test"]) == names(two["test"])


def test_near_duplicates_stay_on_one_side_of_the_validation_part(root):
    """All training images of a class but one are alike, so they are in one part."""
    files = [file for file, name, split in rows() if name == "barretts" and split == 1]
    scene = Image.open(find(root, files[0]))
    for number, file in enumerate(files[1:-1]):
        path = find(root, file)
        ImageEnhance.Brightness(scene).enhance(0.95 - 0.02 * number).save(path, quality=90)
    for seed in range(8):
        data = hyper_kvasir_datalist(root, fold=0, val_fraction=0.2, seed=seed)
        home = {name: part for part in PARTS for name in names(data[part])}
        assert len({home[file] for file in files[:-1]}) == 1
        assert home[files[-1]] != home[files[0]]  # and each class is in both


def test_near_duplicates_across_the_official_split_are_counted_in_one_line(root, caplog):
    hyper_kvasir_datalist(root)
    assert not caplog.records
    table = rows()
    test, other = (file for file, name, _ in table if name == "polyp" and file[2:4] in ("00", "05"))
    image = Image.open(find(root, test))
    ImageEnhance.Brightness(image).enhance(0.9).save(find(root, other), quality=90)
    with caplog.at_level(logging.WARNING):
        data = hyper_kvasir_datalist(root, fold=0)
    count = sum(split == 0 for _, _, split in table)
    assert caplog.messages == [
        f"1 of {count} test images have near duplicates among the other images; the official split is kept as it is."
    ]
    assert test in names(data["test"])
    assert other not in names(data["test"])


def test_order_of_rows_spelling_of_files_and_place_of_the_split_do_not_matter(root):
    before = hyper_kvasir_datalist(root, labelled_fraction=0.5)
    (root / "2_fold_split.csv").unlink()
    table = rows()
    random.Random(0).shuffle(table)
    split = write_split(root, table, "official_splits/2_fold_split.csv", suffix="", encoding="utf-8-sig")
    assert hyper_kvasir_datalist(root, labelled_fraction=0.5) == before
    moved = split.rename(root / "labeled-images" / "mine.csv")
    with pytest.raises(FileNotFoundError, match=r"no 2_fold_split\.csv or 5_fold_split\.csv in .*; give split_file"):
        hyper_kvasir_datalist(root)
    assert hyper_kvasir_datalist(root, labelled_fraction=0.5, split_file=str(moved)) == before


def test_two_folds_come_before_five(root):
    before = hyper_kvasir_datalist(root)
    write_split(root, rows(5), "5_fold_split.csv")
    assert hyper_kvasir_datalist(root) == before
    (root / "2_fold_split.csv").unlink()
    assert len(hyper_kvasir_datalist(root, fold=4)["test"]) < len(before["test"])


def test_what_else_the_download_holds_is_passed_over(root):
    before = hyper_kvasir_datalist(root)
    first = names(before["test"])[0]
    write_noise(root / "segmented-images" / "masks" / f"{first}.jpg", 900)
    write_noise(root / "unlabeled-images" / "other.jpg", 901)
    write_noise(root / "labeled-images" / "lower-gi-tract" / "not-listed.jpg", 902)
    assert hyper_kvasir_datalist(root) == before


def test_the_image_folder_may_have_any_name(root):
    before = hyper_kvasir_datalist(root)
    (root / "labeled-images").rename(root / "images")
    assert names(hyper_kvasir_datalist(root)["test"]) == names(before["test"])
    (root / "more" / "deep").mkdir(parents=True)
    (root / "images").rename(root / "more" / "deep" / "labeled-images")
    assert names(hyper_kvasir_datalist(root)["test"]) == names(before["test"])


def test_groups_of_the_table_come_first(root, caplog):
    files = {file: find(root, file).relative_to(root).as_posix() for file, _, _ in rows()}
    lines = [f"{path},{file[:2] if file.startswith('00') else file}" for file, path in files.items()]
    (root / "groups.csv").write_text("\n".join(["image,near_duplicate_group", *lines]))
    data = hyper_kvasir_datalist(root)
    assert not any(name.startswith("00") for name in names(data["validation"]))
    assert caplog.messages[0].startswith("6 of ")


def test_labelled_subset_is_numbered(root):
    training = hyper_kvasir_datalist(root, labelled_fraction=0.01)["training"]
    assert Counter(item["label"] for item in training if "label" in item) == dict.fromkeys(range(23), 1)
    assert [item["index"] for item in training if "label" in item] == list(range(23))


def test_all_that_does_not_fit_is_said_at_once(root):
    table = rows()
    find(root, table[0][0]).unlink()
    write_noise(root / "labeled-images" / "again" / f"{table[1][0]}.png", 77)
    table[2] = (table[2][0], "polyps", 0)
    table[3] = (*table[3][:2], 3)
    table.append(table[4])
    write_split(root, table)
    lines = problems(root)
    assert lines[0] == f"images in '{root / 'labeled-images'}' and 2_fold_split.csv do not fit:"
    assert lines[1].startswith("two images of one name: ")
    assert lines[2:4] == [
        f"1 file-name listed more than once: {table[4][0]}",
        f"1 of {len(rows())} listed images not found (is the download complete, is all of it unpacked?): {table[0][0]}",
    ]
    assert lines[4].endswith(f"ulcerative-colitis-grade-3: {table[2][0]} 'polyps'")
    assert lines[5:] == ["split-index must be 0, 1 and so on, got 0, 1, 3"]


def test_missing_columns_are_named(root):
    split = write_split(root, rows(), header="file-name;class;split-index")
    assert f"{split} has no column class-name; expected {HEADER}, got file-name;class;split-index" in problems(root)[0]
    split.write_text("")
    assert "got none" in problems(root)[0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"fold": 2}, "fold must be one of 0 to 1 with folds=2, got 2"),
        ({"val_fraction": 0.5}, "val_fraction must be 0 or more .*, got 0.5 beside a test fold of 1/2"),
        ({"labelled_fraction": 0}, "labelled_fraction must be above 0"),
        ({"seed": -1}, "seed must be an integer .*, got -1"),
    ],
)
def test_arguments_out_of_range(root, kwargs, message):
    with pytest.raises(ValueError, match=message):
        hyper_kvasir_datalist(root, **kwargs)


def test_wrong_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="no 2_fold_split"):
        hyper_kvasir_datalist(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no split file '.*mine\.csv'; give one with the columns file-name;"):
        hyper_kvasir_datalist(tmp_path, split_file=tmp_path / "mine.csv")


def test_a_single_split_is_none(root):
    write_split(root, [(file, name, 0) for file, name, _ in rows()])
    assert problems(root)[1:] == ["split-index must be 0, 1 and so on, got 0"]
