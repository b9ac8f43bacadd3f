import csv
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from monai_kd.data import HAM10000_CLASSES, DataError, check_classes, ham10000_datalist

PARTS = ("training", "validation", "test")
COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")


def rows(lesions=6):
    """Per class ``lesions`` lesions, every other one with two images."""
    found = []
    for dx in HAM10000_CLASSES:
        for number in range(lesions):
            for _ in range(1 + number % 2):
                lesion = f"HAM_{dx}_{number}"
                found.append((lesion, f"ISIC_{len(found):07d}", dx, "histo", "50.0", "male", "back"))
    return found


def write_table(root, table, name="HAM10000_metadata.csv", columns=COLUMNS, encoding="utf-8"):
    with (root / name).open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([[row[COLUMNS.index(column)] for column in columns] for row in table])


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, format="JPEG")


@pytest.fixture
def root(tmp_path):
    write_table(tmp_path, rows())
    for number, row in enumerate(rows()):
        write_image(tmp_path / f"HAM10000_images_part_{1 + number % 2}" / f"{row[1]}.jpg")
    return tmp_path


def names(items):
    return [Path(item["image"]).stem for item in items]


def problems(root):
    with pytest.raises(DataError) as caught:
        ham10000_datalist(root)
    return str(caught.value).splitlines()


def test_images_get_the_class_of_the_table(root):
    data = ham10000_datalist(root)
    known = {row[1]: row for row in rows()}
    assert sorted(name for part in PARTS for name in names(data[part])) == sorted(known)
    for item in (item for part in PARTS for item in data[part]):
        assert Path(item["image"]).is_file()
        assert HAM10000_CLASSES[item["label"]] == known[Path(item["image"]).stem][2]
    assert tuple(sorted(HAM10000_CLASSES)) == HAM10000_CLASSES
    assert not check_classes([item for part in PARTS for item in data[part]], 7).errors


def test_no_lesion_is_in_two_parts(root):
    lesion = {row[1]: row[0] for row in rows()}
    for fold in range(5):
        data = ham10000_datalist(root, fold=fold, seed=fold)
        homes = [{lesion[name] for name in names(data[part])} for part in PARTS]
        assert all(homes)
        assert sum(map(len, homes)) == len(set.union(*homes)) == 42


def test_order_of_rows_columns_and_files_and_name_of_the_table_do_not_matter(root, monkeypatch):
    before = ham10000_datalist(str(root), labelled_fraction=0.5)
    table = rows()
    random.Random(0).shuffle(table)
    (root / "HAM10000_metadata.csv").unlink()
    write_table(root, table, "HAM10000_metadata", ("image_id", "age", "dx", "lesion_id"), encoding="utf-8-sig")
    walk = os.walk

    def shuffled(top, **kwargs):
        for folder, subfolders, files in walk(top, **kwargs):
            random.Random(1).shuffle(subfolders)
            random.Random(1).shuffle(files)
            yield folder, subfolders, files

    monkeypatch.setattr(os, "walk", shuffled)
    assert ham10000_datalist(root, labelled_fraction=0.5) == before


def test_arguments_reach_the_split(root):
    tests = [names(ham10000_datalist(root, fold=fold, folds=3)["test"]) for fold in range(3)]
    assert sorted(name for test in tests for name in test) == sorted(row[1] for row in rows())
    assert ham10000_datalist(root, val_fraction=0)["validation"] == []
    training = ham10000_datalist(root, labelled_fraction=0.01)["training"]
    assert Counter(item["label"] for item in training if "label" in item) == dict.fromkeys(range(7), 1)
    assert [item["index"] for item in training if "label" in item] == list(range(7))
    assert {item["index"] for item in training if "label" not in item} == {-1}
    assert ham10000_datalist(root, seed=1) != ham10000_datalist(root, seed=2)


def test_what_else_a_download_holds_is_passed_over(root):
    before = ham10000_datalist(root)
    write_image(root / "ISIC2018_Task3_Test_Images" / "ISIC_0034524.jpg")
    write_image(root / "segmentations" / "ISIC_0000000_segmentation.png")
    write_image(root / "HAM10000_images_part_1" / "._ISIC_0000000.jpg")
    write_image(root / ".cache" / "thumbnail.jpg")
    for path in sorted((root / "HAM10000_images_part_1").glob("ISIC*.jpg")):
        write_image(root / "ham10000_images_part_1_again" / path.name)
    assert ham10000_datalist(root) == before


def test_image_folders_may_be_links(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_table(other, rows())
    for number in (1, 2):
        (other / f"part_{number}").symlink_to(root / f"HAM10000_images_part_{number}", target_is_directory=True)
    # Two links back double with every level, if they are followed.
    for number in (1, 2):
        (other / f"loop_{number}").symlink_to(other, target_is_directory=True)
    assert names(ham10000_datalist(other)["test"]) == names(ham10000_datalist(root)["test"])


def test_all_that_does_not_fit_is_said_at_once(root):
    table = rows()
    for row in table[:2]:
        (root / "HAM10000_images_part_1" / f"{row[1]}.jpg").unlink(missing_ok=True)
        (root / "HAM10000_images_part_2" / f"{row[1]}.jpg").unlink(missing_ok=True)
    write_image(root / "HAM10000_images_part_1" / "cat.jpg")
    (root / "HAM10000_images_part_2" / "cat.jpg").write_bytes(b"another")
    table[5] = (*table[5][:2], "naevus", *table[5][3:])
    table[6] = ("", *table[6][1:])
    table.append(table[7])
    write_table(root, table)
    part = root / "HAM10000_images_part_1"
    assert problems(root) == [
        f"images in '{root}' and HAM10000_metadata.csv do not fit:",
        f"two images of one name: {part / 'cat.jpg'} and {root / 'HAM10000_images_part_2' / 'cat.jpg'}",
        "1 image_id listed more than once: ISIC_0000007",
        "2 of 63 listed images not found (is the download complete, is all of it unpacked?): "
        "ISIC_0000000, ISIC_0000001",
        f"1 images not listed in HAM10000_metadata.csv: {part / 'cat.jpg'}",
        "1 rows with a dx that is none of akiec, bcc, bkl, df, mel, nv, vasc: ISIC_0000005 'naevus'",
        "1 rows without lesion_id: ISIC_0000006",
    ]


def test_a_partial_download_is_an_error_that_counts(root):
    for path in (root / "HAM10000_images_part_2").iterdir():
        path.unlink()
    line = problems(root)[1]
    assert line.startswith("31 of 63 listed images not found")
    assert line.endswith(": ISIC_0000001, ISIC_0000003, ISIC_0000005, ISIC_0000007, ISIC_0000009, ...")


def test_missing_columns_are_named(root):
    write_table(root, rows(), columns=("image_id", "age"))
    with pytest.raises(DataError, match=r"no column dx, lesion_id; expected image_id, .*, got image_id, age"):
        ham10000_datalist(root)
    (root / "HAM10000_metadata.csv").write_text("")
    with pytest.raises(DataError, match=r"no column image_id, dx, lesion_id; .*got none"):
        ham10000_datalist(root)


def test_wrong_folders_say_what_is_expected(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no HAM10000_metadata\.csv in .*; expected it there"):
            ham10000_datalist(folder)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"fold": 5}, "fold must be one of 0 to 4 with folds=5, got 5"),
        ({"fold": -1}, "fold must be one of 0 to 4 with folds=5, got -1"),
        ({"fold": 0.5}, "fold must be one of 0 to 4 with folds=5, got 0.5"),
        ({"folds": 1}, "folds must be 2 or more, got 1"),
        ({"val_fraction": -0.1}, "val_fraction must be 0 or more .*, got -0.1 beside a test fold of 1/5"),
        ({"val_fraction": 0.8}, "val_fraction .* leave images for training, got 0.8"),
        ({"labelled_fraction": 0}, "labelled_fraction must be above 0 and at most 1, got 0"),
        ({"labelled_fraction": 1.5}, "labelled_fraction must be above 0 and at most 1, got 1.5"),
        ({"seed": -1}, "seed must be an integer .*, got -1"),
    ],
)
def test_arguments_out_of_range(root, kwargs, message):
    with pytest.raises(ValueError, match=message):
        ham10000_datalist(root, **kwargs)


def test_on_ham10000():
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("set MONAI_KD_DATA to a folder with ham10000/ to test on HAM10000")
    root = Path(os.environ["MONAI_KD_DATA"]) / "ham10000"
    if not root.is_dir():
        pytest.skip("no ham10000 below $MONAI_KD_DATA")
    counts = {"akiec": 121, "bcc": 186, "bkl": 400, "df": 40, "mel": 350, "nv": 700, "vasc": 58}
    tests = []
    for fold in range(5):
        data = ham10000_datalist(root, fold=fold)
        assert sum(len(items) for items in data.values()) == 1855
        assert len(data["test"]) == pytest.approx(371, abs=4)
        assert len(data["validation"]) == 186
        for part, share in zip(PARTS, (0.7, 0.1, 0.2)):
            found = Counter(HAM10000_CLASSES[item["label"]] for item in data[part])
            assert all(abs(found[dx] - share * count) <= 2 for dx, count in counts.items())
        tests += names(data["test"])
    assert len(set(tests)) == len(tests) == 1855
    report = check_classes([item for items in data.values() for item in items], 7)
    assert (report.items, report.labelled) == (1855, 1855)
    assert not report.errors, str(report)
    assert not report.warnings, str(report)


def test_a_table_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "HAM10000_metadata.csv").write_bytes(
        "lesion_id,image_id,dx,localization\n1,2,nv,r\xfccken\n".encode("latin-1")
    )
    with pytest.raises(DataError, match=r"HAM10000_metadata.csv is not UTF-8 .* at byte"):
        ham10000_datalist(tmp_path)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5])
def test_a_seed_out_of_range_is_refused_at_once(seed, tmp_path):
    with pytest.raises(ValueError, match="seed must be an integer from 0"):
        ham10000_datalist(tmp_path, seed=seed)
