import logging
import sys

import numpy as np
import pytest
import torch
from monai.transforms import Compose, Lambdad, LoadImaged
from PIL import Image

from monai_kd.data import smote_items

NAMES = ["nv", "mel", "df"]


def noise(seed, size=(3, 6, 5)):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def items(*counts, seed=0):
    """Items of each class, each with a picture of its own."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return [{"image": noise([seed, number]), "label": label} for number, label in enumerate(labels)]


def counted(made, classes=3):
    return [sum(item["label"] == label for item in made) for label in range(classes)]


def off_the_segment(picture, a, b):
    """How far a picture is from all that lies between two others, in grey levels."""
    along, there = b.astype(float) - a, picture.astype(float) - a
    share = np.clip((along * there).sum() / (along**2).sum(), 0, 1)
    return np.abs(there - share * along).max()


# --- what is made ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k_neighbors", [1, 3])
def test_each_lies_between_a_picture_of_its_class_and_one_of_its_nearest(k_neighbors):
    """The share is fitted by least squares, which leaves a little beside the rounding."""
    given = items(30, 7, 5)
    made = smote_items(given, dict, NAMES, k_neighbors=k_neighbors)
    for item in made:
        own = [other["image"].astype(float) for other in given if other["label"] == item["label"]]
        pairs = []
        for a in own:
            nearest = sorted(own, key=lambda b: ((a - b) ** 2).sum())[1 : k_neighbors + 1]
            pairs += [(a, b) for b in nearest]
        assert min(off_the_segment(item["image"], a, b) for a, b in pairs) < 0.7  # 1 if cut off


def test_values_do_not_wrap():
    """In 8 bits 100 - 200 is 156: halfway from 200 to 100 would be 22, a quarter of the way 239."""
    levels = [200, 100]
    given = [{"image": np.full((3, 4, 4), level, dtype=np.uint8), "label": 1} for level in levels] + items(40)
    found = np.stack([item["image"] for item in smote_items(given, dict, NAMES[:2], k_neighbors=1)])
    assert (found == found[:, :1, :1, :1]).all()
    assert found.min() >= 100
    assert found.max() <= 200
    assert len(np.unique(found)) > 10  # all the way, not only its ends


def test_each_class_becomes_as_large_as_the_largest():
    made = smote_items(items(9, 4, 6), dict, NAMES, k_neighbors=3)
    assert [item["label"] for item in made] == [1] * 5 + [2] * 3
    assert {item["image"].dtype for item in made} == {np.dtype(np.uint8)}
    assert {item["image"].shape for item in made} == {(3, 6, 5)}
    assert {tuple(sorted(item)) for item in made} == {("image", "label")}


@pytest.mark.parametrize(
    ("targets", "added"),
    [({"df": 8}, [0, 0, 2]), ({"df": 6, "mel": 5}, [0, 1, 0]), ({"nv": 12, "df": 7}, [3, 0, 1]), ({}, [0, 0, 0])],
)
def test_targets_are_how_many_there_shall_be_in_all(targets, added):
    assert counted(smote_items(items(9, 4, 6), dict, NAMES, targets, k_neighbors=3)) == added


def test_balanced_classes_get_nothing():
    assert smote_items(items(2, 2, 2), dict, NAMES) == []


def test_the_given_items_stay_and_are_not_returned():
    given = items(6, 3, 6)
    before = [item["image"].copy() for item in given]
    made = smote_items(given, dict, NAMES, k_neighbors=2)
    assert len(made) == 3
    assert all((item["image"] == picture).all() for item, picture in zip(given, before, strict=True))
    for item in made:
        item["image"][:] = 0
    assert all((item["image"] == picture).all() for item, picture in zip(given, before, strict=True))


def test_more_than_a_block(monkeypatch):
    """Every block draws anew."""
    monkeypatch.setattr(sys.modules[smote_items.__module__], "_BLOCK", 4)
    made = smote_items(items(17, 4), dict, NAMES[:2], k_neighbors=2)
    assert len({item["image"].tobytes() for item in made}) == len(made) == 13


# --- what it depends on ---------------------------------------------------------------------------------------------


def test_the_seed_decides():
    given = items(9, 4, 6)
    first, again, other = (smote_items(given, dict, NAMES, k_neighbors=3, seed=seed) for seed in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one["image"], two["image"])
    assert any((one["image"] != two["image"]).any() for one, two in zip(first, other, strict=True))


def test_the_random_numbers_of_others_are_left_alone():
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    smote_items(items(9, 4, 6), dict, NAMES, k_neighbors=3)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_class_does_not_see_the_others():
    given, others = items(9, 4, 6), items(9, 4, 6, seed=5)
    mixed = [a if a["label"] == 1 else b for a, b in zip(given, others, strict=True)]
    for one, two in zip(*(smote_items(some, dict, NAMES, {"mel": 9}, 3) for some in (given, mixed)), strict=True):
        np.testing.assert_array_equal(one["image"], two["image"])


def test_only_labelled_files_of_the_classes_that_grow_are_read(tmp_path):
    given = []
    for number, item in enumerate([*items(6, 3, 6), {"image": noise(90)}, {"image": noise(91), "label": None}]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.moveaxis(item["image"], 0, -1)).save(path)
        given.append({**item, "image": str(path)})
    Image.fromarray(np.zeros((6, 5, 3), dtype=np.uint8)).save(tmp_path / "validation.png")
    read = []
    transform = Compose(
        [
            Lambdad("image", lambda path: read.append(path) or path),
            LoadImaged("image", reader="PILReader", ensure_channel_first=True),
            Lambdad("image", lambda image: image.astype(np.uint8) if isinstance(image, np.ndarray) else image.byte()),
        ]
    )
    made = smote_items(given, transform, NAMES, k_neighbors=2)
    assert sorted(read) == sorted(item["image"] for item in given if item.get("label") == 1)
    assert counted(made) == [0, 3, 0]
    assert type(made[0]["image"]) is np.ndarray


def test_other_keys():
    given = [{"photo": item["image"], "grade": item["label"]} for item in items(4, 2)]
    made = smote_items(given, dict, NAMES[:2], k_neighbors=1, image_key="photo", label_key="grade")
    assert [(item["grade"], item["photo"].shape) for item in made] == [(1, (3, 6, 5))] * 2


def test_says_what_is_added_and_its_memory(caplog):
    with caplog.at_level(logging.INFO):
        smote_items(
            [{**item, "image": noise(n, (3, 200, 100))} for n, item in enumerate(items(12, 7))], dict, NAMES[:2]
        )
    assert "SMOTE adds 5 mel; they take 0.3 MB of memory." in caplog.text


# --- what is wrong --------------------------------------------------------------------------------------------------


def test_without_imbalanced_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "imblearn.over_sampling", None)
    with pytest.raises(ImportError, match=r'SMOTE needs imbalanced-learn: pip install "monai-kd\[smote\]"'):
        smote_items(items(9, 6), dict, NAMES[:2])


def test_classes_with_too_few_pictures_are_named_together():
    with pytest.raises(ValueError, match="k_neighbors=5, which needs one more than that: mel 5, df 0; lower k_neigh"):
        smote_items(items(9, 5), dict, NAMES)
    assert counted(smote_items(items(9, 6), dict, NAMES, {"mel": 7})) == [0, 1, 0]


def test_targets_that_cannot_be():
    with pytest.raises(ValueError, match="targets names bcc, which is none of the classes nv, mel, df"):
        smote_items(items(9, 6, 6), dict, NAMES, {"bcc": 7})
    with pytest.raises(ValueError, match="targets below what there is: nv 8 of 9, df 5 of 6; a target is the number"):
        smote_items(items(9, 6, 6), dict, NAMES, {"nv": 8, "mel": 7, "df": 5})


@pytest.mark.parametrize("label", [2, -1, 1.0, "1", True])
def test_labels_that_are_no_class(label):
    with pytest.raises(ValueError, match=f"label must be an integer from 0 to 1, got {label!r}"):
        smote_items([*items(9, 6), {"image": noise(0), "label": label}], dict, NAMES[:2])


def test_pictures_that_are_not_of_8_bits():
    given = [{**item, "image": item["image"].astype(np.float32)} for item in items(9, 6)]
    with pytest.raises(ValueError, match="pictures of 8 bits, got float32; let transform end with uint8"):
        smote_items(given, dict, NAMES[:2])


def test_pictures_of_several_sizes():
    given = [*items(9, 6), {"image": noise(0, (3, 4, 5)), "label": 1}]
    with pytest.raises(ValueError, match=r"pictures differ in shape: \(3, 4, 5\), \(3, 6, 5\); let transform resize"):
        smote_items(given, dict, NAMES[:2])


@pytest.mark.parametrize(("more", "message"), [({"k_neighbors": 0}, "1 or more, got 0"), ({"seed": -1}, "0 or more")])
def test_arguments_out_of_range(more, message):
    with pytest.raises(ValueError, match=message):
        smote_items(items(9, 6), dict, NAMES[:2], **more)
