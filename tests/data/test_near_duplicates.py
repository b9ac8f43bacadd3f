import os
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from monai_kd.data import DataError, brain_slice, endoscopy_frame, near_duplicate_groups, near_duplicates


def real(name):
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip(f"set MONAI_KD_DATA to a folder with {name}/ to look for near duplicates in it")
    root = Path(os.environ["MONAI_KD_DATA"]) / name
    if not root.is_dir():
        pytest.skip(f"no {name} below $MONAI_KD_DATA")
    return root


@pytest.fixture
def frames(tmp_path):
    """Twelve frames and slices that have nothing to do with each other."""
    for number in range(12):
        pixels = endoscopy_frame(number % 8, (96, 112), number) if number < 8 else brain_slice(number % 4, 96, number)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
    return tmp_path


def cut(image, share):
    width, height = image.size
    return image.crop((round(width * share), round(height * share), width, height))


COPIES = {
    "smaller": (lambda image: image.resize((60, 60)), {}),
    "larger": (lambda image: image.resize((301, 207)), {}),
    "compressed": (lambda image: image, {"format": "JPEG", "quality": 25}),
    "brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.3), {}),
    "of other contrast": (lambda image: ImageEnhance.Contrast(image).enhance(0.6), {}),
    "grey": (lambda image: image.convert("L"), {}),
    "cut": (lambda image: cut(image, 0.015), {}),
    "with a palette": (lambda image: image.convert("P"), {}),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_grouped_and_others_are_not(frames, kind):
    change, saved = COPIES[kind]
    originals = sorted(frames.iterdir())
    copies = [frames / f"copy of {path.stem}.png" for path in originals]
    for path, copy in zip(originals, copies):
        change(Image.open(path)).save(copy, **{"format": "PNG", **saved})
    groups = near_duplicate_groups([*originals, *copies])
    assert groups == [str(path) for path in originals] * 2


def test_a_large_jpeg_and_its_thumbnail(tmp_path):
    """JPEG files are decoded at a fraction of their size."""
    image = Image.fromarray(endoscopy_frame(6, (640, 768), 3))
    image.save(tmp_path / "a.jpg")
    image.resize((96, 80)).save(tmp_path / "b.png")
    assert len(set(near_duplicate_groups(tmp_path.iterdir()))) == 1


def test_different_frames_stay_apart(frames):
    assert len(set(near_duplicate_groups(frames.iterdir()))) == 12


def test_the_same_light_and_border_do_not_make_a_pair(tmp_path):
    """As of an endoscope, whose view is round and darker to one side whatever it shows."""
    down, right = np.mgrid[-1:1:96j, -1:1:96j]
    for number in range(6):
        texture = np.random.default_rng(number).normal(0, 12, (24, 24)).repeat(4, 0).repeat(4, 1)
        pixels = np.where(np.hypot(down, right) < 1, 130 + 60 * right + texture, 0).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
    assert len(set(near_duplicate_groups(tmp_path.iterdir()))) == 6


def test_many_images_are_compared_in_parts(frames, monkeypatch):
    for number in range(12):
        shutil.copy(frames / f"{number:02d}.png", frames / f"{number:02d} again.png")
        image = Image.open(frames / f"{number:02d}.png")
        image.resize((80, 80)).save(frames / f"z {number:02d}.png")
    before = near_duplicate_groups(frames.iterdir())
    assert len(set(before)) == 12
    monkeypatch.setattr(near_duplicates, "_ROWS", 5)
    assert near_duplicate_groups(frames.iterdir()) == before


def test_groups_are_linked_by_pairs(tmp_path):
    """The first and the last are not alike, but each is like the next."""
    scene = Image.fromarray(endoscopy_frame(3, (240, 240), 1))
    paths = [tmp_path / f"{number}.png" for number in range(9)]
    for number, path in enumerate(paths):
        scene.crop((2 * number, 0, 200 + 2 * number, 200)).save(path)
    assert len(set(near_duplicate_groups([paths[0], paths[-1]]))) == 2
    assert set(near_duplicate_groups(paths)) == {str(paths[0])}


def test_similarity_decides(frames):
    first = Image.open(frames / "00.png")
    Image.fromarray(np.roll(np.asarray(first), 1, axis=1)).save(frames / "moved.png")
    pair = [frames / "00.png", frames / "moved.png"]
    assert len(set(near_duplicate_groups(pair, similarity=0.8))) == 1
    assert len(set(near_duplicate_groups(pair, similarity=0.999))) == 2


def test_equal_bytes_at_any_similarity(frames):
    shutil.copy(frames / "03.png", frames / "again.png")
    groups = near_duplicate_groups([frames / "again.png", frames / "03.png", frames / "04.png"], similarity=1)
    assert groups == [str(frames / "03.png")] * 2 + [str(frames / "04.png")]


def test_order_does_not_matter_and_a_path_may_come_twice(frames):
    paths = [*sorted(frames.iterdir()), frames / "00.png"]
    shutil.copy(frames / "05.png", frames / "00a.png")
    paths.append(frames / "00a.png")
    before = dict(zip(paths, near_duplicate_groups(paths)))
    random.Random(0).shuffle(paths)
    assert dict(zip(paths, near_duplicate_groups(map(str, paths)))) == before
    assert before[frames / "05.png"] == str(frames / "00a.png")


def test_images_without_structure_are_alike_only_in_equal_bytes(tmp_path):
    for name, value in (("a", 10), ("b", 10), ("c", 200)):
        Image.new("L", (50, 50), value).save(tmp_path / f"{name}.png")
    Image.new("L", (60, 50), 10).save(tmp_path / "d.png")
    found = [Path(group).stem for group in near_duplicate_groups(sorted(tmp_path.iterdir()))]
    assert found == ["a", "a", "c", "d"]


def test_nothing_to_do():
    assert near_duplicate_groups([]) == []


def test_all_bad_files_are_said_at_once(frames):
    (frames / "01.png").write_text("not an image")
    (frames / "02.png").write_bytes((frames / "02.png").read_bytes()[:-2000])
    with pytest.raises(DataError, match="2 of 12 images cannot be read") as caught:
        near_duplicate_groups(frames.iterdir())
    assert [line.split(":")[0] for line in str(caught.value).splitlines()[1:]] == [
        str(frames / "01.png"),
        str(frames / "02.png"),
    ]
    with pytest.raises(DataError, match=r"2 images not found:\n.*x\.png\n.*y\.png"):
        near_duplicate_groups([frames / "y.png", frames / "00.png", frames / "x.png"])


@pytest.mark.parametrize("similarity", [0, -1, 1.01])
def test_similarity_out_of_range(similarity):
    with pytest.raises(ValueError, match=f"similarity must be above 0 and at most 1, got {similarity}"):
        near_duplicate_groups([], similarity)


def test_progress_is_shown_when_asked_for(frames, capfd):
    near_duplicate_groups(frames.iterdir())
    assert "near duplicates" not in capfd.readouterr().err
    near_duplicate_groups(frames.iterdir(), progress=True)
    assert "near duplicates" in capfd.readouterr().err


def test_on_kvasir_seg():
    """Of 237,705 pairs of frames four are near duplicates, seen by eye."""
    groups = near_duplicate_groups((real("kvasir_seg") / "images").glob("*.jpg"))
    assert len(groups) == 690
    assert Counter(Counter(groups).values()) == {1: 682, 2: 4}


def test_on_ham10000():
    """One image a lesion."""
    groups = near_duplicate_groups(real("ham10000").rglob("*.jpg"))
    assert len(set(groups)) == len(groups) == 1855
