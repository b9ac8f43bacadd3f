"""Cases that cannot be read while a network trains: the run stops and names them, or goes on without."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from monai.data.dataset import CacheDataset
from monai.transforms.io.array import LoadImage

from monai_kd._files import write_whole
from monai_kd._processes import processes
from monai_kd.data.checks import Case, DataError, read_pixels, why_unreadable

__all__ = ["ReadableDataset", "UnreadableCases", "UnreadableError"]

_SHOWN = 200


class UnreadableError(DataError):
    """A case that cannot be read, by its index, its file and the reason."""


class UnreadableCases:
    """What becomes of training cases that cannot be read, and which these are.

    With "stop", the first one ends the training. With "skip", the next case of the list that has the same keys (is
    labelled too, say) takes its place: the length of an epoch and the places of all others stay, so that a stopped run
    goes on exactly as long as the same files are unreadable. Each time its turn comes the case is tried again, but for
    those that the check at the start has found. More than a share of the training cases stops the run even so.

    A case is known by its files; of one that is listed twice and has no other fault the first stays.

    One object serves all data sets of a training: those of processes that load data tell it in files of a temporary
    folder. :class:`monai_kd.handlers.SaveSkippedCases` reports them. Validation and test have none, for without one of
    its cases a score is another one.

    Args:
        policy: "stop" or "skip".
        share: of the training cases that may be skipped, one at least.

    Raises:
        ValueError: another policy, or a share outside of 0 to 1.

    Example:
        >>> cases = UnreadableCases("skip")
        >>> cases.leave_out([(Case(0, "a.png", "no such file"), {"image": "a.png"})], total=2)
        >>> cases.readable([{"image": "a.png"}, {"image": "b.png"}])
        [{'image': 'b.png'}]
    """

    def __init__(self, policy: str = "stop", share: float = 0.1) -> None:
        if policy not in ("stop", "skip"):
            raise ValueError(f"on_unreadable must be 'stop' or 'skip', got {policy!r}.")
        if not 0 <= share <= 1:
            raise ValueError(f"share must be from 0 to 1, got {share}.")
        self.policy = policy
        self.share = share
        self._total = 0
        self._left_out: dict[tuple[str, int], Case] = {}  # by files and index
        self._names: dict[str, bool] = {}  # of these: whether the first of the name stays
        self._firsts: dict[int, tuple[Sequence[Any], dict[str, int]]] = {}  # by list: the first index of these
        self._noted: dict[str, Case] = {}
        self._folder = ""
        if policy == "skip":
            self._folder = tempfile.mkdtemp(prefix="monai_kd_skipped_")
            weakref.finalize(self, _remove, self._folder, os.getpid())

    @property
    def skips(self) -> bool:
        """Whether training goes on."""
        return self.policy == "skip"

    def count(self, items: Sequence[Any]) -> None:
        """Know of a data set; a share is one of the largest unless :meth:`leave_out` says more."""
        self._total = max(self._total, len(items))

    def leave_out(self, cases: Iterable[tuple[Case, Any]], total: int, good: Iterable[Any] = ()) -> None:
        """Never read these.

        All processes call it, or :meth:`hear`; what the first one gives counts.

        Args:
            cases: what a check found wrong, with its item.
            total: number of training items.
            good: items without a fault; where a bad one has the same files, it is listed twice.

        Raises:
            UnreadableError: too many of them, or one that has no file to be known by.
        """
        found: dict[tuple[str, int], Case] = {}
        for case, item in cases:
            found.setdefault((_identity(item), case.index), case)
        if nameless := [case for (name, _), case in found.items() if not name]:
            raise UnreadableError(f"items without a file cannot be left out, mend the list:\n{_lines(nameless)}")
        whole = {_identity(item) for item in good} if found else set()
        names = {name: name in whole for name, _ in found}
        if processes() > 1:
            told = [found, names, total]
            dist.broadcast_object_list(told, src=0)
            found, names, total = told  # type: ignore[assignment]
        self._total = max(self._total, total)
        self._left_out |= found
        self._names |= names
        self._firsts.clear()
        self._check_number(len(self._left_out), self.found)

    def hear(self) -> None:
        """Know of what the first process leaves out."""
        if self.skips:
            self.leave_out([], 0)

    def leaves_out(self, items: Sequence[Any], index: int) -> bool:
        """Whether the check at the start has found this item of a list."""
        first_stays = self._names.get(name := _identity(items[index])) if self._names else None
        return self._first(items).get(name, index) < index if first_stays else first_stays is not None

    def readable(self, items: Sequence[Any]) -> list[Any]:
        """Those that are not left out."""
        return [item for index, item in enumerate(items) if not self.leaves_out(items, index)]

    def note(self, case: Case, item: Any) -> None:
        """Take down that a case could not be read; from any process that loads data.

        Raises:
            UnreadableError: with this one there are too many.
        """
        path = Path(self._folder, f"{_identity(item) or _hash(case.path)}.json")
        if not path.exists():
            write_whole(path, json.dumps(vars(case)))
        self._check_number(len(self._left_out) + sum(1 for _ in self._notes()), self.found)

    def found(self) -> list[Case]:
        """The cases that were skipped so far, those left out at the start first; each by index."""
        for name in self._notes():
            if name not in self._noted:
                self._noted[name] = Case(**json.loads(Path(self._folder, name).read_text(encoding="utf-8")))
        first = sorted(self._left_out.values(), key=lambda case: case.index)
        return first + sorted(self._noted.values(), key=lambda case: case.index)

    def check(self, cases: Sequence[Case]) -> None:
        """Whether these, those that all processes have found, are still few enough.

        Raises:
            UnreadableError: too many of them.
        """
        left_out = set(self._left_out.values())
        number = len(left_out) + len({case.path for case in cases if case not in left_out})
        self._check_number(number, lambda: list(dict.fromkeys(cases)))

    def _first(self, items: Sequence[Any]) -> dict[str, int]:
        """Where in a list each of the names left out is first."""
        known, first = self._firsts.get(id(items), (None, {}))
        if known is not items:
            first = {}
            for index, item in enumerate(items):
                if (name := _identity(item)) in self._names:
                    first.setdefault(name, index)
            self._firsts[id(items)] = items, first
        return first

    def _notes(self) -> Iterator[str]:
        return (name for name in os.listdir(self._folder) if name.endswith(".json")) if self._folder else iter(())

    def _check_number(self, number: int, cases: Callable[[], Sequence[Case]]) -> None:
        if number > max(1, math.floor(self.share * self._total)):
            raise UnreadableError(
                f"{number} of {self._total} training cases cannot be used, more than the {self.share:.0%} that may be "
                f"skipped:\n{_lines(cases())}\nSee whether the data are where they were; then go on with resume."
            )


class ReadableDataset(CacheDataset):
    """MONAI's ``CacheDataset`` that names the case it cannot read, and goes on without it where it may.

    What ``LoadImaged`` cannot read is meant; errors of other transforms pass as they are.

    Args:
        data, transform, kwargs: of ``CacheDataset``; ``cache_rate=0`` keeps nothing in memory.
        unreadable: what becomes of cases that cannot be read; ``None`` stops, for validation and test.

    Raises:
        UnreadableError: a case cannot be read and may not be skipped; when it is cached, or when its turn comes.

    Example:
        >>> from monai.transforms import LoadImaged
        >>> ReadableDataset([{"image": "nowhere.png"}], LoadImaged("image"), progress=False)
        Traceback (most recent call last):
        monai_kd.data.readable.UnreadableError: item 0: nowhere.png: image: no such file. Mend the file.
    """

    def __init__(
        self,
        data: Sequence[Any],
        transform: Sequence[Callable[..., Any]] | Callable[..., Any] | None = None,
        unreadable: UnreadableCases | None = None,
        **kwargs: Any,
    ) -> None:
        self.unreadable = unreadable
        if unreadable is not None:
            unreadable.count(data)
        super().__init__(data, transform, **kwargs)

    def _load_cache_item(self, idx: int) -> Any:
        return read_case(self.data, idx, super()._load_cache_item, self.unreadable)

    def _transform(self, index: int) -> Any:
        return read_case(self.data, index, super()._transform, self.unreadable)


def read_case(data: Sequence[Any], index: int, read: Callable[[int], Any], unreadable: UnreadableCases | None) -> Any:
    """``read(index)``, or of the case that takes its place.

    Raises:
        UnreadableError: it cannot be read and may not be skipped, or none is left.
    """
    skips = unreadable is not None and unreadable.skips
    for candidate in _substitutes(data, index) if skips else (index,):
        if unreadable is not None and unreadable.leaves_out(data, candidate):
            continue
        try:
            return read(candidate)
        except UnreadableError:
            raise  # of the same case in the cache
        except Exception as error:
            case = _unreadable(data, candidate, error)
            if case is None:
                raise
            if unreadable is None or not skips:
                advice = "Mend the file" + (
                    ", then go on with resume; or train without such cases: on_unreadable 'skip'" if unreadable else ""
                )
                raise UnreadableError(f"{case}. {advice}.") from error
            unreadable.note(case, data[candidate])
    raise UnreadableError(f"no case can be read in the place of item {index}, none that has its keys.")


def _substitutes(data: Sequence[Any], index: int) -> Iterator[int]:
    """A case and those behind it, in a circle, that have the same keys."""
    keys = set(data[index]) if isinstance(data[index], Mapping) else None
    for step in range(len(data)):
        other = (index + step) % len(data)
        if keys is None or set(data[other]) == keys:
            yield other


def _unreadable(data: Sequence[Any], index: int, error: BaseException) -> Case | None:
    """The case, if it was ``LoadImage`` that failed."""
    path = _file_of(error)
    if path is None:
        return None
    item = data[index] if isinstance(data[index], Mapping) else {}
    key = next((f"{key}: " for key, value in item.items() if path in map(str, _files(value))), "")
    return Case(index, path, key + _reason(path, error))


def _file_of(error: BaseException) -> str | None:
    """What ``LoadImage`` was reading when the error was raised."""
    current: BaseException | None = error
    while current is not None:
        trace = current.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code is LoadImage.__call__.__code__:
                name = trace.tb_frame.f_locals["filename"]
                names = _files(name)
                return str(next((one for one in names if not os.path.exists(one)), names[0]))
            trace = trace.tb_next
        current = current.__cause__ or current.__context__
    return None


def _reason(path: str, error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if "cannot find a suitable reader" in str(error):  # which of MONAI's readers said what is lost
        try:
            read_pixels(path)
        except Exception as found:
            error = found
    reason = why_unreadable(path, error if isinstance(error, Exception) else RuntimeError(str(error)))
    return reason.strip().splitlines()[0][:_SHOWN]


def _identity(item: Any) -> str:
    """Of an item: its files."""
    values = item.items() if isinstance(item, Mapping) else [("", item)]
    files = sorted((str(key), str(file)) for key, value in values for file in _files(value))
    return _hash(repr(files)) if files else ""


def _files(value: Any) -> list[str | os.PathLike[str]]:
    """Names in a value of an item, which may be a list of them."""
    if isinstance(value, list | tuple):
        return [file for one in value for file in _files(one)]
    return [value] if isinstance(value, str | os.PathLike) else []


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _lines(cases: Sequence[Case]) -> str:
    more = [f"and {len(cases) - 20} more"] if len(cases) > 20 else []
    return "\n".join([*map(str, cases[:20]), *more])


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # one that loads data has a copy of the object
        shutil.rmtree(folder, ignore_errors=True)
