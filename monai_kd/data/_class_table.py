"""Images with a class each, from a folder of files and a CSV table of their names and classes."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_kd.data._class_splits import ClassImage
from monai_kd.data.checks import DataError

_SHOWN = 5
_LINE = 500  # characters of a head that are shown


def read_images(
    root: Path,
    table: Path,
    suffixes: tuple[str, ...],
    name: str,
    label: str,
    classes: Mapping[str, int],
    group: str | None = None,
    without: str | None = None,
) -> list[ClassImage]:
    """The images below ``root`` that ``table`` lists.

    A file that is there twice, under one name and with one size, counts once.

    Args:
        root: searched with its folders; hidden files and folders are passed over.
        table: a CSV file.
        suffixes: of the image files, in small letters.
        name: column of the file names without suffix.
        label: column of the classes.
        classes: what the column ``label`` may hold, and the number of that class.
        group: column of what images of one part share; ``None``: every image is its own group.
        without: folders whose name starts so are passed over.

    Raises:
        DataError: a column is missing, or everything that does not fit between table and files.
    """
    columns = [name, label] + ([group] if group else [])
    rows = read_table(table, columns)
    problems: list[str] = []
    files = find_files(root, suffixes, without, problems)
    listed = Counter(row[name] for row in rows)

    def report(problem: str, cases: Sequence[str]) -> None:
        if cases:
            shown = [*cases[:_SHOWN], *["..."] * (len(cases) > _SHOWN)]
            problems.append(f"{len(cases)} {problem}: {', '.join(shown)}")

    report(f"{name} listed more than once", sorted(key for key, count in listed.items() if count > 1))
    missing = sorted(listed.keys() - files.keys())
    report(f"of {len(listed)} listed images not found (is the download complete, is all of it unpacked?)", missing)
    report(f"images not listed in {table.name}", [str(files[key]) for key in sorted(files.keys() - listed.keys())])
    unknown = sorted(f"{row[name]} {row[label]!r}" for row in rows if row[label] not in classes)
    report(f"rows with a {label} that is none of {', '.join(classes)}", unknown)
    if group:
        report(f"rows without {group}", sorted(row[name] for row in rows if not row[group]))
    if problems:
        raise DataError(f"images in '{root}' and {table.name} do not fit:\n" + "\n".join(problems))
    return [
        ClassImage(row[name], files[row[name]], classes[row[label]], row[group] if group else row[name]) for row in rows
    ]


def read_table(table: Path, columns: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a CSV file, these columns alone.

    Raises:
        DataError: a column is missing, the file is not UTF-8, or no table.
    """
    # Spreadsheet programs put a byte order mark in front.
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.") from None
    with io.StringIO(text, newline="") as file:
        try:
            reader = csv.DictReader(file, delimiter=delimiter)
            found = [column.strip() for column in reader.fieldnames or []]
            reader.fieldnames = found
            if lacking := [column for column in columns if column not in found]:
                between = ", " if delimiter == "," else delimiter
                has, expected = (between.join(names)[:_LINE] or "none" for names in (found, columns))
                raise DataError(f"{table} has no column {', '.join(lacking)}; expected {expected}, got {has}.")
            return [{column: (row[column] or "").strip() for column in columns} for row in reader]
        except csv.Error as error:
            raise DataError(f"{table} is no table, at or behind its line {reader.line_num + 1}: {error}.") from None


def find_files(root: Path, suffixes: tuple[str, ...], without: str | None, problems: list[str]) -> dict[str, Path]:
    """Files by name without suffix; two under one name that differ in size go to ``problems``."""
    files: dict[str, Path] = {}
    walked = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if (place := os.path.realpath(folder)) in walked:  # a link back, or to a folder that is there already
            subfolders.clear()
            continue
        walked.add(place)
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith(".") and not (without and name.startswith(without))
        )
        for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            if path.suffix.lower() not in suffixes:
                continue
            first = files.setdefault(path.stem, path)
            if first is not path and first.stat().st_size != path.stat().st_size:
                problems.append(f"two images of one name: {first} and {path}")
    return files
