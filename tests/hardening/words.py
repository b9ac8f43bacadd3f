"""Words on the command line that make no sense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import configurations, students
from .inputs import Input

COMMANDS = ("taps", "check", "distill", "compare", "report", "export", "predict")


def inputs() -> Iterator[Input]:
    """All of them; ``{bundle}``, ``{export}`` and ``{out}`` are a good bundle, a good export and an empty folder."""
    compare = ("compare", "{bundle}", "-o", "{out}", "--dry-run")
    check = ("check", "{bundle}")
    for what, words in {
        "nothing": (),
        "an unknown command": ("distil",),
        "an option alone": ("--bundle",),
        "an unknown option": ("report", "{out}", "--colour"),
        "a blank": (" ",),
        "an empty word": ("",),
        "a NUL byte": ("check", "a\0b"),
        "half a pair of surrogates": ("check", "\ud800"),
        "a word of 100,000 signs": ("check", "x" * 100_000),
        "a thousand words": ("check", *["x"] * 1000),
        "a line break": ("check", "a\nb"),
        "rich markup": ("check", "[red]a[/blue]"),
        **{f"{name} alone": (name,) for name in COMMANDS},
        "compare without an output": ("compare", "{bundle}"),
        "compare with seeds that are words": (*compare, "--seeds", "a,b"),
        "compare with negative seeds": (*compare, "--seeds", "-1"),
        "compare with seeds twice": (*compare, "--seeds", "1,1"),
        "compare with no seeds": (*compare, "--seeds", ""),
        "compare with a seed of 2**32": (*compare, "--seeds", str(2**32)),
        "compare with a seed of 5,000 digits": (*compare, "--seeds", "9" * 5000),
        "compare with half a seed": (*compare, "--seeds", "0.5"),
        "compare with an unknown method": (*compare, "--method", "magic"),
        "compare with a method outside of configs/": (*compare, "--method", "../../train"),
        "compare with a missing file": (*compare, "--config", "nowhere.json"),
        "compare with a folder as a file": (*compare, "--config", "{out}"),
        "compare with a key without a value": (*compare, "--set", "epochs"),
        "compare with a value without a key": (*compare, "--set", "=5"),
        "compare with an unknown key": (*compare, "--set", "epohcs=5"),
        "compare with a key of its own": (*compare, "--set", "seed=5"),
        "compare with an unknown network": (*compare, "--set", "pupil:epochs=5"),
        "compare into a file": ("compare", "{bundle}", "-o", "{bundle}/configs/train.json", "--dry-run"),
        "compare into a full folder": ("compare", "{bundle}", "-o", "{bundle}", "--dry-run"),
        "compare into a name with #": ("compare", "{bundle}", "-o", "{out}/a#b", "--dry-run"),
        "check with no classes": ("check", "{bundle}/configs/train.json", "--classes", "0"),
        "check with half a class": ("check", "{bundle}/configs/train.json", "--classes", "0.5"),
        "check with classes that are a word": ("check", "{bundle}/configs/train.json", "--classes", "two"),
        "check with a label value that is a word": ("check", "{bundle}/configs/train.json", "--label-value", "a"),
        "check of a bundle with classes": (*check, "--classes", "2"),
        "check of a list with a key": ("check", "{bundle}/configs/train.json", "--set", "a=1"),
        "check with a key without a value": (*check, "--set", "items"),
        "check with a path of keys that is none": (*check, "--set", "items#a#b=1"),
        "check with a missing file": (*check, "--config", "nowhere.json"),
        "taps of two things": ("taps", "{bundle}", "--network", "UNet"),
        "taps of nothing": ("taps", "--json"),
        "taps of an unknown network": ("taps", "--network", "UNett", "--input-shape", "1,1,8,8"),
        "taps of a network without a shape": ("taps", "--network", "UNet"),
        "taps with a shape of words": ("taps", "{bundle}", "--input-shape", "a,b,c"),
        "taps with a negative shape": ("taps", "{bundle}", "--input-shape", "1,3,-32,32"),
        "taps with a shape of one number": ("taps", "{bundle}", "--input-shape", "32"),
        "taps with a shape of a petabyte": ("taps", "{bundle}", "--input-shape", "1,3,10000000,10000000"),
        "taps with an unknown key": ("taps", "{bundle}", "--key", "no_such_key"),
        "taps with the key of a number": ("taps", "{bundle}", "--key", "epochs"),
        "distill with a width of 0": ("distill", "--teacher-bundle", "{bundle}", "-o", "{out}/a", "--width", "0"),
        "distill with a width of 1": ("distill", "--teacher-bundle", "{bundle}", "-o", "{out}/a", "--width", "1"),
        "distill with a width of NaN": ("distill", "--teacher-bundle", "{bundle}", "-o", "{out}/a", "--width", "nan"),
        "distill with an unknown activation": (
            "distill", "--teacher-bundle", "{bundle}", "-o", "{out}/a", "--activation", "relu",
        ),
        "distill with an unknown student": (
            "distill", "--teacher-bundle", "{bundle}", "-o", "{out}/a", "--student", "UNett",
        ),
        "distill with a missing file of terms": (
            "distill", "--teacher-bundle", "{bundle}", "-o", "{out}/a", "--terms", "nowhere.json",
        ),
        "distill into its own folder": ("distill", "--teacher-bundle", "{bundle}", "-o", "{bundle}"),
        "export to an unknown format": ("export", "{bundle}", "-o", "{out}/a", "--to", "pickle"),
        "export in an unknown precision": ("export", "{bundle}", "-o", "{out}/a", "--precision", "f8"),
        "export with sizes of words": ("export", "{bundle}", "-o", "{out}/a", "--spatial-shape", "a,b"),
        "export with negative cases": ("export", "{bundle}", "-o", "{out}/a", "--validation-cases", "-1"),
        "export of a bundle without inference.json": ("export", "{bundle}", "-o", "{out}/a"),
        "report of a folder without a comparison": ("report", "{out}"),
        "report of a missing folder": ("report", "nowhere"),
        "predict by a missing folder": ("predict", "nowhere", "{bundle}/data/a.png", "-o", "{out}"),
        "predict of nothing": ("predict", "{export}", "nowhere", "-o", "{out}/a"),
        "predict of an empty folder": ("predict", "{export}", "{out}", "-o", "{out}/a"),
        "predict of another kind of file": ("predict", "{export}", "{bundle}/configs/train.json", "-o", "{out}/a"),
        "predict into its input": ("predict", "{export}", "{bundle}/data", "-o", "{bundle}/data"),
        "predict into a file": ("predict", "{export}", "{bundle}/data", "-o", "{bundle}/data/a.png"),
        "predict by an unknown runtime": ("predict", "{export}", "{bundle}/data", "-o", "{out}", "--runtime", "trt"),
        "predict in an unknown precision": ("predict", "{export}", "{bundle}/data", "-o", "{out}", "--precision", "f8"),
        "predict by no threads": ("predict", "{export}", "{bundle}/data", "-o", "{out}", "--threads", "0"),
        "predict by threads that are a word": ("predict", "{export}", "{bundle}/data", "-o", "{out}", "--threads", "a"),
        "predict of pictures with a coarse look": (
            "predict", "{export}", "{bundle}/data", "-o", "{out}", "--coarse-spacing", "6",
        ),
    }.items():  # fmt: skip
        yield Input("words", what, _filled(words))


def _filled(words: tuple[str, ...]) -> Callable[[Path], Any]:
    def write(folder: Path) -> list[str]:
        places: dict[str, Path] = {"out": folder / "out"}
        places["out"].mkdir()
        text = " ".join(words)
        if "{bundle}" in text:
            places["bundle"] = configurations.bundle(folder / "some_bundle")
        if "{export}" in text:
            places["export"] = students.export(folder / "some_export", "picture")
        return [_put(word, places) for word in words]

    return write


def _put(word: str, places: dict[str, Path]) -> str:
    for name, path in places.items():
        word = word.replace(f"{{{name}}}", str(path))
    return word
