import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_kd.data import check_datalist, polyp_datalist

SPLITS = ("training", "validation", "test")


def write(path: Path, value: int) -> None:
    """A small image whose bytes depend on ``value`` alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")


def pair(folder: Path, name: str, value: int, images: str = "images", masks: str = "masks") -> None:
    write(folder / images / f"{name}.jpg", value)
    write(folder / masks / f"{name}.png", 10_000 + value)


@pytest.fixture
def kvasir(tmp_path):
    for index in range(40):
        pair(tmp_path, f"frame{index:02d}", index)
    return tmp_path


@pytest.fixture
def pranet(tmp_path):
    for index in range(20):
        pair(tmp_path / "TrainDataset", str(index), index, "image", "mask")
    for number, name in enumerate(["CVC-300", "Kvasir"]):
        for index in range(5):
            value = 100 + 10 * number + index
            pair(tmp_path / "TestDataset" / name, str(index), value)
            pair(tmp_path / "TestDataset" / "test", f"{name}_{index}", value)
    return tmp_path


def images(items):
    return [Path(item["image"]).name for item in items]


def labelled(items):
    return {item["image"] for item in items if "label" in item}


def test_every_pair_is_in_one_split(kvasir):
    data = polyp_datalist(kvasir)
    assert set(data) == set(SPLITS)
    assert [len(data[key]) for key in SPLITS] == [32, 4, 4]
    everything = [name for key in SPLITS for name in images(data[key])]
    assert sorted(everything) == sorted(os.listdir(kvasir / "images"))
    for item in (item for split in data.values() for item in split):
        assert Path(item["image"]).stem == Path(item["label"]).stem
        assert Path(item["image"]).is_file()
        assert Path(item["label"]).is_file()


def test_splits_follow_the_seed(kvasir):
    assert polyp_datalist(kvasir, seed=3) == polyp_datalist(str(kvasir), seed=3)
    assert polyp_datalist(kvasir, seed=3)["test"] != polyp_datalist(kvasir, seed=4)["test"]
    assert polyp_datalist(kvasir, seed=3)["validation"] != polyp_datalist(kvasir, seed=4)["validation"]


def test_splits_do_not_follow_the_listing(kvasir, monkeypatch):
    before = polyp_datalist(kvasir, labelled_fraction=0.5)
    listing = Path.iterdir

    def shuffled(self):
        paths = list(listing(self))
        random.Random(1).shuffle(paths)
        return iter(paths)

    monkeypatch.setattr(Path, "iterdir", shuffled)
    assert polyp_datalist(kvasir, labelled_fraction=0.5) == before
    assert all(images(items) == sorted(images(items)) for items in before.values())


def test_splits_do_not_follow_the_place(kvasir, tmp_path_factory):
    place = tmp_path_factory.mktemp("elsewhere") / "moved"
    before = {key: images(items) for key, items in polyp_datalist(kvasir).items()}
    kvasir.rename(place)
    assert {key: images(items) for key, items in polyp_datalist(place).items()} == before


@pytest.mark.parametrize("seed", range(5))
def test_equal_images_share_a_split(kvasir, seed):
    for copy in range(10):
        pair(kvasir, f"again{copy}", 7)
    for copy in range(3):
        pair(kvasir, f"more{copy}", 8)
    data = polyp_datalist(kvasir, seed=seed, val_fraction=0.3, test_fraction=0.3)
    homes = {key: {Path(item["image"]).read_bytes() for item in data[key]} for key in SPLITS}
    assert not homes["training"] & homes["validation"]
    assert not homes["training"] & homes["test"]
    assert not homes["validation"] & homes["test"]
    assert sum(len(data[key]) for key in SPLITS) == 53


def test_labelled_subsets_are_nested(kvasir):
    full = polyp_datalist(kvasir)
    before: set[str] = set()
    for fraction, count in [(0.001, 1), (0.1, 3), (0.25, 8), (0.5, 16), (1.0, 32)]:
        data = polyp_datalist(kvasir, labelled_fraction=fraction)
        now = labelled(data["training"])
        assert len(now) == count
        assert before <= now
        assert {key: images(data[key]) for key in SPLITS} == {key: images(full[key]) for key in SPLITS}
        assert all("label" in item for key in SPLITS[1:] for item in data[key])
        before = now


def test_labelled_subset_follows_the_seed(kvasir):
    kwargs = {"val_fraction": 0, "test_fraction": 0, "labelled_fraction": 0.2}
    one, other = (labelled(polyp_datalist(kvasir, seed=seed, **kwargs)["training"]) for seed in (0, 1))
    assert len(one) == len(other) == 8
    assert one != other


@pytest.mark.parametrize(
    ("val", "test", "counts"), [(0.25, 0.5, [10, 10, 20]), (0.5, 0, [20, 20, 0]), (0, 0.001, [39, 0, 1])]
)
def test_fractions_are_of_all_images(kvasir, val, test, counts):
    data = polyp_datalist(kvasir, val_fraction=val, test_fraction=test)
    assert [len(data[key]) for key in SPLITS] == counts


def test_no_split_asked_for(kvasir):
    data = polyp_datalist(kvasir, val_fraction=0, test_fraction=0)
    assert [len(data[key]) for key in SPLITS] == [40, 0, 0]


def test_pranet_keeps_its_test_sets(pranet):
    data = polyp_datalist(pranet, val_fraction=0.2, test_fraction=0.7)
    assert set(data) == {*SPLITS, "test:CVC-300", "test:Kvasir"}
    assert [len(data[key]) for key in SPLITS] == [16, 4, 10]
    assert data["test"] == data["test:CVC-300"] + data["test:Kvasir"]
    assert all("TrainDataset" in item["image"] for key in SPLITS[:2] for item in data[key])


def test_pranet_union_is_not_counted_twice_but_not_lost(pranet):
    pair(pranet / "TestDataset" / "test", "only_here", 999)
    data = polyp_datalist(pranet)
    assert images(data["test:test"]) == ["only_here.jpg"]
    contents = Counter(Path(item["image"]).read_bytes() for item in data["test"])
    assert len(contents) == 11
    assert max(contents.values()) == 1


def test_pranet_with_one_test_set_named_test(tmp_path):
    pair(tmp_path / "TrainDataset", "a", 1)
    pair(tmp_path / "TestDataset" / "test", "b", 2)
    assert len(polyp_datalist(tmp_path, val_fraction=0)["test"]) == 1


def test_pranet_does_not_train_on_test_images(pranet):
    pair(pranet / "TrainDataset", "leak", 100, "image", "mask")
    with pytest.warns(UserWarning, match=r"1 training images are also in a test set.*leak\.jpg"):
        data = polyp_datalist(pranet)
    assert "leak.jpg" not in images(data["training"]) + images(data["validation"])
    assert len(data["test"]) == 10


def test_hidden_and_foreign_files_are_not_images(kvasir):
    (kvasir / "images" / "._frame00.jpg").write_bytes(b"")
    (kvasir / "masks" / "Thumbs.db").write_bytes(b"")
    assert len(polyp_datalist(kvasir)["training"]) == 32


def test_all_missing_partners_are_named_at_once(kvasir):
    (kvasir / "masks" / "frame01.png").unlink()
    (kvasir / "masks" / "frame02.png").unlink()
    (kvasir / "images" / "frame03.jpg").unlink()
    write(kvasir / "masks" / "frame04.bmp", 1)
    with pytest.raises(ValueError, match="do not match") as caught:
        polyp_datalist(kvasir)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 4
    for line, (start, end) in zip(
        sorted(lines),
        [
            ("image without mask", "frame01.jpg"),
            ("image without mask", "frame02.jpg"),
            ("mask without image", "frame03.png"),
            ("name used twice", "frame04.png"),
        ],
    ):
        assert line.startswith(start)
        assert line.endswith(end)


def test_partners_missing_in_several_folders(pranet):
    (pranet / "TrainDataset" / "mask" / "0.png").unlink()
    (pranet / "TestDataset" / "Kvasir" / "images" / "1.jpg").unlink()
    with pytest.raises(ValueError, match=r"(?s)TrainDataset/image/0\.jpg.*Kvasir/masks/1\.png"):
        polyp_datalist(pranet)


def test_wrong_folders_say_what_is_known(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder.*Kvasir-SEG.*PraNet"):
        polyp_datalist(tmp_path / "nowhere")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds pictures; .*Kvasir-SEG.*PraNet"):
        polyp_datalist(tmp_path)
    (tmp_path / "TrainDataset").mkdir()
    with pytest.raises(FileNotFoundError, match="no TestDataset"):
        polyp_datalist(tmp_path)
    (tmp_path / "TestDataset").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no test set"):
        polyp_datalist(tmp_path)
    (tmp_path / "TestDataset" / "ETIS").mkdir()
    with pytest.raises(FileNotFoundError, match=r"TrainDataset, .*ETIS"):
        polyp_datalist(tmp_path)


@pytest.mark.parametrize(
    "kwargs", [{"val_fraction": 1.0}, {"test_fraction": -0.1}, {"val_fraction": 0.6, "test_fraction": 0.4}]
)
def test_fractions_must_leave_training_images(kvasir, kwargs):
    with pytest.raises(ValueError, match="leave images for training"):
        polyp_datalist(kvasir, **kwargs)


@pytest.mark.parametrize("fraction", [0, -1, 1.1])
def test_labelled_fraction_must_be_a_share(kvasir, fraction):
    with pytest.raises(ValueError, match=f"labelled_fraction.*{fraction}"):
        polyp_datalist(kvasir, labelled_fraction=fraction)


def test_too_few_images(tmp_path):
    pair(tmp_path, "a", 1)
    pair(tmp_path, "b", 2)
    with pytest.raises(ValueError, match="no training image left"):
        polyp_datalist(tmp_path)


def test_empty_folders(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match="no image in"):
        polyp_datalist(tmp_path)


def test_on_kvasir_seg():
    root = os.environ.get("MONAI_KD_DATA")
    if not root or not Path(root, "kvasir_seg").is_dir():
        pytest.skip("set MONAI_KD_DATA to a folder with kvasir_seg/ to test on Kvasir-SEG")
    data = polyp_datalist(Path(root, "kvasir_seg"))
    assert [len(data[key]) for key in SPLITS] == [552, 69, 69]
    report = check_datalist([item for split in data.values() for item in split])
    assert (report.items, report.labelled) == (690, 690)
    assert not report.errors, str(report)
    assert not report.warnings, str(report)
