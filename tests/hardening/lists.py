"""Data lists (JSON) and tables (CSV) that are broken, and such that are only odd."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import pictures
from .inputs import Input, cut, file_of, no_file

CHECK = ("monai-kd check",)
DEEP = 100_000


def inputs() -> Iterator[Input]:
    """All of them."""
    yield from _lists()
    yield from _items()
    yield from _tables()
    for name, write in no_file("list.json").items():
        only = None if name != "a folder in its place" else ()
        if only is None:
            yield Input("data list", name, write)


def _lists() -> Iterator[Input]:
    whole = json.dumps({"training": [{"image": "a.png"}]}).encode()
    found: dict[str, bytes] = {f"{name}": one for name, one in cut(whole, (0, 1, 10, 25, -2, -1)).items()}
    found |= {
        "null": b"null",
        "a number": b"12",
        "a text": b'"a.png"',
        "true": b"true",
        "an empty object": b"{}",
        "an empty list": b"[]",
        "lists without items": b'{"training": [], "validation": []}',
        "objects in place of lists": b'{"training": {"image": "a.png"}}',
        "numbers in place of items": b'{"training": [1, 2, 3]}',
        "lists in place of items": b'{"training": [["a.png"]]}',
        "null in place of items": b'{"training": [null, null]}',
        "NaN": b"NaN",
        "a comma behind the last item": b'{"training": [{"image": "a.png"},]}',
        "single quotes": b"{'training': [{'image': 'a.png'}]}",
        "a comment": b'// a list\n{"training": [{"image": "a.png"}]}',
        "two objects": b'{"training": []}{"training": []}',
        "a CSV table": b"image,label\na.png,0\n",
        "a YAML file": b"training:\n- image: a.png\n",
        "a web page": b"<!DOCTYPE html><html></html>",
        "a picture": pictures.saved(Image.fromarray(pictures.pixels()), "PNG"),
        "zeros": bytes(1000),
        "Latin-1": '{"training": [{"image": "\u00e4.png"}]}'.encode("latin-1"),
        "UTF-16": whole.decode().encode("utf-16"),
        "UTF-32": whole.decode().encode("utf-32"),
        f"{DEEP:,} lists in each other": b"[" * DEEP + b"]" * DEEP,
        f"{DEEP:,} objects in each other": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        "a number of 10,000 digits": b'{"training": [{"image": "a.png", "label": ' + b"1" * 10_000 + b"}]}",
        "half a pair of surrogates as a name": b'{"training": [{"image": "\\ud800.png"}]}',
    }
    for what, content in found.items():
        yield Input("data list", what, file_of(content, "list.json"))


def _items() -> Iterator[Input]:
    """One item beside good pictures a.png and b.png (classes 0 and 1)."""

    def listed(items: Any) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            for seed, name in enumerate(("a", "b")):
                Image.fromarray(pictures.pixels(seed)).save(folder / f"{name}.png")
            made = items(folder) if callable(items) else items
            (folder / "list.json").write_text(json.dumps({"training": made}), encoding="utf-8")
            return folder / "list.json"

        return write

    good = {"image": "a.png", "label": 0}

    def beside(item: Any) -> Callable[[Path], Path]:
        return listed([good, item])

    for what, item in {
        "no image": {"label": 1},
        "an image of null": {"image": None, "label": 1},
        "an image that is a number": {"image": 5, "label": 1},
        "an image that is 0": {"image": 0, "label": 1},
        "an image that is true": {"image": True, "label": 1},
        "an image that is an object": {"image": {"path": "b.png"}, "label": 1},
        "an image that is an empty text": {"image": "", "label": 1},
        "an image that is a blank": {"image": " ", "label": 1},
        "an image of no channels": {"image": [], "label": 1},
        "an image of numbers as channels": {"image": [1, 2], "label": 1},
        "an image of lists as channels": {"image": [["b.png"]], "label": 1},
        "more channels than other items": {"image": ["b.png", "a.png"], "label": 1},
        "a missing image": {"image": "c.png", "label": 1},
        "a missing image in a missing folder": {"image": "no/where/c.png", "label": 1},
        "an image below a file": {"image": "a.png/c.png", "label": 1},
        "the folder as its image": {"image": ".", "label": 1},
        "the folder above as its image": {"image": "..", "label": 1},
        "the list as its image": {"image": "list.json", "label": 1},
        "an image twice": {"image": "a.png", "label": 0},
        "an image twice, by another path": {"image": "../in/a.png", "label": 0},
        "a path out of the folder to nothing": {"image": "../../../../../../../../nowhere/a.png", "label": 1},
        "an absolute path to nothing": {"image": "/nowhere/a.png", "label": 1},
        "an endless device": {"image": "/dev/zero", "label": 1},
        "the memory of the process": {"image": "/proc/self/mem", "label": 1},
        "a NUL byte in its path": {"image": "b\0.png", "label": 1},
        "a line break in its path": {"image": "b\n.png", "label": 1},
        "a path of 100,000 signs": {"image": "x" * 100_000 + ".png", "label": 1},
        "a path of 300 signs": {"image": "x" * 300 + ".png", "label": 1},
        "a path with ~": {"image": "~/b.png", "label": 1},
        "a web address": {"image": "https://example.org/b.png", "label": 1},
        "a path with backslashes": {"image": "in\\b.png", "label": 1},
        "half a pair of surrogates in its path": {"image": "\ud800.png", "label": 1},
        "a class that is -1": {"image": "b.png", "label": -1},
        "a class that is too large": {"image": "b.png", "label": 2},
        "a class that is a fraction": {"image": "b.png", "label": 0.5},
        "a class that is 1.0": {"image": "b.png", "label": 1.0},
        "a class that is true": {"image": "b.png", "label": True},
        "a class that is a name": {"image": "b.png", "label": "naevus"},
        "a class that is a number in quotes": {"image": "b.png", "label": "1"},
        "a class that is NaN": {"image": "b.png", "label": float("nan")},
        "a class that is a list": {"image": "b.png", "label": [1]},
        "a class that is an object": {"image": "b.png", "label": {"class": 1}},
        "a class beyond 64 bits": {"image": "b.png", "label": 2**70},
        "a list in place of an item": ["b.png", 1],
        "a number in place of an item": 7,
        "null in place of an item": None,
    }.items():
        yield Input("item", what, beside(item))
    many = [{"image": "a.png", "label": 0}] * 2000
    yield Input("item", "an image 2,000 times", listed(many))
    for what, items in {
        "a class of null": [good, {"image": "b.png", "label": None}],
        "further keys": [good, {"image": "b.png", "label": 1, "note": "=1+1", "more": {"a": [1]}}],
        "an absolute path": lambda folder: [good, {"image": str(folder / "b.png"), "label": 1}],
        "a path out of the folder and back": [good, {"image": "../in/b.png", "label": 1}],
        "a path alone": ["b.png"],
        "one channel": [good, {"image": ["b.png"], "label": 1}],
    }.items():
        yield Input("item", what, listed(items), handled=CHECK)


# Tables, each in a folder of its data set's layout.

_CLASSES = ("mel", "nv")


def _ham10000(folder: Path, table: bytes) -> Path:
    (folder / "images").mkdir()
    for number in range(40):
        (folder / "images" / f"ISIC_{number}.jpg").write_bytes(bytes([number]))
    (folder / "HAM10000_metadata.csv").write_bytes(table)
    return folder / "HAM10000_metadata.csv"


def _hyper_kvasir(folder: Path, table: bytes) -> Path:
    (folder / "labeled-images").mkdir()
    for number in range(12):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)).save(
            folder / "labeled-images" / f"{number}.jpg"
        )
    (folder / "2_fold_split.csv").write_bytes(table)
    return folder / "2_fold_split.csv"


def _groups(folder: Path, table: bytes) -> Path:
    for number in range(16):
        place = folder / _TUMOURS[number % 4]
        place.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)).save(
            place / f"{number}.jpg"
        )
    (folder / "groups.csv").write_bytes(table)
    return folder / "groups.csv"


_TUMOURS = ("glioma", "meningioma", "notumor", "pituitary")
_PLAIN = {
    "table of classes": [
        "lesion_id,image_id,dx", *(f"HAM_{n // 2},ISIC_{n},{_CLASSES[n % 4 // 2]}" for n in range(40))
    ],
    "table of splits": ["file-name;class-name;split-index", *(f"{n}.jpg;polyp;{n % 2}" for n in range(12))],
    "table of groups": ["image,near_duplicate_group", *(f"{_TUMOURS[n % 4]}/{n}.jpg,{n}" for n in range(16))],
}  # fmt: skip


def write_plain(kind: str, path: Path) -> None:
    """The table without anything odd."""
    path.write_text("\n".join(_PLAIN[kind]), encoding="utf-8")


def _tables() -> Iterator[Input]:
    for kind, write, comma, label in (
        ("table of classes", _ham10000, ",", 2),
        ("table of splits", _hyper_kvasir, ";", 1),
        ("table of groups", _groups, ",", None),
    ):
        lines = _PLAIN[kind]
        for what, content in _broken_tables(lines, comma, label).items():
            yield Input(kind, what, partial(write, table=content))
        whole = "\n".join(lines)
        for what, content in {
            "a byte order mark": whole.encode("utf-8-sig"),
            "lines that end as on Windows": "\r\n".join(lines).encode(),
            "blanks around its cells": whole.replace(comma, f" {comma} ").encode(),
            "quotes around its cells": "\n".join(
                comma.join(f'"{cell}"' for cell in line.split(comma)) for line in lines
            ).encode(),
            "empty lines": "\n\n".join([*lines, "", ""]).encode(),
            "further columns": "\n".join(f"{line}{comma}more{comma}=1+1" for line in lines).encode(),
            "its columns in another order": "\n".join(
                comma.join(reversed(line.split(comma))) for line in lines
            ).encode(),
            "its lines in another order": "\n".join([lines[0], *reversed(lines[1:])]).encode(),
        }.items():
            yield Input(kind, what, partial(write, table=content), handled=("data list",))


def _broken_tables(lines: list[str], comma: str, label: int | None) -> dict[str, bytes]:
    whole = "\n".join(lines)
    head, first, *rest = lines
    cells = first.split(comma)

    def with_first(line: str) -> bytes:
        return "\n".join([head, line, *rest]).encode()

    name = cells[1] if comma == "," and len(cells) == 3 else cells[0]
    found = {
        "nothing in it": b"",
        "a head alone": head.encode(),
        "no head": "\n".join(lines[1:]).encode(),
        "a column less": "\n".join(line.rpartition(comma)[0] for line in lines).encode(),
        "another separator": whole.replace(comma, "|").encode(),
        "its head in capitals": whole.replace(head, head.upper()).encode(),
        "a line twice": f"{whole}\n{first}".encode(),
        "a line less": "\n".join([head, *rest[:-1]]).encode() if comma != ";" else with_first(first + "x"),
        "a name that is not there": with_first(first.replace(name, "nowhere")),
        "a name out of the folder": with_first(first.replace(name, "../../etc/passwd")),
        "an absolute name": with_first(first.replace(name, "/etc/passwd")),
        "a name of 200,000 signs": with_first(first.replace(name, "x" * 200_000)),
        "a name with a NUL byte": with_first(first.replace(name, "a\0b")),
        "a name in another language": with_first(first.replace(name, "\u30dd\u30ea\u30fc\u30d7")),
        "an empty name": with_first(first.replace(name, "")),
        "an empty line of separators": f"{whole}\n{comma * (len(cells) - 1)}".encode(),
        "a quote that does not end": with_first('"' + first),
        "Latin-1": with_first(first.replace(name, "\u00e4")).decode().encode("latin-1"),
        "UTF-16": whole.encode("utf-16"),
        "zeros": bytes(2000),
        "a picture in its place": pictures.saved(Image.fromarray(pictures.pixels()), "PNG"),
        "lines that end as on an old Mac, and a quote": whole.replace("\n", '\r"').encode(),
        "JSON in its place": json.dumps([{"image": "a.png"}]).encode(),
        "two columns of one name": whole.replace(
            head, comma.join([cells_of_head(head, comma)[0]] * len(cells))
        ).encode(),
    }
    if label is not None:
        wrong = [*cells]
        wrong[label] = "unknown"
        found["an unknown class"] = with_first(comma.join(wrong))
        wrong[label] = ""
        found["no class"] = with_first(comma.join(wrong))
        wrong[label] = cells[label].upper()
        found["a class in capitals"] = with_first(comma.join(wrong))
    return found


def cells_of_head(head: str, comma: str) -> list[str]:
    """The names of the columns."""
    return head.split(comma)
