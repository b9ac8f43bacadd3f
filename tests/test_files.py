from __future__ import annotations

import errno
import os
import resource
import stat
from contextlib import nullcontext
from functools import partial

import pytest
import torch

from monai_kd._files import remove_leftovers, replace_folder, save_whole, write_whole


def write(content):
    return lambda file: file.write(content)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "one")
    write_whole(path, "zwölf\n")
    assert path.read_bytes() == "zwölf\n".encode()
    assert names(tmp_path) == ["a.txt"]


def test_keeps_the_one_before(tmp_path):
    path, previous = tmp_path / "a", tmp_path / "a.previous"
    for content in (b"1", b"2", b"3"):
        save_whole(path, write(content), previous)
    assert (path.read_bytes(), previous.read_bytes()) == (b"3", b"2")
    assert names(tmp_path) == ["a", "a.previous"]


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_failed_write_changes_nothing(failing, tmp_path, monkeypatch):
    path, previous = tmp_path / "a", tmp_path / "a.previous"
    for content in (b"1", b"2"):
        save_whole(path, write(content), previous)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail if failing == "fsync" else os.fsync)
    with pytest.raises(OSError, match="disk full"):
        save_whole(path, fail if failing == "write" else write(b"3"), previous)
    assert (path.read_bytes(), previous.read_bytes()) == (b"2", b"1")
    assert names(tmp_path) == ["a", "a.previous"]


@pytest.fixture
def small_files():
    """``small_files(size)``: no file may be larger from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("kind", ["text", "tensors"])
def test_a_file_without_room_says_what_it_takes(kind, before, tmp_path, small_files):
    """torch has an error of its own for it, "unexpected pos 768 vs 662"."""
    path, values = tmp_path / "a", torch.rand(1_000_000)
    save = write(b"0" * 4_000_000) if kind == "text" else partial(torch.save, values)
    if before:
        write_whole(path, "1")
    small_files(1_000_000)
    whole = "The file of before is whole" if before else "There is no such file of before"
    with pytest.raises(OSError, match=rf"cannot write '.*/a': File too large; it takes 4.0 MB, [\d.]+ MB .* {whole}\."):
        save_whole(path, save)
    assert names(tmp_path) == ["a"] * before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_in_the_words_of_the_system(number, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"cannot write '.*/a': {os.strerror(number)}; it takes 0.0 MB"):
        write_whole(tmp_path / "a", "1")
    assert names(tmp_path) == []


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_it_returns(tmp_path, monkeypatch):
    path, seen = tmp_path / "a", []

    def sync(number):
        status = os.fstat(number)
        seen.append("folder" if stat.S_ISDIR(status.st_mode) else status.st_size)
        seen.append(path.read_bytes() if path.exists() else None)

    monkeypatch.setattr(os, "fsync", sync)
    save_whole(path, write(b"12345"))
    assert seen == [5, None, "folder", b"12345"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    path = tmp_path / "a[1].pt"
    others = ["a[1].pt", ".a[1].pt.swp", ".b.pt." + "0" * 32, ".a1.pt." + "0" * 32, "a[1].pt.previous"]
    for name in [*others, ".a[1].pt." + "0123456789abcdef" * 2]:
        (tmp_path / name).write_text("")
    remove_leftovers(path)
    assert names(tmp_path) == sorted(others)
    remove_leftovers(tmp_path / "nowhere" / "a")


@pytest.mark.parametrize("length", [221, 222, 255])
def test_names_of_any_length(length, tmp_path):
    """Of bytes, of which a letter may have several."""
    first, second = (tmp_path / (letter + "ö" * ((length - 1) // 2) + "a" * ((length - 1) % 2)) for letter in "ab")
    for path in (first, second):
        write_whole(path, "1")
        assert path.read_text() == "1"

    left = []
    for path in (first, second):
        save_whole(path, lambda file: left.append(os.path.basename(file.name)))
    for name in left:
        (tmp_path / name).write_text("")
    remove_leftovers(first)
    assert names(tmp_path) == sorted([first.name, second.name, left[1]])
    remove_leftovers(second)
    assert names(tmp_path) == sorted([first.name, second.name])


@pytest.mark.parametrize(
    ("number", "tolerated"), [(errno.EINVAL, True), (errno.EBADF, True), (errno.ENOTSUP, True), (errno.EIO, False)]
)
def test_folders_that_cannot_be_brought_to_the_disk(number, tolerated, tmp_path, monkeypatch):
    """As those of some network drives."""
    sync = os.fsync

    def fail(file):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(number, os.strerror(number))
        sync(file)

    monkeypatch.setattr(os, "fsync", fail)
    with nullcontext() if tolerated else pytest.raises(OSError, match=os.strerror(number)):
        write_whole(tmp_path / "a", "1")
    assert (tmp_path / "a").read_text() == "1"


def test_others_may_read_it_as_any_other_file(tmp_path):
    (tmp_path / "usual").write_text("")
    write_whole(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


# --- folders ----------------------------------------------------------------------------------------------------------


def folder_of(path, content):
    path.mkdir()
    (path / "file").write_text(content)
    return path


@pytest.mark.parametrize("before", [None, "old"])
def test_a_folder_takes_the_place_of_the_earlier_one(tmp_path, before):
    target = tmp_path / "target" if before is None else folder_of(tmp_path / "target", before)
    replace_folder(folder_of(tmp_path / "new", "new"), target)
    assert (target / "file").read_text() == "new"
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_where_a_folder_cannot_be_replaced_the_earlier_one_stays(tmp_path, monkeypatch, error):
    target, new = folder_of(tmp_path / "target", "old"), folder_of(tmp_path / "new", "new")
    replace = os.replace

    def fail(source, destination):
        if source == new:
            raise error
        replace(source, destination)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        replace_folder(new, target)
    assert (target / "file").read_text() == "old"
    assert names(tmp_path) == ["new", "target"]
