"""What became of the bad inputs, kept as JSON, and the page that is made of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from .outcome import FORBIDDEN, HANDLED, REFUSED

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "bad_input.md"
Results = dict[str, dict[str, dict[str, str]]]
"""A word by kind, input and door."""

_ABOUT = {
    "picture": "PNG, JPEG, BMP, TIFF, WebP and other files cut short at many places, with flipped bits in every part, "
    "with headers that claim other sizes, of other kinds of pixels, programs named .png, and what is no file at all",
    "volume": "NIfTI files cut short, with flipped bits, with every field of the header out of range, of claims up to "
    "2^121 bytes, packed so that they expand without end, and valid ones that few readers have met",
    "mask": "masks that are no masks, or not of their image",
    "label map": "label maps with fractions, unknown classes, another grid or another place than their volume",
    "data list": "files that are no data list",
    "item": "one bad item beside a good one",
    "table of classes": "the table of HAM10000",
    "table of splits": "the official split of Hyper-KVASIR",
    "table of groups": "the groups of near duplicates",
    "checkpoint": "checkpoints cut short, with flipped bits, packed so that they expand, with code that would run, of "
    "another network, with weights that are no numbers",
    "resume file": "the file of a stopped run, cut short, with flipped bits, with parts missing or of another kind",
    "bundle": "configurations that are no JSON, networks that cannot be built, references that lead nowhere or in a "
    "circle, metadata and comparisons that make no sense",
    "export": "exported folders with a damaged network, or an export.json in which a value is missing or out of range",
    "comparison": "stored results of a comparison that are damaged, or in which a value is missing or out of range",
    "words": "words on the command line",
}
_HEAD = """# Bad input

What somebody hands over is broken more often than not: a download that ended early, a header that another program wrote
wrongly, a list that names a file twice. Each of these ends in a message that names the file or the item and says what
is wrong, or it is read rightly; none of them hangs, ends the interpreter, takes memory for what a header claims, or
gives a result that is wrong in silence.

This is tried with a corpus of bad inputs that is made anew each time, the same ones always, and nothing of it is
stored. Each is brought to the places where such a file comes in, in a process of its own that is limited in time and in
memory:

* **refused**: an error of this package, or an error in a check's report, that names the file or the item;
* **handled**: the input is valid though odd, and what came of it is what an independent reader says: the mask is that
  of the same pixels in a plain file, the network has these weights, the list is that of the plain table.

Everything else is forbidden: a hang, a crash, a foreign traceback or a message that names nothing, more than 256 MB of
memory for a file of some kilobytes, a wrong result without a word.

```
make test-fuzz                    # all of it
python -m tests.hardening         # the same, and this page anew
```

"""
_TAIL = """
## How it is refused

* **Before there is room for it.** A NIfTI file's header is checked by itself: its type, axes, affine, spacing and
  units, where its voxels begin, and whether the file can hold them: of `.nii.gz` no more than 1032 times its size, to
  which deflate can expand at most. Only then memory is taken, for that many voxels, and the rest of the file must be
  their end: its checksum is right, and no more than 4 kB follow. A picture is held against the
  most that its compression can expand to: 1032 times for deflate, 64 for PackBits, 2731 for LZW, 64 pixels a bit for
  JPEG. Pixels of one colour take no bits in a WebP file; one of more than 4 million pixels is refused where it has less
  than a byte for 1032 of them. TIFF files that are packed in other ways are refused.
* **By its checksums.** Pillow does not look at those of a PNG file's pixels, `torch.load` not at those of its tensors.
  Both are checked here.
* **Without running it.** Checkpoints are read as tensors (`weights_only=True`). The corpus has a dozen that hold code;
  none of it ran. Pictures are BMP, GIF, JPEG, PNG, PPM, TIFF or WebP, whatever they are named: an EPS file is a
  program, which Pillow would have Ghostscript run. None did; the checks refuse it before any transform reads it.
* **One at a time.** A bad case in a folder does not stop the others: `monai-kd predict` does them all and lists what
  failed, with exit status 1. A check reads everything and reports all that is wrong at once.

## What cannot be noticed

A JPEG file has no checksum: one whose pixels were damaged is what the decoder makes of it. The same holds for voxels of
an unpacked `.nii` file and for numbers in a table that are numbers still. A SHA-256 of the file tells more, where
you have one. A checkpoint that was saved after `torch.serialization.set_crc32_options(False)` has no checksums, and is
refused; load it with `torch.load(weights_only=True)`, switch them on and save it again. In TIFF files packed by fax
codes (Group 3 and 4) rows that are missing would be white; these are refused too.
"""


def write_results(results: Results) -> None:
    """Keep them."""
    RESULTS.write_text(json.dumps(results, indent=0, ensure_ascii=True) + "\n", encoding="utf-8")


def read_results() -> Results:
    """What was kept."""
    found: Results = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def page(results: Results) -> str:
    """The page of these results."""
    every = Counter(word for kind in results.values() for doors in kind.values() for word in doors.values())
    inputs = sum(len(kind) for kind in results.values())
    at_doors = sum(every.values())
    bad = ", ".join(f"{word}: {every[word]}" for word in FORBIDDEN)
    lines = [
        f"{inputs:,} inputs were brought to {at_doors:,} doors in all: {every[REFUSED]:,} times refused, "
        f"{every[HANDLED]:,} times handled; {bad}.",
        "",
        "| what is tried | inputs | where it comes in | refused | handled |",
        "|---|---:|---|---:|---:|",
    ]
    for kind, found in results.items():
        for number, (door, count) in enumerate(_by_door(found).items()):
            first = (f"**{kind}**: {_ABOUT[kind]}", f"{len(found):,}") if number == 0 else ("", "")
            lines.append(f"| {first[0]} | {first[1]} | `{door}` | {count[REFUSED]:,} | {count[HANDLED]:,} |")
    return _HEAD + "\n".join(lines) + "\n" + _TAIL


def _by_door(found: Mapping[str, Mapping[str, str]]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for doors in found.values():
        for door, word in doors.items():
            counts.setdefault(door, Counter())[word] += 1
    return counts
