import random
from copy import deepcopy

import pytest

from monai_kd.data import cross_validation_fold


def pairs(first, last):
    return [{"image": f"case_{n:02}.nii.gz", "label": f"case_{n:02}_seg.nii.gz"} for n in range(first, last)]


@pytest.fixture
def datalist():
    """17 labelled items in two parts, 2 without label, 4 held out."""
    unlabelled = [{"image": f"plain_{n}.nii.gz"} for n in range(2)]
    return {"training": pairs(0, 14) + unlabelled, "validation": pairs(14, 17), "test": pairs(17, 21)}


def images(items):
    return [item["image"] for item in items]


@pytest.mark.parametrize("folds", [2, 5, 17])
def test_validation_parts_are_disjoint_and_cover_what_is_labelled(datalist, folds):
    parts = [images(cross_validation_fold(datalist, fold, folds)["validation"]) for fold in range(folds)]
    assert sorted(name for part in parts for name in part) == images(pairs(0, 17))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("fold", range(5))
def test_each_item_trains_or_validates(datalist, fold):
    data = cross_validation_fold(datalist, fold)
    both = [*data["training"], *data["validation"]]
    assert sorted(images(both)) == sorted(images([*datalist["training"], *datalist["validation"]]))
    assert all(item in datalist["training"] + datalist["validation"] for item in both)


@pytest.mark.parametrize("fold", range(5))
def test_items_without_label_train_in_every_fold(datalist, fold):
    data = cross_validation_fold(datalist, fold)
    assert images(data["training"])[-2:] == ["plain_0.nii.gz", "plain_1.nii.gz"]
    assert all("label" in item for item in data["validation"])


def test_the_rest_stays(datalist):
    datalist["other"] = pairs(30, 32)
    before = deepcopy(datalist)
    folds = [cross_validation_fold(datalist, fold) for fold in range(5)]
    assert datalist == before
    for data in folds:
        assert (data["test"], data["other"]) == (before["test"], before["other"])
        data["training"][0]["image"] = data["test"][0]["image"] = "changed"
    assert datalist == before


def test_parts_follow_the_seed_and_not_the_order(datalist):
    expected = cross_validation_fold(datalist, 1, seed=3)
    assert expected["validation"] != cross_validation_fold(datalist, 1, seed=4)["validation"]
    labelled = pairs(0, 17)
    random.Random(0).shuffle(labelled)
    moved = {
        "training": datalist["training"][:-3:-1] + labelled[5:],
        "validation": labelled[:5],
        "test": datalist["test"],
    }
    assert cross_validation_fold(moved, 1, seed=3) == expected


def test_a_data_list_without_validation_part():
    data = cross_validation_fold({"training": pairs(0, 4)}, 0, folds=2)
    assert {part: len(items) for part, items in data.items()} == {"training": 2, "validation": 2}


def test_an_image_may_be_several_files():
    items = [{"image": [f"{n}_t1.nii.gz", f"{n}_t2.nii.gz"], "label": f"{n}.nii.gz"} for n in range(4)]
    parts = [cross_validation_fold({"training": items}, fold, folds=2)["validation"] for fold in range(2)]
    assert sorted(item["label"] for part in parts for item in part) == [f"{n}.nii.gz" for n in range(4)]


@pytest.mark.parametrize(
    ("fold", "folds", "said"),
    [
        (5, 5, "fold must be 0 to 4 of 5 folds, got 5"),
        (-1, 5, "got -1"),
        ("1", 5, "got '1'"),
        (0, 1, "two folds or more, got folds=1"),
        (0, 18, "17 labelled items in 'training' and 'validation' are too few for 18 folds"),
    ],
)
def test_what_cannot_be_divided_is_refused(datalist, fold, folds, said):
    with pytest.raises(ValueError, match=said):
        cross_validation_fold(datalist, fold, folds)
