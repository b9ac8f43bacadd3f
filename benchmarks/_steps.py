"""What the benchmarks of training steps share: their options, and steps timed in turn."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable


def options_of(description: str | None, size: int, batch: int, sizes: str = "in pixels") -> argparse.Namespace:
    """What is given on the command line.

    Args:
        description: of the benchmark.
        size: image side where none is given.
        batch: images a step where none are given.
        sizes: which sides there can be.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=size, help=f"image side, {sizes} (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=batch, help="images a step (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    return parser.parse_args()


def compare(steps: dict[str, Callable[[], None]], options: argparse.Namespace) -> None:
    """Print a table of the steps "student", "bound", "ours" and "released"."""
    medians = side_by_side(steps, options.rounds)
    print(
        f"\n{options.batch} x 3 x {options.size}^2, {options.threads} thread(s), medians of {options.rounds} rounds\n"
    )
    print("| step | seconds | / student | / bound |\n| --- | ---: | ---: | ---: |")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds:.3f} | {seconds / medians['student']:.2f} | {seconds / medians['bound']:.3f} |")
    print(f"\nreleased / ours: {medians['released'] / medians['ours']:.2f}")


def side_by_side(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each step, run in turn so that a busy machine slows all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}
