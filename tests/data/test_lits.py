from pathlib import Path

import pytest

from monai_kd.data import lits_datalist

PARTS = ("training", "validation", "test")


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def names(items):
    return [Path(item["image"]).name for item in items]


@pytest.fixture(scope="module")
def lits(tmp_path_factory):
    """As published: two batches with image and label side by side, the challenge's volumes in a third."""
    root = tmp_path_factory.mktemp("lits")
    for number in range(131):
        batch = root / f"Training Batch {1 if number < 28 else 2}"
        touch(batch, f"volume-{number}.nii", f"segmentation-{number}.nii")
    touch(root / "LITS-Challenge-Test-Data", *(f"test-volume-{number}.nii" for number in range(70)))
    touch(root, "notes.nii.txt", "._volume-0.nii")
    return root


def test_each_case_is_tested_in_one_fold(lits, recwarn):
    folds = [lits_datalist(lits, fold=fold) for fold in range(5)]
    assert [len(data["test"]) for data in folds] == [27, 26, 26, 26, 26]
    assert sorted(name for data in folds for name in names(data["test"])) == sorted(
        f"volume-{number}.nii" for number in range(131)
    )
    for data in folds:
        labelled = [item for part in PARTS for item in data[part] if "label" in item]
        assert len({item["image"] for item in labelled}) == len(labelled) == 131
        assert all(item["label"] == item["image"].replace("volume-", "segmentation-") for item in labelled)
        assert len(data["validation"]) == 10
        assert names(data["training"])[-70:] == [f"test-volume-{number}.nii" for number in range(70)]
        assert all(list(item) == ["image"] for item in data["training"][-70:])
    assert len(recwarn) == 0


@pytest.mark.filterwarnings("ignore:.*part of the published cases")
def test_files_may_be_compressed_and_apart(tmp_path):
    touch(tmp_path / "volumes" / "a", "volume-0.nii.gz", "volume-2.nii")
    touch(tmp_path / "segmentations", "segmentation-0.nii", "segmentation-2.nii.gz")
    data = lits_datalist(tmp_path)
    assert names(data["training"]) == ["volume-0.nii.gz"]
    assert Path(data["training"][0]["label"]).name == "segmentation-0.nii"
    assert names(data["test"]) == ["volume-2.nii"]


def test_part_of_the_cases_gives_the_same_parts(tmp_path):
    touch(tmp_path, *(f"{kind}-{number}.nii" for kind in ("volume", "segmentation") for number in (0, 2, 3, 7)))
    with pytest.warns(UserWarning, match="training 1 of 94, validation 1 of 10, test 2 of 27") as caught:
        data = lits_datalist(tmp_path)
    assert len(caught) == 1
    assert [names(data[part]) for part in PARTS] == [
        ["volume-0.nii"],
        ["volume-7.nii"],
        ["volume-2.nii", "volume-3.nii"],
    ]


@pytest.mark.filterwarnings("ignore:.*part of the published cases")
def test_volumes_without_segmentation_train_unlabelled(tmp_path):
    touch(tmp_path, "volume-0.nii", "volume-1.nii", "segmentation-1.nii", "volume-200.nii")
    training = lits_datalist(tmp_path)["training"]
    assert names(training) == ["volume-0.nii", "volume-1.nii", "volume-200.nii"]
    assert ["label" in item for item in training] == [False, True, False]


def test_labelled_subsets_are_nested(lits):
    def labelled(fraction, seed=0):
        data = lits_datalist(lits, fold=1, seed=seed, labelled_fraction=fraction)
        assert all("label" in item for part in ("validation", "test") for item in data[part])
        return {item["image"] for item in data["training"] if "label" in item}

    assert len(labelled(0.2)) == 19
    assert labelled(0.2) < labelled(0.6) < labelled(1.0)
    assert labelled(0.2) != labelled(0.2, seed=1)


def test_everything_wrong_is_in_one_error(tmp_path):
    touch(tmp_path, "volume-0.nii", "volume-0.nii.gz", "segmentation-0.nii", "segmentation-1.nii")
    touch(tmp_path, "volume-2.nii", "volume-131.nii", "segmentation-131.nii")
    touch(tmp_path / "again", "segmentation-1.nii")
    with pytest.raises(ValueError, match="cannot be used") as caught:
        lits_datalist(tmp_path)
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(str(tmp_path))[-1] for line in lines] == [
        "/segmentation-1.nii",
        "/volume-0.nii.gz",
        "/again/segmentation-1.nii has no volume",
        "/volume-2.nii has no segmentation, and is a validation or test case",
        "/segmentation-131.nii is no case of LiTS, whose labelled cases are 0 to 130",
    ]


def test_wrong_arguments(lits, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no LiTS volumes in .*expected volume-0.nii"):
        lits_datalist(tmp_path)
    with pytest.raises(ValueError, match="fold must be 0 to 4, got 5"):
        lits_datalist(lits, fold=5)
    with pytest.raises(ValueError, match="labelled_fraction"):
        lits_datalist(lits, labelled_fraction=1.5)
