"""Every bad input is refused with a message that names it, or handled rightly: at one door each, or at all of them."""

from __future__ import annotations

import pytest

from .__main__ import surprises
from .corpus import corpus, expected, jobs, some_jobs
from .doors import DOORS
from .outcome import FORBIDDEN
from .page import PAGE, page, read_results
from .running import run_all


def test_each_is_refused_or_handled_as_expected():
    assert surprises(run_all(some_jobs())) == []


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", DOORS)
def test_each_at_every_door(kind):
    assert surprises(run_all([job for job in jobs() if corpus()[job[0]].kind == kind])) == []


def test_there_are_enough_of_them():
    assert len(corpus()) >= 300
    assert {one.kind for one in corpus().values()} == set(DOORS)


def test_the_results_are_those_of_this_corpus():
    stored = {
        (f"{kind}: {name}", door): word
        for kind, found in read_results().items()
        for name, doors in found.items()
        for door, word in doors.items()
    }
    assert stored == {(key, door): expected(corpus()[key], door) for key, door in jobs()}
    assert not set(stored.values()) & set(FORBIDDEN)


def test_the_page_is_made_of_the_results():
    assert PAGE.read_text(encoding="utf-8") == page(read_results())
