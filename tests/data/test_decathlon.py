import os
import random
from pathlib import Path

import pytest

from monai_kd.data import decathlon_datalist

PARTS = ("training", "validation", "test")


@pytest.fixture
def task(tmp_path):
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (tmp_path / folder).mkdir()
        for number in range(40):
            (tmp_path / folder / f"liver_{number}.nii.gz").write_bytes(number * b"x")
            (tmp_path / folder / f"._liver_{number}.nii.gz").write_bytes(b"of a Mac")
    (tmp_path / "dataset.json").touch()
    return tmp_path


def names(items):
    return [Path(item["image"]).name for item in items]


def test_every_pair_is_in_one_split(task):
    data = decathlon_datalist(task)
    assert [len(data[part]) for part in PARTS] == [32, 4, 4]
    assert sorted(name for part in PARTS for name in names(data[part])) == sorted(
        f"liver_{number}.nii.gz" for number in range(40)
    )
    for item in (item for part in PARTS for item in data[part]):
        assert item["label"] == item["image"].replace("imagesTr", "labelsTr")


def test_splits_follow_the_seed_and_not_the_listing(task, monkeypatch):
    before = decathlon_datalist(task, seed=3, labelled_fraction=0.5)
    assert before["test"] != decathlon_datalist(task, seed=4)["test"]
    listing = Path.iterdir

    def shuffled(self):
        paths = list(listing(self))
        random.Random(1).shuffle(paths)
        return iter(paths)

    monkeypatch.setattr(Path, "iterdir", shuffled)
    assert decathlon_datalist(task, seed=3, labelled_fraction=0.5) == before


def test_labelled_subsets_are_nested(task):
    def labelled(fraction):
        data = decathlon_datalist(task, labelled_fraction=fraction)
        assert all("label" in item for part in ("validation", "test") for item in data[part])
        return {item["image"] for item in data["training"] if "label" in item}

    assert len(labelled(0.25)) == 8
    assert labelled(0.25) < labelled(0.5) < labelled(1.0)


def test_equal_images_stay_together(task):
    for number in range(10):
        (task / "imagesTr" / f"liver_{number}.nii.gz").write_bytes(b"the same")
    data = decathlon_datalist(task, val_fraction=0.2, test_fraction=0.2)
    assert sum(any(f"liver_{number}.nii.gz" in names(data[part]) for number in range(10)) for part in PARTS) == 1


def test_everything_wrong_is_in_one_error(task):
    (task / "imagesTr" / "liver_0.nii.gz").unlink()
    (task / "labelsTr" / "liver_1.nii.gz").unlink()
    (task / "imagesTr" / "liver_2.nii").touch()
    with pytest.raises(ValueError, match="do not match") as caught:
        decathlon_datalist(task)
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == ["name used twice", "image without label", "label without image"]


def test_wrong_arguments(task, tmp_path):
    with pytest.raises(FileNotFoundError, match="no imagesTr/ and labelsTr/"):
        decathlon_datalist(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="val_fraction"):
        decathlon_datalist(task, val_fraction=0.6, test_fraction=0.5)
    with pytest.raises(ValueError, match="no training image left"):
        decathlon_datalist(task, val_fraction=0.5, test_fraction=0.49)


def test_hippocampus():
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("set MONAI_KD_DATA to the folder that holds msd_hippocampus")
    data = decathlon_datalist(Path(os.environ["MONAI_KD_DATA"]) / "msd_hippocampus")
    assert [len(data[part]) for part in PARTS] == [148, 18, 18]
