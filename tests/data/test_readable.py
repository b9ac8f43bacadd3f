"""Cases that cannot be read: named, or replaced by the next that can be, the same whoever reads them."""

import operator
import os
import pickle
from functools import partial

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped, Lambdad, LoadImaged, RandAdjustContrastd
from PIL import EpsImagePlugin, Image

from monai_kd.data import (
    Case,
    CheckReport,
    DataError,
    ReadableDataset,
    UnreadableCases,
    UnreadableError,
    VolumeCacheDataset,
    check_datalist,
    readable,
)
from monai_kd.errors import user_message


@pytest.fixture
def items(tmp_path):
    """Ten pictures whose grey level is their number; the last three without a label."""
    found = []
    for number in range(10):
        for kind, level in (("image", number), ("label", 255 * (number % 2))):
            Image.fromarray(np.full((8, 8), level, np.uint8)).save(tmp_path / f"{kind}_{number}.png")
        item = {kind: str(tmp_path / f"{kind}_{number}.png") for kind in ("image", "label")}
        found.append({**(item if number < 7 else {"image": item["image"]}), "index": number})
    return found


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """PyTorch waits that long, in seconds, for each process that loads when another one has failed."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)


def loading():
    load = LoadImaged(["image", "label"], reader="PILReader", converter=grey, allow_missing_keys=True)
    return [load, EnsureChannelFirstd(["image", "label"], allow_missing_keys=True), EnsureTyped("image")]


grey = operator.methodcaller("convert", "L")


def levels(dataset, workers=0):
    loader = DataLoader(dataset, batch_size=1, num_workers=workers)
    return [int(batch["image"][0, 0, 0, 0]) for batch in loader]


def spoil(path, how):
    if how == "removed":
        os.remove(path)
    else:
        with open(path, "r+b") as file:
            file.truncate(0 if how == "emptied" else 50)


def skipping(share=0.7):
    return UnreadableCases("skip", share)


@pytest.mark.parametrize("how", ["removed", "emptied", "truncated"])
@pytest.mark.parametrize("key", ["image", "label"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_run_stops_and_names_case_file_and_key(items, how, key, workers):
    dataset = ReadableDataset(items, loading(), UnreadableCases(), cache_rate=0.0)
    assert levels(dataset) == list(range(10))
    spoil(items[3][key], how)
    with pytest.raises(UnreadableError) as caught:
        levels(dataset, workers)
    message = user_message(caught.value)
    reason = "no such file" if how == "removed" else "cannot be read: "
    assert message.startswith(f"item 3: {items[3][key]}: {key}: {reason}")
    assert "on_unreadable 'skip'" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("rate", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_case_with_the_same_keys_takes_its_place(items, rate, workers):
    for number in (3, 6, 9):
        spoil(items[number]["image"], "removed")
    unreadable = skipping()
    dataset = ReadableDataset(items, loading(), unreadable, cache_rate=rate, progress=False)
    assert len(dataset) == 10
    # Of the labelled ones 0 comes behind 6, of the others 7 behind 9.
    assert levels(dataset, workers) == [0, 1, 2, 4, 4, 5, 0, 7, 8, 7]
    found = unreadable.found()
    assert [(case.index, case.path) for case in found] == [(n, items[n]["image"]) for n in (3, 6, 9)]
    assert {case.problem for case in found} == {"image: no such file"}


def test_it_is_the_whole_case_that_comes_instead(items):
    spoil(items[2]["label"], "emptied")
    dataset = ReadableDataset(items, loading(), skipping(), cache_rate=0.0)
    assert dataset[2]["index"] == dataset[3]["index"] == 3
    assert torch.equal(dataset[2]["label"], dataset[3]["label"])


def test_a_file_that_is_back_is_read_again(items):
    unreadable = skipping()
    dataset = ReadableDataset(items, loading(), unreadable, cache_rate=0.0)
    os.rename(items[0]["image"], items[0]["image"] + "_")
    assert levels(dataset)[0] == 1
    os.rename(items[0]["image"] + "_", items[0]["image"])
    assert levels(dataset)[0] == 0
    assert len(unreadable.found()) == 1


def test_other_random_draws_are_as_if_the_other_case_had_been_asked(items):
    """Reading draws nothing, so what comes behind a case does not depend on whether it could be read."""
    random = RandAdjustContrastd("image", prob=1.0, gamma=(0.5, 2.0))

    def seen(data):
        dataset = ReadableDataset(data, Compose([*loading(), random]).set_random_state(0), skipping(), cache_rate=0.0)
        return torch.stack([dataset[i]["image"].as_tensor() for i in range(10)])

    before = seen([*items[:3], items[4], *items[4:]])
    spoil(items[3]["image"], "removed")
    assert torch.equal(seen(items), before)


def test_too_many_stop_and_are_listed(items):
    unreadable = skipping(share=0.2)
    dataset = ReadableDataset(items, loading(), unreadable, cache_rate=0.0)
    for number in (0, 1):
        spoil(items[number]["image"], "removed")
    assert levels(dataset, workers=2)[:3] == [2, 2, 2]
    spoil(items[2]["image"], "removed")
    for workers in (0, 2):
        with pytest.raises(UnreadableError) as caught:
            levels(dataset, workers)
        message = user_message(caught.value)
        assert message.startswith("3 of 10 training cases cannot be used, more than the 20% that may be skipped:\n")
        assert all(items[number]["image"] in message for number in range(3))


@pytest.mark.parametrize("how", ["lists", "numbers"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_case_of_several_files_or_none_of_its_own_counts_as_any(items, how, workers):
    """Of several files the one that is gone is named."""
    pairs = [{"image": [items[number]["image"], items[number + 5]["image"]]} for number in range(5)]
    read = [LoadImaged("image", reader="PILReader"), EnsureTyped("image")]
    if how == "numbers":
        look_up = Lambdad("image", partial(operator.getitem, [pair["image"] for pair in pairs]))
        data, read = [{"image": number} for number in range(5)], [look_up, *read]
    else:
        data = pairs
    unreadable = skipping(share=0.4)
    dataset = ReadableDataset(data, read, unreadable, cache_rate=0.0)
    for number in (0, 1, 2):
        spoil(items[number + 5]["image"], "removed")
        if number < 2:
            list(DataLoader(dataset, num_workers=workers))
    assert [(case.index, case.path) for case in unreadable.found()] == [(n, items[n + 5]["image"]) for n in (0, 1)]
    assert unreadable.found()[0].problem == ("image: " if how == "lists" else "") + "no such file"
    with pytest.raises(UnreadableError, match="3 of 5 training cases cannot be used, more than the 40%"):
        list(DataLoader(dataset, num_workers=workers))


def test_none_left(items):
    dataset = ReadableDataset(items[7:], loading(), skipping(share=1.0), cache_rate=0.0)
    for item in items[7:]:
        spoil(item["image"], "removed")
    with pytest.raises(UnreadableError, match="no case can be read in the place of item 0"):
        dataset[0]


def test_errors_of_other_transforms_are_not_taken_for_unreadable(items):
    def fail(image):
        raise OSError("of a transform")

    unreadable = skipping()
    dataset = ReadableDataset(items, [*loading(), Lambdad("image", fail)], unreadable, cache_rate=0.0)
    with pytest.raises(RuntimeError, match="applying transform"):
        dataset[0]
    assert unreadable.found() == []


def test_validation_stops_whatever_the_policy(items):
    dataset = ReadableDataset(items, loading(), cache_rate=0.0)
    spoil(items[3]["image"], "removed")
    with pytest.raises(UnreadableError, match=r"item 3: .*: image: no such file\. Mend the file\.$"):
        levels(dataset)
    with pytest.raises(UnreadableError, match="item 3"):
        ReadableDataset(items, loading(), progress=False)


def test_volumes(tmp_path):
    items = [{"image": str(tmp_path / f"{number}.nii.gz")} for number in range(3)]
    for number, item in enumerate(items):
        nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 4), number, np.int16), np.eye(4)), item["image"])
    load = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    make = partial(VolumeCacheDataset, items, load)
    read = [make(None, skipping()), make(tmp_path / "cache", skipping()), make(tmp_path / "other")]
    assert [int(read[1][0]["image"].max()), int(read[0][0]["image"].max())] == [0, 0]
    for number in (0, 2):
        spoil(items[number]["image"], "truncated")
    assert [int(item["image"].max()) for item in read[0]] == [1, 1, 1]
    assert [int(item["image"].max()) for item in read[1]] == [0, 1, 0]  # the first is in the cache
    with pytest.raises(UnreadableError, match=r"item 0: .*cannot be read: "):
        read[2][0]


# What the check at the start has found.


def report(*indices, training=10):
    return CheckReport(items=12, errors=[Case(index, f"{index}.png", "mask is not binary") for index in indices])


def test_bad_cases_of_the_training_are_left_out(items, caplog):
    unreadable = skipping()
    report(3, 9).raise_if_bad(unreadable, items)
    dataset = ReadableDataset(items, loading(), unreadable, cache_rate=0.0)
    assert levels(dataset) == [0, 1, 2, 4, 4, 5, 6, 7, 8, 7]
    assert [case.index for case in unreadable.found()] == [3, 9]
    assert [item["index"] for item in unreadable.readable(items)] == [0, 1, 2, 4, 5, 6, 7, 8]
    for line in ("error: item 3: 3.png: mask is not binary", "error: item 9", "left out of the training"):
        assert line in caplog.text


def test_of_an_item_that_is_listed_twice_the_first_stays(items):
    unreadable = skipping()
    listed = [*items[:5], dict(items[2]), {**items[4], "index": 9, "label": items[5]["label"]}, dict(items[2])]
    check_datalist(listed).raise_if_bad(unreadable, listed)
    assert [item["index"] for item in unreadable.readable(listed)] == [0, 1, 2, 3, 4]
    assert levels(ReadableDataset(listed, loading(), unreadable, cache_rate=0.0)) == [0, 1, 2, 3, 4, 0, 0, 0]
    assert [case.index for case in unreadable.found()] == [5, 6, 7]
    spoil(items[2]["image"], "emptied")
    both = skipping()
    check_datalist(listed).raise_if_bad(both, listed)
    assert [item["index"] for item in both.readable(listed)] == [0, 1, 3, 4]


def test_a_list_is_looked_through_once(items, monkeypatch):
    """Whatever its length, however often items are asked for, and anew where more are left out."""
    unreadable = skipping()
    listed = [*items, *map(dict, items[:2])]
    cases = [(Case(index, listed[index]["image"], "image already listed"), listed[index]) for index in (10, 11)]
    looked = []
    monkeypatch.setattr(readable, "_identity", lambda item, of=readable._identity: looked.append(1) or of(item))
    unreadable.leave_out(cases[:1], total=12, good=items)
    looked.clear()
    assert [unreadable.leaves_out(listed, 10) for _ in range(20)] == [True] * 20
    assert not unreadable.leaves_out(listed, 0)
    assert len(looked) <= 21 + len(listed)
    assert not unreadable.leaves_out(listed, 11)
    unreadable.leave_out(cases[1:], total=12, good=items)
    assert unreadable.leaves_out(listed, 11)
    assert [unreadable.leaves_out(listed[10:], index) for index in (0, 1)] == [False, False]


def test_programs_are_not_run_for_a_reason(tmp_path, monkeypatch):
    """A file that MONAI's reader refuses is looked at once more, to say why."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    reason = readable._reason(str(tmp_path / "a.png"), RuntimeError("LoadImage cannot find a suitable reader"))
    assert reason.startswith("cannot be read: cannot identify image file")
    assert not (tmp_path / "started").exists()
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)


def test_an_item_without_a_file_cannot_be_left_out():
    listed = [{"image": None, "label": None}, *({"image": f"{number}.png"} for number in range(3))]
    with pytest.raises(UnreadableError, match=r"items without a file cannot be left out.*:\nitem 0: "):
        skipping().leave_out([(Case(0, "", "no 'image' in the item"), listed[0])], total=4, good=listed[1:])


@pytest.mark.parametrize("unreadable", [None, UnreadableCases()])
def test_they_stop_where_nothing_is_skipped(items, unreadable):
    with pytest.raises(DataError, match="item 3"):
        report(3).raise_if_bad(unreadable, items)


def test_a_bad_case_of_the_validation_always_stops(items):
    unreadable = skipping()
    with pytest.raises(DataError, match="item 11"):
        report(3, 11).raise_if_bad(unreadable, items)
    assert unreadable.found() == []


def test_too_many_bad_cases_stop(items):
    with pytest.raises(UnreadableError, match="2 of 10 training cases cannot be used, more than the 10%"):
        report(3, 9).raise_if_bad(skipping(share=0.1), items)


def test_one_may_always_be_skipped(items):
    report(0).raise_if_bad(skipping(share=0.0), items[:2])


def test_a_process_that_is_spawned_tells_too(items):
    """It gets the object as a copy, and leaves the folder to the one that made it."""
    unreadable = skipping()
    spoil(items[0]["image"], "removed")
    copy = pickle.loads(pickle.dumps(unreadable))  # noqa: S301
    ReadableDataset(items, loading(), copy, cache_rate=0.0)[0]
    del copy
    assert [case.index for case in unreadable.found()] == [0]
    folder = unreadable._folder
    del unreadable
    assert not os.path.exists(folder)


@pytest.mark.parametrize("how", [{"policy": "go on"}, {"policy": None}, {"share": -0.1}, {"share": 1.1}])
def test_refused(how):
    with pytest.raises(ValueError, match=f"{'on_unreadable' if 'policy' in how else 'share'} must be"):
        UnreadableCases(**how)
