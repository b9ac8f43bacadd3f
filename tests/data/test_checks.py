import numpy as np
import pytest
from PIL import Image, ImageFile

from monai_kd.data import DataError, check_datalist, require_splits

HEIGHT, WIDTH = 40, 60


def disc() -> np.ndarray:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return (255 * ((y - 20) ** 2 + (x - 25) ** 2 < 100)).astype(np.uint8)


class Folder:
    """Writes images and masks and keeps their items."""

    def __init__(self, path):
        self.path = path
        self.items = []

    def save(self, name, pixels, **kwargs):
        path = self.path / name
        Image.fromarray(pixels).save(path, **kwargs)
        return str(path)

    def add(self, mask, suffix=".png", **kwargs):
        name = str(len(self.items))
        item = {"image": self.save(f"{name}.jpg", noise()), "label": self.save(f"{name}_mask{suffix}", mask, **kwargs)}
        self.items.append(item)
        return item


def noise(height=HEIGHT, width=WIDTH):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def cut(path, keep=0.5):
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(data[: int(keep * len(data))])


def test_good_items_pass(folder):
    folder.add(disc())
    folder.add(disc() // 255)
    folder.add(np.repeat(disc()[..., None], 3, axis=-1))
    folder.add(np.dstack([disc()] * 3 + [np.full_like(disc(), 255)]))
    folder.add(disc() > 0)
    folder.items.append({"image": folder.save("unlabelled.jpg", noise())})
    report = check_datalist(folder.items)
    assert not report.errors, str(report)
    assert not report.warnings, str(report)
    assert (report.items, report.labelled) == (6, 5)
    report.raise_if_bad()


def test_every_bad_case_is_in_one_report(folder):
    cut(folder.add(disc())["image"])
    cut(folder.add(disc())["label"], keep=0.8)
    folder.items.append({"image": folder.save("large.jpg", noise(50, 70)), "label": folder.save("small.png", disc())})
    three = disc()
    three[0, :3] = 128
    folder.add(three)
    folder.items.append({"image": str(folder.path / "gone.jpg"), "label": str(folder.path / "gone.png")})
    folder.items.append(dict(folder.add(disc())))
    folder.items.append({"label": folder.save("orphan.png", disc())})
    (folder.path / "text.jpg").write_text("not an image")
    folder.items.append({"image": str(folder.path / "text.jpg")})
    folder.items.append({"image": 3})
    folder.add(disc() // 255 + 1)
    folder.add(np.dstack([disc(), disc() * 0, disc()]))
    folder.add(np.zeros_like(disc()))
    folder.add(np.full_like(disc(), 255))

    report = check_datalist(folder.items)
    assert [(case.index, case.problem.split(":")[0].split(" (")[0]) for case in report.errors] == [
        (0, "cannot be read"),
        (1, "cannot be read"),
        (2, "mask is 60x40, its image is 70x50"),
        (3, "mask is not binary"),
        (4, "no such file"),
        (4, "no such file"),
        (6, "image already listed in item 5"),
        (6, "label already listed in item 5"),
        (7, "no 'image' in the item"),
        (8, "cannot be read"),
        (9, "expected a path, got int"),
        (10, "mask is not binary"),
        (11, "mask is not binary"),
    ]
    assert [(case.index, case.problem) for case in report.warnings] == [
        (12, "empty mask"),
        (13, "mask covers the whole image"),
    ]
    lines = str(report).splitlines()
    assert lines[0] == "14 items checked, 12 with a label: 13 errors, 2 warnings"
    assert len(lines) == 1 + 13 + 2
    assert str(folder.path / "gone.jpg") in str(report)
    with pytest.raises(DataError) as caught:
        report.raise_if_bad()
    assert str(caught.value) == str(report)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("quality", [75, 90, 100])
def test_jpeg_masks_may_be_noisy(folder, quality):
    large = np.kron(disc(), np.ones((8, 8), dtype=np.uint8))
    image, label = folder.save("a.jpg", noise(*large.shape)), folder.save("b.jpeg", large, quality=quality)
    report = check_datalist([{"image": image, "label": label}])
    assert not report.errors, str(report)


def test_jpeg_masks_must_still_be_binary(folder):
    folder.add(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1)), ".jpg", quality=95)
    folder.add(np.full((HEIGHT, WIDTH), 3, dtype=np.uint8), ".jpg")
    report = check_datalist(folder.items)
    assert [case.index for case in report.errors] == [0]
    assert [(case.index, case.problem) for case in report.warnings] == [(1, "empty mask")]


def test_the_format_counts_not_the_name(folder):
    folder.add(disc(), ".png", format="JPEG", quality=75)
    with Image.open(folder.items[0]["label"]) as image:
        assert len(np.unique(np.asarray(image))) > 2
    assert not check_datalist(folder.items).errors


def test_classes_are_allowed_when_asked_for(folder):
    folder.add(disc() // 255 * np.arange(1, WIDTH + 1, dtype=np.uint8))
    assert "not binary" in str(check_datalist(folder.items))
    assert not check_datalist(folder.items, binary=False).errors


def test_bombs_are_a_case(folder, monkeypatch):
    folder.add(disc())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    errors = check_datalist(folder.items).errors
    assert len(errors) == 2
    assert all("decompression bomb" in case.problem for case in errors)


def test_truncated_files_are_found_whatever_the_process_allows(folder, monkeypatch):
    cut(folder.add(disc())["image"])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert "truncated" in str(check_datalist(folder.items))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_other_keys(folder):
    folder.items = [{"frame": item["image"], "polyp": item["label"]} for item in [folder.add(disc())]]
    report = check_datalist(folder.items, image_key="frame", label_key="polyp")
    assert report.labelled == 1
    assert not report.errors


def test_progress_is_shown_when_asked_for(folder, capfd):
    folder.add(disc())
    check_datalist(folder.items)
    assert "checking" not in capfd.readouterr().err
    check_datalist(folder.items, progress=True)
    assert "checking" in capfd.readouterr().err


def test_no_items():
    assert str(check_datalist([])) == "0 items checked, 0 with a label: 0 errors, 0 warnings"


def test_pixels_of_more_than_8_bits_are_refused(tmp_path):
    """Converted to RGB they would all be cut off at 255."""
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)).save(path)
    (case,) = check_datalist([{"image": str(path)}]).errors
    assert "save it with 8 bits" in case.problem


def test_warnings_alone_are_shown(tmp_path, caplog):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("L", (8, 8)).save(tmp_path / "m.png")
    check_datalist([{"image": str(tmp_path / "a.png"), "label": str(tmp_path / "m.png")}]).raise_if_bad()
    assert "empty mask" in caplog.text


def test_an_empty_split_is_named():
    require_splits({"training": [1], "validation": [2]}, "training", "validation")
    with pytest.raises(DataError, match="no items in validation and test"):
        require_splits({"training": [1], "validation": []}, "training", "validation", "test")


def test_a_split_with_fewer_items_than_processes_is_named(monkeypatch):
    monkeypatch.setattr("monai_kd.data.checks.processes", lambda: 2)
    require_splits({"training": [1, 2], "validation": [3]}, "training")
    with pytest.raises(DataError, match=r"2 processes need one item each, but there are 1 in validation; give more"):
        require_splits({"training": [1, 2], "validation": [3]}, "training", "validation")
