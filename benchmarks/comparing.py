"""Forms of one computation, run in turn, their times and what they say of each other."""

from __future__ import annotations

import gc
import math
import resource
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Step = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """Forms to be compared.

    Attributes:
        name: of the case, such as the size of its input.
        forms: functions that prepare a form and return its step. What a step returns is kept: a loss, or the seconds of
            its stages.
        rounds: of the forms in turn, after one that does not count.
        once: forms too slow for that, run a single time.
        memory: measure each form's largest memory too, in a process of its own.
        timed: ``False`` for cases of which memory alone is asked.
    """

    name: str
    forms: Mapping[str, Callable[[], Step]]
    rounds: int = 7
    once: tuple[str, ...] = ()
    memory: bool = True
    timed: bool = True


@dataclass
class Form:
    """What was measured of a form: CPU seconds and the value of each round, and megabytes."""

    seconds: list[float] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    megabytes: float | None = None


@dataclass(frozen=True)
class Ratio:
    """A ratio of two forms over the rounds: median and quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return figure(self.median)
        return f"{figure(self.median)} ({figure(self.low)} to {figure(self.high)})"


Found = dict[str, dict[str, Form]]


@dataclass(frozen=True)
class Bar:
    """One measured figure beside its limit.

    Attributes:
        bar: "P1" to "P15".
        what: was measured.
        measured: the figure; a text where there is none.
        limit: that it must reach.
        most: whether the limit is the most allowed, not the least.
        note: what to know of it.
    """

    bar: str
    what: str
    measured: Ratio | float | str
    limit: float
    most: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is reached; ``None`` where nothing was measured."""
        if isinstance(self.measured, str):
            return None
        value = self.measured.median if isinstance(self.measured, Ratio) else self.measured
        return bool(value <= self.limit if self.most else value >= self.limit)

    def as_json(self) -> dict[str, Any]:
        return {
            "bar": self.bar,
            "what": self.what,
            "measured": figure(self.measured) if isinstance(self.measured, float) else str(self.measured),
            "limit": f"{'at most' if self.most else 'at least'} {self.limit:g}",
            "met": self.met,
            "note": self.note,
        }


def measure(case: Case) -> dict[str, Form]:
    """Run the forms of a case in turn, so that a busy machine slows all of them alike."""
    found = {name: Form() for name in case.forms}
    if not case.timed:
        return found
    steps = {name: prepare() for name, prepare in case.forms.items()}
    for turn in range(case.rounds + 1):
        for name, step in steps.items():
            if name in case.once and turn != 1:
                continue
            gc.collect()
            start = cpu_seconds()
            value = step()
            seconds = cpu_seconds() - start
            if turn:
                found[name].seconds.append(seconds)
                found[name].values.append(value)
    return found


def cpu_seconds() -> float:
    """Of this process with all its threads, and of the processes it has waited for."""
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def ratio(forms: Mapping[str, Form], above: str, below: str) -> Ratio:
    """How often the time of one form is that of another, round by round where both have all rounds."""
    a, b = forms[above].seconds, forms[below].seconds
    if len(a) != len(b):
        value = statistics.median(a) / statistics.median(b)
        return Ratio(value, value, value)
    ratios = [x / y for x, y in zip(a, b)]
    low, middle, high = quartiles(ratios)
    return Ratio(middle, low, high)


def slope(forms: Mapping[str, Form], sizes: Mapping[str, float]) -> float:
    """The exponent of the time's growth with a size, fitted to the medians: 1 is linear."""
    points = [(math.log(size), math.log(statistics.median(forms[name].seconds))) for name, size in sizes.items()]
    mean_x, mean_y = (statistics.fmean(values) for values in zip(*points))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def memory_ratio(forms: Mapping[str, Form], above: str, below: str) -> float | str:
    """How often the memory of one form is that of another; a text where it was not measured."""
    a, b = forms[above].megabytes, forms[below].megabytes
    if a is None or b is None:
        return "memory not measured"
    return a / max(b, 0.1)  # a tenth of a megabyte is below what can be told


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def typical(values: list[Any]) -> Any:
    """What the first round gave; of what has parts, such as the seconds of stages, the median of each."""
    if values and isinstance(values[0], dict):
        return {key: statistics.median(value[key] for value in values) for key in values[0]}
    return values[0] if values else None


def figure(value: float) -> str:
    """With three digits that count."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def values_agree(forms: Mapping[str, Form], first: str, second: str) -> float:
    """The relative difference of the values that two forms gave in their first round."""
    a, b = forms[first].values[0], forms[second].values[0]
    return abs(a - b) / max(abs(a), abs(b), 1e-30)
