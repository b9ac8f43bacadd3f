"""Cases of an evaluation: their names, gathered from all processes, and tables of their scores."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.utils.dist import evenly_divisible_all_gather, string_list_all_gather
from numpy.typing import NDArray
from torch import Tensor

from monai_kd._files import write_whole
from monai_kd._processes import processes, rank
from monai_kd._tables import as_text

Array = NDArray[np.float64]


def case_name(number: int, *images: object) -> str:
    """The file that the first of ``images`` with one was read from, or a name by process and number."""
    return next((name for name in map(case_file, images) if name), f"unnamed_{rank()}_{number:05}")


def case_file(image: object) -> str:
    """The file that an image was read from, or an empty string."""
    return str(image.meta.get("filename_or_obj", "")) if isinstance(image, MetaTensor) else ""


def gather_cases(names: Sequence[str], rows: Sequence[Tensor], width: int) -> tuple[list[str], Array]:
    """Names and rows of the cases of all processes, sorted by name.

    A file that several processes saw counts once. Of a name the folder and the file stay.

    Args:
        names: of this process's cases.
        rows: one a case, shape (width,).
        width: length of a row, for a process without cases.
    """
    local = torch.stack(list(rows)) if rows else torch.empty(0, width, dtype=torch.float64)
    gathered = evenly_divisible_all_gather(local, concat=True).cpu().numpy()
    return sort_cases(gather_names(names), gathered)


def gather_names(names: Sequence[str]) -> list[str]:
    """Names of the cases of all processes, process by process."""
    # A process without cases sends one empty name.
    return [name for name in string_list_all_gather(list(names), delimiter="\0") if name]


def sort_cases(found: list[str], rows: Array) -> tuple[list[str], Array]:
    """Names and rows of all processes by name, each file once where there are several processes.

    Args:
        found: names.
        rows: shape (cases, width), in their order.

    Returns:
        Of a name the folder and the file, and the rows.
    """
    order = sorted(range(len(found)), key=lambda index: found[index])
    if processes() > 1:
        order = [index for place, index in enumerate(order) if not place or found[index] != found[order[place - 1]]]
    return [Path(*Path(found[index]).parts[-2:]).as_posix() for index in order], rows[order]


def write_cases(path: Path, names: list[str], columns: Sequence[str], rows: Array) -> None:
    """One row a case; beside it ``*_summary.csv`` with mean, median and number of cases of every column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = [column[~np.isnan(column)] for column in rows.T]
    summary = {
        "mean": [mean_of_known(column) for column in rows.T],
        "median": [float(np.median(column)) if len(column) else math.nan for column in known],
        "cases": [float(len(column)) for column in known],
    }
    write_table(path, ["case", *columns], names, rows.tolist())
    write_table(path.with_name(f"{path.stem}_summary.csv"), ["over_cases", *columns], summary, summary.values())


def write_table(path: Path, head: list[str], names: Iterable[str], rows: Iterable[list[float]]) -> None:
    """A CSV file, whole or not at all; NaN is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for name, values in zip(names, rows):
        writer.writerow([as_text(name), *("" if math.isnan(value) else f"{value:.10g}" for value in values)])
    write_whole(path, text.getvalue())


def mean_of_known(values: Array) -> float:
    """Mean of what is not NaN; NaN of nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
