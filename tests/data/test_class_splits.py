import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sklearn
from sklearn.model_selection import StratifiedGroupKFold

from monai_kd.data import DataError
from monai_kd.data._class_splits import (
    ClassImage,
    class_datalist,
    keep_class_labels,
    split_off_groups,
    stratified_group_folds,
)

CLASSES = ("a", "b", "c")
PARTS = ("training", "validation", "test")


def make(groups=(60, 30, 10), most=3, seed=0):
    """Images of ``groups[c]`` groups of class c, of 1 to ``most`` images each."""
    sizes = np.random.default_rng(seed)
    images = []
    for label, count in enumerate(groups):
        for number in range(count):
            for _ in range(sizes.integers(1, most + 1)):
                name = f"{len(images):04d}"
                images.append(ClassImage(name, Path(f"{name}.png"), label, f"{label}-{number}"))
    return images


def split(images, fold=0, folds=5, val_fraction=0.1, labelled_fraction=1.0, seed=0):
    return class_datalist(images, CLASSES, fold, folds, val_fraction, labelled_fraction, seed)


def names(items):
    return [Path(item["image"]).stem for item in items]


def by_name(images):
    return {image.name: image for image in images}


@pytest.mark.parametrize("most", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_every_image_is_in_one_part_and_no_group_in_two(most, seed):
    images = make(most=most)
    known = by_name(images)
    for fold in range(5):
        data = split(images, fold=fold, seed=seed)
        assert list(data) == list(PARTS)
        assert sorted(name for part in PARTS for name in names(data[part])) == sorted(known)
        groups = [{known[name].group for name in names(data[part])} for part in PARTS]
        assert not groups[0] & groups[1]
        assert not groups[0] & groups[2]
        assert not groups[1] & groups[2]
        for item in (item for part in PARTS for item in data[part]):
            assert item["label"] == known[Path(item["image"]).stem].label
        assert all(names(data[part]) == sorted(names(data[part])) for part in PARTS)


def test_test_parts_partition_the_data():
    images = make()
    tests = [names(split(images, fold=fold)["test"]) for fold in range(5)]
    assert sorted(name for test in tests for name in test) == sorted(by_name(images))


@pytest.mark.parametrize("seed", range(3))
def test_parts_are_stratified(seed):
    images = make(most=4)
    total = Counter(image.label for image in images)
    for fold in range(5):
        data = split(images, fold=fold, val_fraction=0.15, seed=seed)
        for part, share in (("validation", 0.15), ("test", 0.2)):
            counts = Counter(item["label"] for item in data[part])
            for label, count in total.items():
                # A group of up to four images stays whole.
                assert abs(counts[label] - share * count) <= 3, (part, label)
                assert counts[label] > 0


def test_each_part_has_each_class_that_has_as_many_groups_as_folds(caplog):
    for seed in range(5):
        for fold in range(5):
            data = split(make(groups=(20, 9, 5)), fold=fold, val_fraction=0.01, seed=seed)
            assert all({item["label"] for item in data[part]} == {0, 1, 2} for part in PARTS)
    assert not caplog.records


def test_a_class_with_fewer_groups_than_folds_is_named_in_one_line(caplog, recwarn):
    images = make(groups=(30, 20, 2), most=1)
    tests = [split(images, fold=fold)["test"] for fold in range(5)]
    assert len(recwarn) == 0
    assert sum(any(item["label"] == 2 for item in test) for test in tests) == 2
    assert len(caplog.records) == 5
    assert caplog.messages[0] == "classes with fewer groups than the 5 folds: c 2; some parts have no image of them."


@pytest.mark.parametrize("seed", range(5))
def test_validation_leaves_each_class_to_training(seed):
    images = make(groups=(10, 5, 5), most=1)
    for fold in range(5):
        data = split(images, fold=fold, val_fraction=0.79, seed=seed)
        assert {item["label"] for item in data["training"]} == {0, 1, 2}


def test_parts_depend_on_the_images_alone():
    images = make()
    before = split(images, labelled_fraction=0.5)
    random.Random(0).shuffle(images)
    assert split(images, labelled_fraction=0.5) == before
    moved = [image._replace(path=Path("elsewhere", image.path)) for image in images]
    assert [names(items) for items in split(moved).values()] == [names(items) for items in before.values()]


def test_parts_follow_the_seed():
    images = make()
    assert split(images, seed=3) == split(images, seed=3)
    for part in PARTS:
        assert names(split(images, seed=3)[part]) != names(split(images, seed=4)[part])


def test_no_validation_asked_for():
    images = make()
    data = split(images, val_fraction=0)
    assert data["validation"] == []
    assert names(data["test"]) == names(split(images)["test"])


def test_labelled_subsets_are_nested_and_stratified():
    images = make(groups=(100, 40, 5), most=1)
    full = split(images)
    total = Counter(item["label"] for item in full["training"])
    before: set[str] = set()
    for fraction in (1e-9, 0.1, 0.25, 0.5, 1.0):
        data = split(images, labelled_fraction=fraction)
        labelled = [item for item in data["training"] if "label" in item]
        assert Counter(item["label"] for item in labelled) == {
            label: max(1, round(fraction * count)) for label, count in total.items()
        }
        assert before <= set(names(labelled))
        before = set(names(labelled))
        assert [names(data[part]) for part in PARTS] == [names(full[part]) for part in PARTS]
        assert all("label" in item for part in PARTS[1:] for item in data[part])


def test_labelled_subset_and_validation_follow_the_seed_by_themselves():
    def kept(seed):
        items = [{"image": str(number), "label": 0} for number in range(20)]
        keep_class_labels(items, 0.5, seed)
        return [item["image"] for item in items if "label" in item]

    def taken(seed):
        return split_off_groups(np.zeros(20, dtype=int), [str(number) for number in range(20)], [10], seed).tolist()

    for draw in (kept, taken):
        assert draw(0) == draw(0) != draw(1)


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_index_numbers_the_labelled_training_items(fraction):
    data = split(make(), labelled_fraction=fraction)
    labelled = [item for item in data["training"] if "label" in item]
    assert [item["index"] for item in labelled] == list(range(len(labelled)))
    rest = [item for item in data["training"] if "label" not in item] + data["validation"] + data["test"]
    assert {item["index"] for item in rest} == {-1}


def test_folds_are_those_of_scikit_learn():
    images = make(groups=(40, 23, 11), most=4)
    labels, groups = np.array([image.label for image in images]), [image.group for image in images]
    found = stratified_group_folds(labels, groups, 4, seed=7)
    if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8):
        pytest.skip("before 1.8 the shuffled folds of StratifiedGroupKFold are not stratified")
    folds = StratifiedGroupKFold(4, shuffle=True, random_state=7).split(labels, labels, groups)
    for fold, (_, test) in enumerate(folds):
        assert np.flatnonzero(found == fold).tolist() == test.tolist()


def test_groups_with_several_classes_stay_whole():
    generator = np.random.default_rng(0)
    images = [
        ClassImage(f"{number:04d}", Path(str(number)), int(generator.integers(3)), f"{number // 4}")
        for number in range(200)
    ]
    data = split(images)
    homes = [{int(name) // 4 for name in names(data[part])} for part in PARTS]
    assert sum(map(len, homes)) == len(set.union(*homes)) == 50
    assert len(data["validation"]) == pytest.approx(20, abs=6)


def test_shares_are_of_whole_groups():
    labels = np.zeros(12, dtype=int)
    groups = ["large"] * 9 + ["b", "c", "d"]
    for seed in range(10):
        taken = split_off_groups(labels, groups, [2], seed)
        assert taken.sum() == 2
        assert not taken[:9].any()
    # None fits: the smallest of those that may go.
    assert split_off_groups(np.zeros(4, dtype=int), ["a", "a", "b", "b"], [1], 0).sum() == 2


@pytest.mark.parametrize("groups", [(4, 4, 4), (3, 0, 0)])
def test_too_few_images_for_the_folds(groups):
    with pytest.raises(DataError, match="too few for 5 folds; give more images or lower folds"):
        split(make(groups=groups, most=1))


def test_too_few_groups_for_the_folds():
    images = [image._replace(group=str(number % 4)) for number, image in enumerate(make())]
    with pytest.raises(DataError, match=r"images in 4 groups, at most .* too few for 5 folds"):
        split(images)


def test_no_images():
    with pytest.raises(DataError, match="0 images in 0 groups"):
        split([])
