"""All bad inputs, and what is expected of them."""

from __future__ import annotations

from collections import Counter
from functools import cache

from . import checkpoints, configurations, exports, labels, lists, pictures, records, volumes, words
from .doors import doors_of
from .inputs import Input
from .outcome import HANDLED, REFUSED

ROOMS = (pictures, volumes, labels, lists, checkpoints, configurations, exports, records, words)


@cache
def corpus() -> dict[str, Input]:
    """The inputs by their keys, in the order of the files that make them."""
    every = [one for room in ROOMS for one in room.inputs()]
    twice = [key for key, count in Counter(one.key for one in every).items() if count > 1]
    if twice:
        raise ValueError(f"inputs of one name: {twice}")
    return {one.key: one for one in every}


def expected(one: Input, door: str) -> str:
    """What must become of an input at a door."""
    return HANDLED if door in one.handled else REFUSED


def jobs() -> list[tuple[str, str]]:
    """Every input with every door that it is brought to."""
    return [(key, door) for key, one in corpus().items() for door in doors_of(one)]


def some_jobs(every: int = 3) -> list[tuple[str, str]]:
    """Every third input with one door, each door in its turn."""
    turns: Counter[str] = Counter()
    found = []
    for key, one in list(corpus().items())[::every]:
        doors = doors_of(one)
        found.append((key, doors[turns[one.kind] % len(doors)]))
        turns[one.kind] += 1
    return found
