import numpy as np
import pytest
from PIL import Image, ImageFile

from monai_kd.data import DataError, check_classes


class Folder:
    """Writes images and keeps their items."""

    def __init__(self, path):
        self.path = path
        self.items = []

    def add(self, label, suffix=".png", seed=None, **extra):
        number = len(self.items)
        pixels = np.random.default_rng(number if seed is None else seed).integers(0, 255, (20, 30, 3), dtype=np.uint8)
        path = self.path / f"{number}{suffix}"
        Image.fromarray(pixels).save(path)
        self.items.append({"image": str(path), **({} if label is None else {"label": label})})
        return path

    def check(self, num_classes=2, **kwargs):
        report = check_classes(self.items, num_classes, **kwargs)
        return tuple([(case.index, case.problem) for case in cases] for cases in (report.errors, report.warnings))


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_good_items_pass(folder):
    folder.add(0)
    folder.add(np.int64(1), ".jpg")
    folder.add(None)
    report = check_classes(folder.items, 2)
    assert (report.items, report.labelled) == (3, 2)
    assert not report.errors + report.warnings, str(report)
    report.raise_if_bad()


def test_every_bad_case_is_in_one_report(folder):
    for suffix in (".jpg", ".png"):
        path = folder.add(0, suffix)
        path.write_bytes(path.read_bytes()[:-300])
    folder.add(0).unlink()
    folder.add(1).write_text("not an image")
    Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)).save(folder.add(1))
    folder.items.append(dict(folder.items[-1]))
    folder.items += [{"label": 1}, {"image": 3, "label": 1}]
    errors, warnings = folder.check()
    assert [(index, problem.split(":")[0]) for index, problem in errors] == [
        (0, "cannot be read"),
        (1, "cannot be read"),
        (2, "no such file"),
        (3, "cannot be read"),
        (4, "cannot be read"),
        (5, "image already listed in item 4"),
        (5, "cannot be read"),
        (6, "no 'image' in the item"),
        (7, "expected a path, got int"),
    ]
    assert "save it with 8 bits" in errors[4][1]
    assert not warnings
    report = check_classes(folder.items, 2)
    with pytest.raises(DataError) as caught:
        report.raise_if_bad()
    assert str(caught.value) == str(report)
    assert str(report).startswith("8 items checked, 8 with a label: 9 errors, 0 warnings\nerror: item 0: ")


@pytest.mark.parametrize("label", [2, -1, 1.0, "1", True, [0]])
def test_labels_must_be_classes(folder, label):
    folder.add(0)
    folder.add(1)
    path = folder.add(label)
    report = check_classes(folder.items, 2)
    assert str(report).splitlines() == [
        "3 items checked, 3 with a label: 1 errors, 0 warnings",
        f"error: item 2: {path}: label must be an integer from 0 to 1, got {label!r}",
    ]


def test_classes_without_items_are_a_warning(folder, caplog):
    folder.add(2)
    folder.add(None)
    report = check_classes(folder.items, 4)
    assert str(report).splitlines()[1:] == ["warning: no item of class 0, 1, 3"]
    report.raise_if_bad()
    assert "no item of class 0, 1, 3" in caplog.text


def test_the_same_bytes_under_two_labels_are_a_warning(folder):
    folder.add(0, seed=5)
    folder.add(1, seed=5)
    folder.add(0, seed=5)
    folder.add(None, seed=5)
    folder.add(1, seed=6)
    folder.add(1, seed=6)
    errors, warnings = folder.check()
    assert not errors
    assert warnings == [(1, "label 1, but the same bytes have label 0 in item 0")]


def test_truncated_files_are_found_whatever_the_process_allows(folder, monkeypatch):
    path = folder.add(0)
    path.write_bytes(path.read_bytes()[:-300])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    errors, _ = folder.check(1)
    assert len(errors) == 1
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_other_keys(folder):
    folder.items = [{"photo": str(folder.add(0)), "grade": 0}]
    assert folder.check(1, image_key="photo", label_key="grade") == ([], [])


def test_progress_is_shown_when_asked_for(folder, capfd):
    folder.add(0)
    folder.check(1)
    assert "checking" not in capfd.readouterr().err
    folder.check(1, progress=True)
    assert "checking" in capfd.readouterr().err
