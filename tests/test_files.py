from __future__ import annotations

import os

import pytest

from monai_kd._files import save_whole, write_whole


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


def test_the_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "a", []
    monkeypatch.setattr(os, "fsync", lambda number: seen.append((os.fstat(number).st_size, path.exists())))
    save_whole(path, write(b"12345"))
    assert seen == [(5, False)]


def test_others_may_read_it_as_any_other_file(tmp_path):
    (tmp_path / "usual").write_text("")
    write_whole(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode
