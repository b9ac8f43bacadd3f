import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_kd.data import kits_datalist

PARTS = ("training", "validation", "test")


def make(root, numbers, labelled=lambda number: not 210 <= number < 300):
    for number in numbers:
        case = root / f"case_{number:05d}"
        case.mkdir(parents=True)
        (case / "imaging.nii.gz").touch()
        if labelled(number):
            (case / "segmentation.nii.gz").touch()
    return root


def numbers(items):
    return [int(Path(item["image"]).parent.name.removeprefix("case_")) for item in items]


@pytest.fixture(scope="module")
def kits19(tmp_path_factory):
    return make(tmp_path_factory.mktemp("kits19"), range(300))


@pytest.fixture(scope="module")
def kits23(tmp_path_factory):
    root = tmp_path_factory.mktemp("kits23")
    make(root / "dataset", [*range(300), *range(400, 589)], labelled=lambda number: True)
    return root


def test_published_cases_are_split_without_overlap(kits19, recwarn):
    data = kits_datalist(kits19)
    assert [len(data[part]) for part in PARTS] == [151 + 90, 17, 42]
    assert sorted(number for part in PARTS for number in numbers(data[part])) == list(range(300))
    assert [number for number in numbers(data["training"]) if number >= 210] == list(range(210, 300))
    for item in (item for part in PARTS for item in data[part]):
        assert ("label" in item) == (numbers([item])[0] < 210)
        if "label" in item:
            assert Path(item["label"]) == Path(item["image"]).with_name("segmentation.nii.gz")
    assert len(recwarn) == 0


def test_kits23_holds_out_what_kits19_does(kits19, kits23):
    old, new = kits_datalist(kits19), kits_datalist(kits23, edition="kits23")
    assert [len(new[part]) for part in PARTS] == [352, 39, 98]
    assert sorted(number for part in PARTS for number in numbers(new[part])) == [*range(300), *range(400, 589)]
    assert all("label" in item for part in PARTS for item in new[part])
    for part in ("validation", "test"):
        assert set(numbers(old[part])) == {number for number in numbers(new[part]) if number < 210}


def test_cases_may_lie_below_data(kits19, tmp_path):
    (tmp_path / "data").symlink_to(kits19, target_is_directory=True)
    assert numbers(kits_datalist(tmp_path)["test"]) == numbers(kits_datalist(kits19)["test"])


def test_splits_are_fixed_and_the_seed_draws_the_labels(kits19):
    def labelled(seed, fraction):
        data = kits_datalist(kits19, seed=seed, labelled_fraction=fraction)
        assert all("label" in item for part in ("validation", "test") for item in data[part])
        assert [numbers(data[part]) for part in PARTS] == [numbers(kits_datalist(kits19)[part]) for part in PARTS]
        return {number for number, item in zip(numbers(data["training"]), data["training"]) if "label" in item}

    assert len(labelled(0, 0.1)) == 15
    assert labelled(0, 0.1) < labelled(0, 0.5) < labelled(0, 1.0)
    assert labelled(0, 0.5) == labelled(0, 0.5) != labelled(1, 0.5)
    assert len(labelled(0, 1e-9)) == 1


def test_part_of_the_cases_gives_the_same_parts(kits19, tmp_path):
    whole = kits_datalist(kits19)
    some = [0, 1, 2, 5, 6, 7, 211]
    with pytest.warns(UserWarning, match=r"training 3 of 151, validation 1 of 17, test 2 of 42") as caught:
        data = kits_datalist(make(tmp_path, some))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert {part: numbers(data[part]) for part in PARTS} == {
        part: [number for number in numbers(whole[part]) if number in some] for part in PARTS
    }


@pytest.mark.filterwarnings("ignore:.*part of the published cases")
def test_a_training_case_without_segmentation_trains_unlabelled(tmp_path):
    (item,) = kits_datalist(make(tmp_path, [1], labelled=lambda number: False))["training"]
    assert list(item) == ["image"]


def test_everything_wrong_is_in_one_error(tmp_path):
    make(tmp_path, [1, 400])
    make(tmp_path, [0], labelled=lambda number: False)
    (tmp_path / "case_00003").mkdir()
    (tmp_path / "case_4").mkdir()
    (tmp_path / "case_00005").mkdir()
    (tmp_path / "case_00005" / "segmentation.nii.gz").touch()
    with pytest.raises(ValueError, match="cannot be used") as caught:
        kits_datalist(tmp_path)
    lines = str(caught.value).splitlines()[1:]
    assert [(line.split()[0], line.split()[1:3]) for line in lines] == [
        ("case_00000", ["has", "no"]),
        ("case_00003", ["has", "no"]),
        ("case_00005", ["has", "no"]),
        ("case_00400", ["is", "no"]),
        ("case_4", ["is", "no"]),
    ]
    assert "validation or test" in lines[0]
    assert "kits23" in lines[3]


def test_wrong_arguments(kits19, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no KiTS cases in .*case_00000"):
        kits_datalist(tmp_path)
    with pytest.raises(ValueError, match="unknown edition 'kits21'"):
        kits_datalist(kits19, edition="kits21")
    with pytest.raises(ValueError, match="labelled_fraction"):
        kits_datalist(kits19, labelled_fraction=0)


def test_lists_are_whole_numbers_in_order():
    folder = Path(kits_datalist.__code__.co_filename).parent / "splits"
    for name in ("kits19", "kits23"):
        split = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for part in (*PARTS, "unlabelled"):
            assert split[part] == sorted(set(split[part]))
            assert all(type(number) is int for number in split[part])


@pytest.mark.filterwarnings("ignore:.*part of the published cases")
def test_published_labels_are_found(tmp_path):
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("set MONAI_KD_DATA to the folder that holds kits19_labels/original")
    published = sorted((Path(os.environ["MONAI_KD_DATA"]) / "kits19_labels" / "original").glob("case_*"))
    for case in published:
        (tmp_path / case.name).mkdir()
        (tmp_path / case.name / "segmentation.nii.gz").symlink_to(case / "segmentation.nii.gz")
    with pytest.raises(ValueError, match="has no imaging") as caught:
        kits_datalist(tmp_path)
    assert str(caught.value).count("has no imaging.nii.gz") == len(published) > 0
    for case in published:
        (tmp_path / case.name / "imaging.nii.gz").touch()
    data = kits_datalist(tmp_path)
    items = [item for part in PARTS for item in data[part]]
    assert sorted(numbers(items)) == [int(case.name[-5:]) for case in published]
    assert set(np.unique(nibabel.load(items[0]["label"]).dataobj[::8])) <= {0, 1, 2}
