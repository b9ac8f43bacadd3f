"""Cases that a training went on without, in its log and in a file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch.distributed as dist
from ignite.engine import Engine, Events

from monai_kd._files import remove_leftovers, write_whole
from monai_kd._processes import processes, rank
from monai_kd._tables import as_text
from monai_kd.data.checks import Case
from monai_kd.data.readable import UnreadableCases

__all__ = ["SaveSkippedCases"]

_COLUMNS = ("epoch", "index", "path", "problem")


class SaveSkippedCases:
    """Warns once of each training case that cannot be read, and writes a CSV file with a row for each.

    Columns are ``epoch`` (the first without it; 0 where the check at the start has found it), ``index`` in the list
    that was read, ``path`` and ``problem``. The file is written whole, by the first process, whenever there is a new
    case; those of other processes are known at the end of an epoch, when too many of all processes stop the run, as too
    many of one do at once. No file is there as long as nothing was skipped, and a resumed run goes on with its rows.
    Where cases are not skipped, nothing is done.

    Args:
        unreadable: as the training's data sets have it.
        path: of the CSV file; its folder is made if it does not exist.

    Raises:
        UnreadableError: at the end of an epoch, more cases than may be skipped.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from monai.engines import SupervisedTrainer
        >>> unreadable = UnreadableCases("skip")
        >>> unreadable.leave_out([(Case(7, "a.png", "no such file"), {"image": "a.png"})], total=10)
        >>> network = torch.nn.Linear(2, 1)
        >>> batch = {"image": torch.ones(1, 2), "label": torch.ones(1, 1)}
        >>> with TemporaryDirectory() as folder:
        ...     skipped = SaveSkippedCases(unreadable, f"{folder}/skipped.csv")
        ...     optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        ...     trainer = SupervisedTrainer("cpu", 1, [batch], network, optimizer, torch.nn.MSELoss(),
        ...         train_handlers=[skipped])
        ...     trainer.logger.disabled = True
        ...     trainer.run()
        ...     print(Path(f"{folder}/skipped.csv").read_text(encoding="utf-8"), end="")
        epoch,index,path,problem
        0,7,a.png,no such file
    """

    def __init__(self, unreadable: UnreadableCases, path: str | Path) -> None:
        self.unreadable = unreadable
        self.path = Path(path)
        self._rows: list[dict[str, str]] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self._begin)
        if self.unreadable.skips:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._look)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._gather)

    def _begin(self, engine: Engine) -> None:
        if rank() != 0:
            return
        self._rows = []
        remove_leftovers(self.path)
        if engine.state.epoch > 0 and self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                self._rows = list(csv.DictReader(file))
        else:
            self.path.unlink(missing_ok=True)  # of an earlier run
        self._take(engine, self.unreadable.found(), epoch=0)

    def _look(self, engine: Engine) -> None:
        if rank() == 0:
            self._take(engine, self.unreadable.found(), engine.state.epoch)

    def _gather(self, engine: Engine) -> None:
        own = self.unreadable.found()
        every: list[list[Case]] = [own] * processes()
        if processes() > 1:
            dist.all_gather_object(every, own)
        cases = [case for found in every for case in found]
        if rank() == 0:
            self._take(engine, cases, engine.state.epoch)
        self.unreadable.check(cases)  # in every process, that none waits for the others

    def _take(self, engine: Engine, cases: list[Case], epoch: int) -> None:
        known = {row["path"] for row in self._rows}  # a check has numbers of its own
        new = {case.path: case for case in reversed(cases) if as_text(case.path) not in known}
        for case in reversed(new.values()):
            engine.logger.warning(f"skipped: {case}. Another case takes its place.")
            row = (str(epoch), str(case.index), as_text(case.path), as_text(case.problem))
            self._rows.append(dict(zip(_COLUMNS, row)))
        if new:
            text = io.StringIO()
            writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, text.getvalue())
