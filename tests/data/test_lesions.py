import csv
import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score

from monai_kd.data import HAM10000_CLASSES, ham10000_datalist, lesion_image, lesions, make_lesion_images

SIZE = 48
AKIEC, BCC, BKL, DF, MEL, NV, VASC = range(7)


@pytest.fixture(scope="module")
def pictures():
    """(classes, lesions, height, width, 3) in [0, 1]."""
    return np.stack([[lesion_image(kind, SIZE, [7, index]) for index in range(30)] for kind in range(7)]) / 255.0


@pytest.fixture
def blank(monkeypatch):
    """Folders of many pictures in no time: only the table is as it would be."""
    monkeypatch.setattr(lesions, "lesion_image", lambda *_: np.zeros((32, 32, 3), np.uint8))


def around():
    down, right = np.mgrid[:SIZE, :SIZE] * 2 / (SIZE - 1) - 1
    return np.hypot(down, right)


def rows(root):
    with open(f"{root}/HAM10000_metadata.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_same_arguments_same_picture_others_another():
    np.testing.assert_array_equal(lesion_image(4, SIZE, 3, view=1), lesion_image(4, (SIZE, SIZE), 3, view=1))
    first = lesion_image(4, SIZE, 3)
    for other in (lesion_image(5, SIZE, 3), lesion_image(4, SIZE, 4), lesion_image(4, SIZE, 3, view=1)):
        assert (first != other).mean() > 0.02


def test_global_random_state_does_not_matter(ignores_the_global_state):
    assert ignores_the_global_state(lambda: lesion_image(1, SIZE, 3))


@pytest.mark.parametrize("size", [(32, 32), (33, 90), (150, 61)])
def test_any_size(size):
    for kind in range(7):
        image = lesion_image(kind, size, 1)
        assert image.shape == (*size, 3)
        assert image.dtype == np.uint8
        assert image.std() > 5


def test_skin_is_reddish_and_of_many_colours(pictures):
    skin = np.median(pictures[:, :, around() > 0.95], axis=2).reshape(-1, 3)
    skin = skin[skin.max(-1) > 0.2]  # not the black corners
    assert (skin[:, 0] > skin[:, 1]).mean() > 0.97
    assert (skin[:, 0] > skin[:, 2]).mean() > 0.9
    assert skin.std(axis=0).min() > 0.03


def test_what_lies_around_a_lesion_does_not_depend_on_its_class(pictures):
    corners = pictures[:, :, around() > 1.25]
    same = (corners == corners[NV]).all(-1).mean(axis=(1, 2))
    assert same.min() > 0.85


def test_lesions_stand_out_from_the_skin(pictures):
    inside, outside = pictures[:, :, around() < 0.3].mean(2), np.median(pictures[:, :, around() > 0.9], axis=2)
    assert np.median(np.abs(inside - outside).max(-1), axis=1).min() > 0.04


def test_classes_have_their_colours(pictures):
    """Ratios to the skin around, so that the light does not matter."""
    skin = np.median(pictures[:, :, around() > 0.9], axis=2)
    red, green, blue = np.moveaxis(np.median(pictures[:, :, around() < 0.3], axis=2) / np.maximum(skin, 0.05), -1, 0)
    # Naevi and melanomas are brown: blue is absorbed most. Vascular lesions are red to purple: green is.
    for kind in (NV, MEL):
        assert np.median(blue[kind] / green[kind]) < 0.9
    assert np.median(blue[VASC] / green[VASC]) > 1.05
    # Keratoses and carcinomas are red rather than dark.
    for kind in (AKIEC, BCC):
        assert np.median(red[kind]) > np.median(red[NV]) + 0.1


def test_dermatofibromas_have_a_pale_middle(pictures):
    green = gaussian_filter(pictures[..., 1], (0, 0, 1, 1))
    palest = np.percentile(green[:, :, around() < 0.25], 90, axis=2)
    ring = np.median(green[:, :, (around() > 0.25) & (around() < 0.5)], axis=2)
    paler = (palest / np.maximum(ring, 0.05) > 1.1).mean(axis=1)
    assert paler[DF] > 2 * paler[NV]


def test_melanomas_are_less_symmetric_than_naevi(pictures):
    middle = pictures[..., around() < 0.8, :]
    turned = pictures[:, :, ::-1, ::-1][..., around() < 0.8, :]
    asymmetry = np.abs(middle - turned).mean(axis=(2, 3)) / np.maximum(middle.std(axis=(2, 3)), 0.02)
    assert np.median(asymmetry[MEL]) > 1.1 * np.median(asymmetry[NV])


def features(pictures):
    """Colours in three rings, over the skin's, and how much they vary."""
    skin = np.median(pictures[:, around() > 0.9], axis=1)
    found = []
    for low, high in ((0, 0.3), (0.3, 0.5), (0.5, 0.8)):
        ring = pictures[:, (around() >= low) & (around() < high)]
        found += [np.median(ring, axis=1) - skin, ring.std(axis=1)]
    return np.concatenate(found, axis=1)


def test_classes_can_be_learnt_but_not_all_of_them(pictures):
    labels = np.repeat(np.arange(7), 30).reshape(7, 30)
    train, test = pictures[:, :20].reshape(-1, SIZE, SIZE, 3), pictures[:, 20:].reshape(-1, SIZE, SIZE, 3)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    model.fit(features(train), labels[:, :20].ravel())
    score = balanced_accuracy_score(labels[:, 20:].ravel(), model.predict(features(test)))
    assert 0.4 < score < 0.8


def test_views_of_a_lesion_are_more_alike_than_lesions_of_a_class():
    def contrast(index, view):
        return features(lesion_image(BKL, SIZE, [3, index], view)[None] / 255.0)[0]

    first, second = (np.stack([contrast(index, view) for index in range(12)]) for view in (0, 1))
    distance = np.abs(first[:, None] - second[None]).mean(-1)
    assert np.mean(np.diag(distance)) < 0.6 * distance[~np.eye(12, dtype=bool)].mean()


def test_folder_has_the_published_layout(tmp_path):
    root = make_lesion_images(tmp_path / "lesions", count=12, size=(40, 48), seed=2)
    assert sorted(os.listdir(root)) == ["HAM10000_metadata.csv", "images", "phantoms.json"]
    table = rows(root)
    assert list(table[0]) == ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    assert sorted(f"{row['image_id']}.jpg" for row in table) == sorted(os.listdir(f"{root}/images"))
    assert {Image.open(f"{root}/images/{row['image_id']}.jpg").size for row in table} == {(48, 40)}
    assert {row["dx"] for row in table} == set(HAM10000_CLASSES)
    assert {row["dx_type"] for row in table} <= {"histo", "follow_up", "consensus", "confocal"}
    assert all(row["age"] == "" or float(row["age"]) % 5 == 0 for row in table)


@pytest.mark.usefixtures("blank")
def test_classes_are_as_unbalanced_as_the_published_ones_but_none_is_missing(tmp_path):
    table = rows(make_lesion_images(tmp_path / "lesions", count=900, size=32))
    shares = {name: number / 900 for name, number in Counter(row["dx"] for row in table).items()}
    assert 0.64 < shares["nv"] < 0.70
    assert all(0.09 < shares[name] < 0.13 for name in ("mel", "bkl"))
    assert all(0.008 < shares[name] < 0.06 for name in ("akiec", "bcc", "df", "vasc"))
    few = {name: set() for name in HAM10000_CLASSES}
    for row in table:
        few[row["dx"]].add(row["lesion_id"])
        lesion = sum(map(len, few.values()))
        assert min(map(len, few.values())) >= (6 if lesion >= 84 else lesion >= 7)


@pytest.mark.usefixtures("blank")
def test_a_quarter_of_the_lesions_has_several_pictures(tmp_path):
    lesion = defaultdict(list)
    for row in rows(make_lesion_images(tmp_path / "lesions", count=900, size=32)):
        lesion[row["lesion_id"]].append(tuple(row[key] for key in ("dx", "dx_type", "age", "sex", "localization")))
    several = [known for known in lesion.values() if len(known) > 1]
    assert 0.2 < len(several) / len(lesion) < 0.3
    assert {len(known) for known in several} == {2, 3}
    assert all(len(set(known)) == 1 for known in several)


@pytest.mark.usefixtures("blank")
def test_every_class_is_in_every_fold(tmp_path):
    root = make_lesion_images(tmp_path / "lesions", count=130, size=32)
    for fold in range(5):
        data = ham10000_datalist(root, fold=fold)
        assert {item["label"] for item in data["test"]} == set(range(7))


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in Path(root).rglob("*.jpg")}


def test_folder_is_the_same_again_and_grows_at_its_end(tmp_path):
    first, again, longer = (
        make_lesion_images(tmp_path / name, count, size=32) for name, count in (("a", 9), ("b", 9), ("c", 12))
    )
    assert contents(first) == contents(again)
    assert contents(first).items() <= contents(longer).items()
    assert rows(first) == rows(again) == rows(longer)[:9]
    assert len(set(contents(longer).values())) == 12
    assert not set(contents(make_lesion_images(tmp_path / "d", 9, size=32, seed=1)).values()) & set(
        contents(first).values()
    )


def test_pictures_of_a_lesion_are_views_of_it(tmp_path):
    root = make_lesion_images(tmp_path / "lesions", count=12, size=32, seed=5)
    seen = Counter()
    for row in rows(root):
        lesion, view = int(row["lesion_id"][4:]) - 9_000_000, seen[row["lesion_id"]]
        seen[row["lesion_id"]] += 1
        expected = lesion_image(HAM10000_CLASSES.index(row["dx"]), 32, [5, lesion], view).astype(float)
        found = np.asarray(Image.open(f"{root}/images/{row['image_id']}.jpg")).astype(float)
        assert np.abs(found - expected).mean() < 8  # JPEG
    assert max(seen.values()) > 1


def test_same_generation_is_left_as_it_is(tmp_path):
    root = make_lesion_images(tmp_path / "lesions", 2, 32)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert make_lesion_images(root, 2, (32, 32)) == root
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("lost", ["images/ISIC_9000001.jpg", "HAM10000_metadata.csv"])
def test_anything_else_is_never_overwritten(tmp_path, lost):
    root = make_lesion_images(tmp_path / "lesions", 2, 32)
    with pytest.raises(FileExistsError, match="other generated lesions"):
        make_lesion_images(root, 3, 32)
    Path(root, lost).unlink()
    with pytest.raises(FileExistsError, match="lost or gained"):
        make_lesion_images(root, 2, 32)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="not generated here"):
        make_lesion_images(tmp_path / "mine", 2, 32)
    assert os.listdir(tmp_path / "mine") == ["notes.txt"]


def test_nothing_is_left_when_writing_fails(tmp_path, monkeypatch):
    def fail(kind, size, seed, view):
        if seed[1] == 1:
            raise KeyboardInterrupt
        return lesion_image(kind, size, seed, view)

    monkeypatch.setattr(lesions, "lesion_image", fail)
    with pytest.raises(KeyboardInterrupt):
        make_lesion_images(tmp_path / "lesions", 6, 32)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [({"count": 0}, "count"), ({"size": 31}, "at least 32"), ({"size": (40, 31)}, "31"), ({"size": (40,)}, "40")],
)
def test_wrong_arguments(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_lesion_images(tmp_path / "lesions", **{"count": 2, **change})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", [-1, 7])
def test_no_such_class(kind):
    with pytest.raises(ValueError, match=f"0 to 6 .*vasc.*got {kind}"):
        lesion_image(kind, SIZE)
