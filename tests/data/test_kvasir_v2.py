import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from monai_kd.data import (
    KVASIR_V2_CLASSES,
    DataError,
    check_classes,
    kvasir_v2_datalist,
    make_endoscopy_images,
    near_duplicate_groups,
)

PARTS = ("training", "validation", "test")


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    return Path(make_endoscopy_images(tmp_path_factory.mktemp("generated") / "frames", count=160, size=64))


@pytest.fixture
def root(tmp_path):
    """Ten images a class, no two of them alike."""
    for number in range(80):
        path = tmp_path / KVASIR_V2_CLASSES[number % 8] / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
    return tmp_path


def paths(items):
    return [item["image"] for item in items]


def test_images_get_the_class_of_their_folder(generated):
    data = kvasir_v2_datalist(generated)
    items = [item for part in PARTS for item in data[part]]
    assert sorted(paths(items)) == sorted(map(str, generated.rglob("*.jpg")))
    assert all(KVASIR_V2_CLASSES[item["label"]] == Path(item["image"]).parent.name for item in items)
    assert tuple(sorted(KVASIR_V2_CLASSES)) == KVASIR_V2_CLASSES
    report = check_classes(items, 8)
    assert not report.errors + report.warnings, str(report)


def test_no_near_duplicates_are_in_two_parts(generated):
    files = sorted(map(str, generated.rglob("*.jpg")))
    group = dict(zip(files, near_duplicate_groups(files)))
    count = len(set(group.values()))
    assert count < 150
    for fold in range(5):
        data = kvasir_v2_datalist(generated, fold=fold, seed=fold)
        homes = [{group[path] for path in paths(data[part])} for part in PARTS]
        assert all(homes)
        assert sum(map(len, homes)) == len(set.union(*homes)) == count


def test_near_duplicates_under_two_classes_stay_together(root):
    first = root / "polyps" / "06.jpg"
    copy = root / "dyed-lifted-polyps" / "copy.jpg"
    ImageEnhance.Brightness(Image.open(first)).enhance(0.8).save(copy)
    for seed in range(5):
        data = kvasir_v2_datalist(root, seed=seed)
        assert sum({str(first), str(copy)} <= set(paths(data[part])) for part in PARTS) == 1


def test_folds_hold_all_images_once_and_are_stratified(root):
    tests = []
    for fold in range(5):
        data = kvasir_v2_datalist(root, fold=fold)
        tests += paths(data["test"])
        assert [Counter(item["label"] for item in data[part]) for part in PARTS] == [
            Counter(dict.fromkeys(range(8), count)) for count in (7, 1, 2)
        ]
    assert sorted(tests) == sorted(map(str, root.rglob("*.jpg")))


def test_groups_of_the_table_come_first(root):
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.jpg"))
    groups = {name: f"g{int(Path(name).stem) // 8}" for name in names}
    (root / "groups.csv").write_text(
        "\n".join(["image,near_duplicate_group", *(f"{name},{group}" for name, group in groups.items())])
    )
    data = kvasir_v2_datalist(root)
    homes = [{int(Path(path).stem) // 8 for path in paths(data[part])} for part in PARTS]
    assert sum(map(len, homes)) == len(set.union(*homes)) == 10


def test_arguments_reach_the_split(root):
    assert kvasir_v2_datalist(root, val_fraction=0)["validation"] == []
    training = kvasir_v2_datalist(root, labelled_fraction=0.01)["training"]
    assert Counter(item["label"] for item in training if "label" in item) == dict.fromkeys(range(8), 1)
    assert [item["index"] for item in training if "label" in item] == list(range(8))
    assert len(kvasir_v2_datalist(root, folds=2)["test"]) == 40
    assert kvasir_v2_datalist(root, seed=1) != kvasir_v2_datalist(root, seed=2)
    assert kvasir_v2_datalist(str(root), seed=1) == kvasir_v2_datalist(root, seed=1)
    with pytest.raises(ValueError, match="val_fraction"):
        kvasir_v2_datalist(root, val_fraction=0.8)


def test_a_partial_download_is_an_error(root):
    for name in ("polyps", "esophagitis"):
        shutil.rmtree(root / name)
    with pytest.raises(DataError) as caught:
        kvasir_v2_datalist(root)
    assert [line.split(" (")[0] for line in str(caught.value).splitlines()[1:]] == [
        f"no image in {root / 'esophagitis'}",
        f"no image in {root / 'polyps'}",
    ]


def test_wrong_folders_say_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder of a class in .*; expected dyed-lifted-polyps, "):
        kvasir_v2_datalist(tmp_path)
