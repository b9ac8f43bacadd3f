"""The predicted class of every image of a run, in one CSV file."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import decollate_batch
from monai.utils.dist import evenly_divisible_all_gather, string_list_all_gather
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from monai_kd._files import write_whole
from monai_kd._processes import processes, rank
from monai_kd._tables import as_text
from monai_kd.metrics.classification import as_index, as_row, check_probabilities

__all__ = ["SavePredictions"]

_NO_LABEL = -1


class SavePredictions:
    """Writes a CSV file with the predicted class and the probabilities of every image, when a run has seen them all.

    One row an image, in the order of the data: ``image``, ``class``, ``label`` (the true class, when the data has
    labels; empty for images without), and one column of probabilities a class, named after it. Images that come twice
    are numbered: ``a.jpg``, ``a.jpg#2``. Several processes gather theirs, and a file that several of them saw (samplers
    repeat images to give every process as many) has one row; their data is what a ``DistributedSampler`` without
    shuffling hands out. An interrupted run leaves no file, or the file of the run before.

    An image's name that a spreadsheet would run as a formula (it starts with ``=``, ``+``, ``-``, ``@`` or a control
    character) is written behind an apostrophe, which spreadsheets take as "this is text". Images without a file name
    are called ``unnamed_<process>_<number>``.

    Args:
        path: of the CSV file; its folder is made if it does not exist.
        class_names: one a class, in the order of the class indices.
        root: a folder that images are named relative to; those outside keep their full name.
        pred_key: of the probabilities in the evaluator's output, where its predictions are something else.
        label_key: of the class indices there.

    Raises:
        ValueError: class names that are not at least two different ones, or one of the other columns' names.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from monai.engines import SupervisedEvaluator
        >>> batch = {"image": torch.tensor([[0.75, 0.25], [0.5, 0.5]]), "label": torch.tensor([0, 1])}
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "predictions.csv"
        ...     save = SavePredictions(path, ["benign", "malignant"])
        ...     SupervisedEvaluator("cpu", [batch], nn.Identity(), val_handlers=[save]).run()
        ...     print(path.read_text(encoding="utf-8"))
        image,class,label,benign,malignant
        unnamed_0_00000,benign,benign,0.75,0.25
        unnamed_0_00001,benign,malignant,0.5,0.5
        <BLANKLINE>
    """

    # MONAI's ClassificationSaver cannot serve: it writes neither header, quotes, class names nor labels, deletes the
    # old file before it writes, sorts images by process and keeps the last of equally named ones.

    def __init__(
        self,
        path: str | Path,
        class_names: Sequence[str],
        root: str | Path | None = None,
        pred_key: str = Keys.PRED,
        label_key: str = Keys.LABEL,
    ) -> None:
        columns = ["image", "class", "label", *class_names]
        if isinstance(class_names, str) or len(class_names) < 2 or len(set(columns)) != len(columns):
            raise ValueError(
                f"class_names must be two or more different names, none of them {', '.join(columns[:3])}; got "
                f"{class_names!r}."
            )
        self.path = Path(path)
        self.class_names = tuple(class_names)
        self.root = root
        self.pred_key = pred_key
        self.label_key = label_key
        self._names: list[str] = []
        self._rows: list[Tensor] = []
        self._labels: list[Tensor] = []

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _reset(self) -> None:
        self._names, self._rows, self._labels = [], [], []

    def _collect(self, engine: Engine) -> None:
        for item in output_items(engine):
            label = item.get(self.label_key)
            self._names.append(image_file(item) or f"unnamed_{rank()}_{len(self._rows):05}")
            self._rows.append(as_row(item[self.pred_key], self.class_names))
            self._labels.append(torch.tensor(_NO_LABEL) if label is None else as_index(label))

    def _write(self) -> None:
        width = len(self.class_names)
        local = torch.empty(0, width + 2, dtype=torch.float64)
        if self._rows:
            probabilities, labels = torch.stack(self._rows).cpu().double(), _on_host(self._labels)
            order = torch.arange(len(labels)) * processes() + rank()
            local = torch.cat([order[:, None], labels[:, None], probabilities], dim=1)
        rows = evenly_divisible_all_gather(local, concat=True).cpu().numpy()
        # A process without images sends one empty name.
        names = [name for name in string_list_all_gather(self._names, delimiter="\0") if name]
        places = np.argsort(rows[:, 0], kind="stable").tolist()
        if processes() > 1:
            first: dict[str, int] = {}
            for place in places:
                first.setdefault(names[place], place)
            places = list(first.values())
        names, rows = [names[place] for place in places], rows[places]
        probabilities, labels = rows[:, 2:], rows[:, 1]
        check_probabilities(probabilities, self.class_names, names)
        self._check_labels(labels, names)
        if rank() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, self._table(names, probabilities.tolist(), labels.astype(int).tolist()))

    def _table(self, names: list[str], probabilities: list[list[float]], labels: list[int]) -> str:
        labelled = any(label != _NO_LABEL for label in labels)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", "class", *(["label"] if labelled else []), *self.class_names])
        names = numbered([as_text(_below(name, self.root)) for name in names])
        for name, row, label in zip(names, probabilities, labels):
            true = [self.class_names[label] if label != _NO_LABEL else ""] if labelled else []
            predicted = self.class_names[int(np.argmax(row))]
            writer.writerow([name, predicted, *true, *(f"{value:.6g}" for value in row)])
        return text.getvalue()

    def _check_labels(self, labels: np.ndarray[Any, Any], names: list[str]) -> None:
        bad = np.flatnonzero(~np.isin(labels, np.arange(_NO_LABEL, len(self.class_names))))
        if len(bad):
            raise ValueError(
                f"labels must be class indices from 0 to {len(self.class_names) - 1} ({', '.join(self.class_names)}); "
                f"'{names[bad[0]]}' has {labels[bad[0]]:g}."
            )


def output_items(engine: Engine) -> list[Mapping[str, Any]]:
    """The items of the engine's last batch, also where the engine does not decollate."""
    output = engine.state.output
    return output if isinstance(output, list) else decollate_batch(output)


def image_file(item: Mapping[str, Any]) -> str:
    """The file that an item's image was read from, or an empty string."""
    for key in (Keys.IMAGE, Keys.PRED):
        image = item.get(key)
        if isinstance(image, MetaTensor) and (name := image.meta.get("filename_or_obj")):
            return str(name)
    return ""


def numbered(names: Sequence[str]) -> list[str]:
    """Every name once: the second ``a`` is ``a#2``.

    Example:
        >>> numbered(["a", "b", "a"])
        ['a', 'b', 'a#2']
    """
    seen: Counter[str] = Counter()
    different = []
    for name in names:
        seen[name] += 1
        different.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return different


def _on_host(labels: list[Tensor]) -> Tensor:
    """All labels at once, where they are on one device; those missing are on the host."""
    if len({label.device for label in labels}) > 1:
        labels = [label.cpu() for label in labels]
    return torch.stack(labels).cpu().double()


def _below(name: str, root: str | Path | None) -> str:
    path = Path(os.path.abspath(name))
    folder = None if root is None else Path(os.path.abspath(root))
    return path.relative_to(folder).as_posix() if folder is not None and path.is_relative_to(folder) else name
