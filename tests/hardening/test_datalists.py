"""Trees of files with faults planted at random: the check reports these, nothing more and nothing less, in one go."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from monai_kd.cli.datalists import check_part
from monai_kd.data import DataError, check_classes, check_datalist, check_volumes, ham10000_datalist, polyp_datalist

from . import labels, pictures, volumes

FEW = settings(deadline=None, derandomize=True, max_examples=25)
MANY = settings(deadline=None, derandomize=True, max_examples=1000)
Fault = Callable[[Path, dict], str]


@cache
def good(kind: str) -> tuple[bytes, bytes]:
    """An image and its label, as files."""
    if kind == "picture":
        mask = Image.fromarray(labels.ring().astype(np.uint8) * 255)
        return pictures.saved(Image.fromarray(pictures.pixels()), "PNG"), pictures.saved(mask, "PNG")
    label = nibabel.Nifti1Image(labels.organ(), volumes.AFFINE).to_bytes()
    return volumes.packed(volumes.stored()), volumes.packed(label)


def cut_short(key):
    def plant(item):
        path = Path(item[key])
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return plant


def gone(key):
    def plant(item):
        Path(item[key]).unlink()
        return Path(item[key])

    return plant


def text(key):
    def plant(item):
        Path(item[key]).write_text("not what its name says\n" * 20, encoding="utf-8")
        return Path(item[key])

    return plant


def misnamed(item):
    path = Path(item["image"])
    item["image"] = str(path.with_name(f"{path.name}.bak"))
    return Path(item["image"])


def no_image(item):
    return Path(str(item.pop("image")))


def other_size(item):
    path = Path(item["label"])
    if path.suffix == ".png":
        Image.new("L", (7, 9), 255).save(path)
    else:
        path.write_bytes(volumes.packed(nibabel.Nifti1Image(labels.organ()[1:], volumes.AFFINE).to_bytes()))
    return path


def other_values(item):
    path = Path(item["label"])
    if path.suffix == ".png":
        Image.fromarray(np.arange(480, dtype=np.uint8).reshape(20, 24) % 7).save(path)
    else:
        path.write_bytes(volumes.packed(nibabel.Nifti1Image(labels.organ() + 5, volumes.AFFINE).to_bytes()))
    return path


OF_IMAGES = [cut_short("image"), gone("image"), text("image"), misnamed, no_image]
OF_LABELS = [cut_short("label"), gone("label"), text("label"), other_size, other_values]
PLANTS = st.lists(st.sampled_from([None, None, *range(len(OF_IMAGES + OF_LABELS))]), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def folder():
    made = Path(tempfile.mkdtemp(prefix="trees-"))
    yield made
    shutil.rmtree(made)


def tree(root, kind, plants, repeated):
    """Items with faults in those places, and the numbers of the items that are wrong."""
    shutil.rmtree(root, ignore_errors=True)
    ending = ".png" if kind == "picture" else ".nii.gz"
    items, wrong = [], set()
    for number, plant in enumerate(plants):
        item = {}
        for key, content in zip(("image", "label"), good(kind)):
            path = root / f"{key}s" / f"case_{number}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            item[key] = str(path)
        if plant is not None:
            (OF_IMAGES + OF_LABELS)[plant](item)
            wrong.add(number)
        items.append(item)
    if repeated is not None and "image" in (twin := items[repeated % len(items)]):
        items.append(dict(twin))
        wrong.add(len(items) - 1)
    return items, wrong


def check_is_exact(folder, kind, plants, repeated):
    items, wrong = tree(folder / "tree", kind, plants, repeated)
    report = check_datalist(items) if kind == "picture" else check_volumes(items, (0, 1, 2), 2, hounsfield=False)
    assert {case.index for case in report.errors} == wrong, str(report)
    # An item that is there twice is as wrong as the first one, and is there twice.
    for case in report.errors:
        assert case.problem
        assert case.path in str(items[case.index]) or case.problem == "no 'image' in the item"
    assert report.items == len(items)
    if wrong:
        with pytest.raises(DataError) as caught:
            report.raise_if_bad()
        assert all(f"item {number}: " in str(caught.value) for number in wrong)
    else:
        report.raise_if_bad()


@pytest.mark.parametrize("kind", ["picture", "volume"])
@FEW
@given(plants=PLANTS, repeated=st.none() | st.integers(0, 7))
def test_a_check_reports_what_was_planted(folder, kind, plants, repeated):
    check_is_exact(folder, kind, plants, repeated)


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["picture", "volume"])
@MANY
@given(plants=PLANTS, repeated=st.none() | st.integers(0, 7))
def test_a_check_reports_what_was_planted_again(folder, kind, plants, repeated):
    check_is_exact(folder, kind, plants, repeated)


NO_CLASSES = st.sampled_from([-1, 3, 2**70, 0.5, 1.0, True, "1", "", [], {}, float("nan")])


@FEW
@given(classes=st.lists(st.sampled_from([0, 1, 2, None]) | NO_CLASSES, min_size=1, max_size=8))
def test_a_check_of_classes_reports_what_is_none(folder, classes):
    root = folder / "classes"
    root.mkdir(exist_ok=True)
    items = []
    for number, label in enumerate(classes):
        (root / f"{number}.png").write_bytes(good("picture")[0])
        items.append({"image": str(root / f"{number}.png"), "label": label})
    report = check_classes(items, num_classes=3)
    right = [label is None or (type(label) is int and 0 <= label < 3) for label in classes]
    assert [case.index for case in report.errors] == [number for number, good_one in enumerate(right) if not good_one]
    empty = {0, 1, 2} - {label for label in classes if type(label) is int}
    assert all(f"{one}" in str(report.warnings[0]) for one in sorted(empty)) if empty else True


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@FEW
@given(items=st.lists(st.dictionaries(st.sampled_from(["image", "label", "name"]), VALUES, max_size=3), max_size=4))
def test_a_check_bears_items_of_any_values(folder, items):
    """Nothing in an item ends a check before the others are read."""
    (folder / "good.png").write_bytes(good("picture")[0])
    items = [json.loads(json.dumps(item)) for item in items]
    for check in (
        check_datalist,
        lambda found: check_classes(found, 2),
        lambda found: check_volumes(found, (0,), None),
    ):
        report = check([*items, {"image": str(folder / "good.png")}])
        assert report.items == len(items) + 1
    assert check_part([*items, {"image": "good.png"}], folder, 2, None).items == len(items) + 1


def polyps(root, plants):
    """A Kvasir-SEG folder with files missing, misnamed or there twice, and their names."""
    shutil.rmtree(root, ignore_errors=True)
    planted = []
    for number in range(8):
        for name in ("images", "masks"):
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / f"case_{number}.png").write_bytes(good("picture")[name == "masks"] + bytes([number]))
    for number, plant in plants.items():
        image, mask = (root / name / f"case_{number}.png" for name in ("images", "masks"))
        if plant == "no mask":
            mask.unlink()
        elif plant == "no image":
            image.unlink()
        elif plant == "misnamed":
            mask.rename(mask.with_name(f"mask_{number}.png"))
        else:
            shutil.copyfile(image, image.with_suffix(".jpg"))
        planted.append(f"case_{number}")
    return planted


@FEW
@given(
    plants=st.dictionaries(st.integers(0, 7), st.sampled_from(["no mask", "no image", "misnamed", "twice"]), max_size=5)
)
def test_a_data_list_names_every_file_that_does_not_fit(folder, plants):
    planted = polyps(folder / "polyps", plants)
    if not planted:
        assert sum(map(len, polyp_datalist(folder / "polyps").values())) == 8
        return
    with pytest.raises(ValueError, match="case_") as caught:
        polyp_datalist(folder / "polyps")
    said = str(caught.value)
    assert {number for number in range(8) if f"case_{number}." in said} == set(plants), said


ROWS = st.dictionaries(
    st.integers(0, 39), st.sampled_from(["no file", "no row", "twice", "class", "no lesion"]), max_size=4
)


@FEW
@given(plants=ROWS)
def test_a_table_names_every_row_that_does_not_fit(folder, plants):
    root = folder / "lesions"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    lines = ["lesion_id,image_id,dx"]
    for number in range(40):
        plant = plants.get(number)
        name, lesion, label = f"ISIC_{number:02}", f"HAM_{number // 2}", ("mel", "nv")[number % 4 // 2]
        if plant != "no file":
            (root / f"{name}.jpg").write_bytes(bytes([number]))
        line = f"{'' if plant == 'no lesion' else lesion},{name},{'wart' if plant == 'class' else label}"
        lines += [] if plant == "no row" else [line] * (2 if plant == "twice" else 1)
    (root / "HAM10000_metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    if not plants:
        assert sum(map(len, ham10000_datalist(root).values())) == 40
        return
    with pytest.raises(DataError) as caught:
        ham10000_datalist(root)
    said = str(caught.value)
    assert {number for number in range(40) if f"ISIC_{number:02}" in said} == set(plants), said
