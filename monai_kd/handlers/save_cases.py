"""The scores of every case of an evaluation, in one CSV file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys
from numpy.typing import NDArray
from torch import Tensor

from monai_kd._processes import rank
from monai_kd.handlers.predictions import numbered, output_items
from monai_kd.metrics._cases import case_name, gather_names, mean_of_known, sort_cases, write_cases

__all__ = ["SaveCases"]

Array = NDArray[np.float64]
_LOGGER = logging.getLogger(__name__)


class SaveCases:
    """Writes a CSV file with what every metric of MONAI says of every case, when an evaluation has seen them all.

    One row a case, sorted by name (folder and file of its label, or else of its image; files that come twice are
    numbered): ``case``, one column a metric, its mean over the classes that the case has, and of the Dice metric a
    column ``Dice_<class>`` a class. An empty cell is a score that the case has not. Beside the file ``*_summary.csv``
    has mean, median and number of cases. Means of the classes go to ``engine.state.metrics`` as ``Dice_<class>`` too.

    Metrics are those with ``save_details`` and one number a case and class (``MeanDice``, ``MeanIoUHandler``,
    ``SurfaceDistance``, ...), in 2D and 3D; those of ``monai_kd.metrics`` have a ``cases_path`` of their own. Several
    processes gather theirs, and a file that several of them saw counts once.

    Args:
        path: of the CSV file; its folder is made if it does not exist.
        class_names: of the network's outputs, in their order; where the Dice has one class fewer, the first of them
            (the background) is left out.
        dice: name of the Dice metric; the first one with "dice" in its name if ``None``.

    Raises:
        ValueError: no class names, or not different ones.

    Example:
        >>> import torch
        >>> from tempfile import TemporaryDirectory
        >>> from monai.engines import SupervisedEvaluator
        >>> from monai.handlers import MeanDice, from_engine
        >>> label = torch.zeros(1, 2, 8, 8)
        >>> label[:, 0], label[:, 1, 2:6, 2:6] = 1 - label[:, 1], 1
        >>> dice = MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))
        >>> batch = {"image": label, "label": label}
        >>> with TemporaryDirectory() as folder:
        ...     save = SaveCases(f"{folder}/cases.csv", ["background", "polyp"])
        ...     network = torch.nn.Identity()
        ...     SupervisedEvaluator(
        ...         "cpu", [batch], network, key_val_metric={"val_dice": dice}, val_handlers=[save]
        ...     ).run()
        ...     print(Path(f"{folder}/cases.csv").read_text(encoding="utf-8"))
        case,val_dice,Dice_polyp
        unnamed_0_00000,1,1
        <BLANKLINE>
    """

    # MONAI's MetricsSaver cannot serve: it writes a file a metric, with full paths and classes by number.

    def __init__(self, path: str | Path, class_names: Sequence[str], dice: str | None = None) -> None:
        if isinstance(class_names, str) or not class_names or len(set(class_names)) != len(class_names):
            raise ValueError(f"class_names must be one or more different names, got {class_names!r}.")
        self.path = Path(path)
        self.class_names = tuple(class_names)
        self.dice = dice
        self._names: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _reset(self) -> None:
        self._names = []

    def _collect(self, engine: Engine) -> None:
        for item in output_items(engine):
            images = (item.get(key) for key in (Keys.LABEL, Keys.IMAGE, Keys.PRED))
            self._names.append(case_name(len(self._names), *images))

    def _write(self, engine: Engine) -> None:
        found = gather_names(self._names)
        details = {
            name: _by_class(value, len(found)) for name, value in vars(engine.state).get("metric_details", {}).items()
        }
        known = {name: values for name, values in details.items() if values is not None}
        if not known:
            _LOGGER.warning(f"no metric keeps scores of single cases (save_details), so '{self.path}' is not written.")
            return
        columns = {name: np.array([mean_of_known(row) for row in values]) for name, values in known.items()}
        classes = self._classes(known)
        names, rows = sort_cases(found, np.stack([*columns.values(), *classes.values()], axis=1))
        for name, column in zip(classes, rows.T[len(columns) :]):
            engine.state.metrics[name] = mean_of_known(column)
        if rank() == 0:
            write_cases(self.path, numbered(names), [*columns, *classes], rows)

    def _classes(self, known: dict[str, Array]) -> dict[str, Array]:
        """Columns of the Dice of each class."""
        name = self.dice or next((name for name in known if "dice" in name.lower()), "")
        if name not in known:
            return {}
        values, class_names = known[name], self.class_names
        if values.shape[1] == len(class_names) - 1:
            class_names = class_names[1:]
        if values.shape[1] != len(class_names):
            _LOGGER.warning(
                f"'{name}' has {values.shape[1]} classes, class_names are {', '.join(self.class_names)}; the Dice of "
                "classes is left out."
            )
            return {}
        return {f"Dice_{one}": column for one, column in zip(class_names, values.T)}


def _by_class(details: Any, cases: int) -> Array | None:
    """Shape (cases, classes), NaN for what is not finite; ``None`` for what is not a number a case and class."""
    if not isinstance(details, Tensor):
        return None
    values = details.detach().as_subclass(Tensor).cpu().double().numpy()
    values = values[:, None] if values.ndim == 1 else values
    fits = values.ndim == 2 and len(values) == cases > 0
    return np.where(np.isfinite(values), values, np.nan) if fits else None
