"""A folder of images as a data list."""

import pytest

from monai_kd.data import image_datalist


def test_images_come_sorted_and_nothing_else_does(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", "c.jpeg"):
        (tmp_path / name).touch()
    (tmp_path / "d.png").mkdir()
    assert image_datalist(tmp_path) == [{"image": str(tmp_path / name)} for name in ("a.jpg", "b.PNG", "c.jpeg")]


def test_images_that_would_share_a_mask_are_refused(tmp_path):
    for name in ("a.jpg", "a.png", "b.png"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="share a mask: a"):
        image_datalist(tmp_path)


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no images in .*expected files such as"):
        image_datalist(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        image_datalist(tmp_path / "missing")
