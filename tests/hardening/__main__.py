"""Bring every bad input to every door, keep what became of it, and write the page anew."""

from __future__ import annotations

import argparse
import sys

from .corpus import corpus, expected, jobs
from .outcome import Outcome
from .page import PAGE, Results, page, read_results, write_results
from .running import Job, run_all


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.hardening", description=__doc__)
    parser.add_argument("--page", action="store_true", help="write the page of the stored results alone")
    parser.add_argument("--processes", type=int, default=2, help="that work at a time (default: %(default)s)")
    options = parser.parse_args()
    if not options.page:
        found = run_all(jobs(), options.processes)
        wrong = surprises(found)
        print("\n".join(wrong) or "all as expected")
        if wrong:
            return 1
        write_results(as_results(found))
    PAGE.write_text(page(read_results()), encoding="utf-8")
    print(f"{PAGE} says what became of them.")
    return 0


def as_results(found: dict[Job, Outcome]) -> Results:
    """A word by kind, input and door."""
    results: Results = {}
    for (key, door), outcome in found.items():
        one = corpus()[key]
        results.setdefault(one.kind, {}).setdefault(one.name, {})[door] = outcome.word
    return results


def surprises(found: dict[Job, Outcome]) -> list[str]:
    """What is not as expected, a line each."""
    return [
        ascii(f"{outcome.word}, expected {word}: {key} at {door}: {outcome.said[-600:]}")
        for (key, door), outcome in found.items()
        if outcome.word != (word := expected(corpus()[key], door))
    ]


if __name__ == "__main__":
    sys.exit(main())
